"""LangChain's conformance suite against a real vLLM, as far as a model of 135 million parameters can pass it."""

from __future__ import annotations

from typing import Any

import pytest
import servers
from langchain_core.language_models import BaseChatModel
from langchain_duet import ChatDuet
from langchain_tests.integration_tests import ChatModelIntegrationTests

from duet_sdk import Budget


class TestRealVllm(ChatModelIntegrationTests):
    server: servers.Server

    @pytest.fixture(autouse=True)
    def _serve(self, plain: servers.Server) -> None:
        type(self).server = plain

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDuet

    @property
    def chat_model_params(self) -> dict[str, Any]:
        budget = Budget(signal_tokens=4, answer_tokens=40)
        return {"reasoner": self.server.model, "generator": self.server.model, "budget": budget, "temperature": 0}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return f"vllm/{self.server.name}"

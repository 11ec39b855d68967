"""LangChain's conformance suite for chat models, against scripted servers."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_duet import ChatDuet
from langchain_tests.integration_tests import ChatModelIntegrationTests
from support.fault_server import FaultServer


class OnServer(ChatModelIntegrationTests):
    url: str

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDuet

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"reasoner": f"vllm/reasoner@{self.url}", "generator": f"vllm/generator@{self.url}"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "vllm/another"


class TestTextServer(OnServer):
    @pytest.fixture(autouse=True)
    def _serve(self, text_server: FaultServer) -> None:
        type(self).url = text_server.url


class TestToolServer(OnServer):
    @pytest.fixture(autouse=True)
    def _serve(self, tool_server: FaultServer) -> None:
        type(self).url = tool_server.url

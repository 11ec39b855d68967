"""The suite for every subject: `pytest conformance/suite.py` runs it, `python -m conformance` counts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import answering
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from support.fault_server import FaultServer, running

from conformance.subjects import SUBJECTS, Subject

SERVERS = {"text": answering.writes, "tools": answering.calls_tools}
_NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, FaultServer]]:
    """A server that writes text and obeys grammars, and one that calls tools, too."""
    models = ("reasoner", "generator", "another")
    with running(SERVERS["text"], models=models) as text, running(SERVERS["tools"], models=models) as tools:
        yield {"text": text, "tools": tools}


def _unit(subject: Subject) -> type[ChatModelUnitTests]:
    class Unit(ChatModelUnitTests):
        @property
        def chat_model_class(self) -> type[BaseChatModel]:
            return subject.chat_model

        @property
        def chat_model_params(self) -> dict[str, Any]:
            return dict(subject.params(_NOWHERE))

        @property
        def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
            return subject.from_env

    return Unit


def _integration(subject: Subject, server: str) -> type[ChatModelIntegrationTests]:
    class Integration(ChatModelIntegrationTests):
        url = _NOWHERE

        @pytest.fixture(autouse=True)
        def _serve(self, servers: dict[str, FaultServer]) -> None:
            type(self).url = servers[server].url

        @property
        def chat_model_class(self) -> type[BaseChatModel]:
            return subject.chat_model

        @property
        def chat_model_params(self) -> dict[str, Any]:
            return dict(subject.params(self.url))

        @property
        def supports_json_mode(self) -> bool:
            return True

        @property
        def supports_anthropic_inputs(self) -> bool:
            return True

        @property
        def model_override_value(self) -> str:
            return subject.another

    return Integration


for _subject in SUBJECTS:
    globals()[f"Test{_subject.class_name}Unit"] = _unit(_subject)
    for _server in SERVERS:
        globals()[f"Test{_subject.class_name}On{_server.title()}"] = _integration(_subject, _server)

"""LangChain's conformance suite against a real vLLM, as far as a model of 135 million parameters can pass it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_duet import ChatDuet
from langchain_tests.integration_tests import ChatModelIntegrationTests

from duet_sdk import Budget, Sampling

TWICE = "calls the tool twice where any number of calls from one on is allowed"


class TestRealVllm(ChatModelIntegrationTests):
    model: str
    answer_tokens: int

    @pytest.fixture(autouse=True)
    def _serve(self, plain: str, request: pytest.FixtureRequest) -> None:
        formal = ("tool", "structured", "json", "agent")
        type(self).model = plain
        # Two cores write some twenty tokens a second: text needs few of them, and a form must come to its end.
        type(self).answer_tokens = 96 if any(word in request.node.name for word in formal) else 16

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDuet

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "reasoner": self.model,
            "generator": self.model,
            "budget": Budget(signal_tokens=4, answer_tokens=self.answer_tokens),
            "temperature": 0,
            "reasoner_params": Sampling(temperature=0),
            # Without it a string goes round in circles until the limit.
            "generator_params": Sampling(extra_body={"repetition_penalty": 1.3}),
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.model.partition("@")[0]

    # What follows, the model cannot do: servers' grammars hold arguments to a schema, but write none into it.

    @pytest.mark.xfail(reason="fills an open object with spaces until its limit", strict=False)
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @pytest.mark.xfail(reason="any JSON is JSON; it does not write the fields that only the prompt names", strict=False)
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="calls no tool unless it must", strict=False)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason="writes a string without end", strict=False)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)

    @pytest.mark.xfail(reason=TWICE, strict=False)
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=TWICE, strict=False)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason="its call does not come to an end within the limit", strict=False)
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

"""Libraries that people ask models with, each through the gateway: what they show, count and raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support.pair_server import PLAIN, RAIN, SIGNAL

if TYPE_CHECKING:
    from conftest import Told

ANSWER_TOKENS, SIGNAL_TOKENS = 4, 3
ONCE_429 = ({"404": 1}, {"429": 1})
"""Responses has no status of its own for a spent budget that its clients ask only once for."""


@dataclass(frozen=True)
class Client:
    """A client over one wire, and what is expected of it.

    Attributes:
        program: of `programs`.
        environment: whose Python runs it.
        wire: its own name for how it asks.
        shows: whether it shows the signal of a whole answer, and of a stream.
        counts: whether it tells the tokens of a signal apart.
        errors: class of its error for a model that is unknown, and for a budget that is spent.
        says_why: whether that has the gateway's words.
        refused: how often it asks in each of these cases, by the status that it gets.
        without: scenarios that it has no way to do.
    """

    program: str
    environment: str
    wire: str
    shows: tuple[bool, bool] = (True, True)
    counts: bool = True
    errors: tuple[str, str] = ("NotFoundError", "APIStatusError")
    says_why: bool = True
    refused: tuple[Mapping[str, int], Mapping[str, int]] = ({"404": 1}, {"402": 1})
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.program}-{self.environment.removeprefix('client-')}-{self.wire}"


NEW, OLD = "client-openai-3", "client-openai-2"
CLIENTS = (
    Client("openai_sdk", NEW, "chat"),
    Client("openai_sdk", OLD, "chat"),
    Client("langchain_chat", NEW, "chat", shows=(False, False), errors=("OpenAIModelNotFoundError", "APIStatusError")),
    Client("litellm_sdk", NEW, "openai", errors=("NotFoundError", "APIError")),
    Client("litellm_sdk", NEW, "hosted_vllm", errors=("NotFoundError", "APIError")),
    Client("litellm_sdk", OLD, "openai", errors=("NotFoundError", "APIError")),
    Client("litellm_sdk", OLD, "hosted_vllm", errors=("NotFoundError", "APIError")),
    Client("pydantic_ai_agent", NEW, "chat", errors=("ModelNotFoundError", "ModelQuotaExceededError")),
    Client("openai_agents_sdk", NEW, "chat"),
    Client("haystack_generators", NEW, "chat", shows=(False, False)),
    Client("smolagents_agent", NEW, "chat", shows=(True, False), counts=False),
    Client(
        "dspy_modules",
        NEW,
        "chat",
        shows=(False, False),
        counts=False,
        errors=("LMUnsupportedModelError", "LMBillingError"),
        without=("streamed",),
    ),
    Client("google_adk_agent", OLD, "chat", errors=("NotFoundError", "APIError")),
    Client("inspect_evaluation", NEW, "chat", errors=("RuntimeError", "RuntimeError"), without=("streamed",)),
    Client(
        "lm_eval_harness",
        OLD,
        "chat",
        shows=(False, False),
        counts=False,
        errors=("HTTPError", "HTTPError"),
        says_why=False,
        refused=({"404": 2}, {"402": 2}),
        without=("streamed", "tool"),
    ),
)
BY_RESPONSES = (
    Client("openai_sdk", NEW, "responses", errors=("NotFoundError", "RateLimitError"), refused=ONCE_429),
    Client("openai_sdk", OLD, "responses", errors=("NotFoundError", "RateLimitError"), refused=ONCE_429),
    Client(
        "langchain_chat",
        NEW,
        "responses",
        errors=("OpenAIModelNotFoundError", "OpenAIRateLimitError"),
        refused=ONCE_429,
    ),
    Client(
        "pydantic_ai_agent",
        NEW,
        "responses",
        errors=("ModelNotFoundError", "ModelQuotaExceededError"),
        refused=ONCE_429,
    ),
    Client("openai_agents_sdk", NEW, "responses", errors=("NotFoundError", "RateLimitError"), refused=ONCE_429),
    Client("haystack_generators", NEW, "responses", errors=("NotFoundError", "RateLimitError"), refused=ONCE_429),
    Client(
        "dspy_modules",
        NEW,
        "responses",
        shows=(False, False),
        counts=False,
        errors=("LMUnsupportedModelError", "LMBillingError"),
        refused=ONCE_429,
        without=("streamed",),
    ),
)
BY_MESSAGES = (
    Client("anthropic_sdk", NEW, "messages", counts=False, errors=("NotFoundError", "PaymentRequiredError")),
    Client("litellm_sdk", NEW, "anthropic", counts=False, errors=("NotFoundError", "PaymentRequiredError")),
    Client("litellm_sdk", OLD, "anthropic", counts=False, errors=("NotFoundError", "PaymentRequiredError")),
    Client(
        "pydantic_ai_agent", NEW, "messages", counts=False, errors=("ModelNotFoundError", "ModelQuotaExceededError")
    ),
    Client("inspect_evaluation", NEW, "messages", errors=("RuntimeError", "RuntimeError"), without=("streamed",)),
)


@pytest.fixture(params=CLIENTS + BY_RESPONSES + BY_MESSAGES, ids=str)
def client(request: pytest.FixtureRequest) -> Client:
    return request.param


def seen_by(client: Client, scenario: str, told: Told) -> dict[str, Any]:
    """What the client saw.

    Raises:
        Skipped: it has no such scenario, or its environment was not made.
    """
    if scenario in client.without:
        pytest.skip(f"{client.program} has no way to do this")
    return told(client.program, client.environment)["wires"][client.wire][scenario]


def test_a_whole_answer(client: Client, told: Told) -> None:
    saw = seen_by(client, "plain", told)
    assert saw.get("text") == PLAIN, saw
    assert saw["reasoning"] == (SIGNAL if client.shows[0] else None)
    if client.counts:
        assert saw["usage"][1:] == [SIGNAL_TOKENS + ANSWER_TOKENS, SIGNAL_TOKENS]


def test_a_streamed_answer(client: Client, told: Told) -> None:
    saw = seen_by(client, "streamed", told)
    assert saw.get("text") == PLAIN, saw
    assert saw["pieces"] >= 1
    assert saw["reasoning"] == (SIGNAL if client.shows[1] else None)
    if client.counts:
        assert saw["usage"][1:] == [SIGNAL_TOKENS + ANSWER_TOKENS, SIGNAL_TOKENS]


def test_a_tools_round_trip(client: Client, told: Told) -> None:
    saw = seen_by(client, "tool", told)
    assert saw.get("text") == RAIN, saw
    assert saw["called"] == ["Bern"]
    # The second turn goes by the signal of the first, and shows none.
    assert saw["reasoning"] in (None, SIGNAL)


def test_an_unknown_model_is_the_clients_own_error(client: Client, told: Told) -> None:
    saw = seen_by(client, "unknown_model", told)
    assert saw.get("error") == client.errors[0], saw
    assert ("this key may use: duet" in saw["message"]) is client.says_why
    assert saw["refusals"] == client.refused[0]


def test_a_spent_budget_is_the_clients_own_error(client: Client, told: Told) -> None:
    saw = seen_by(client, "spent", told)
    assert saw.get("error") == client.errors[1], saw
    assert ("tenant:spent asks for 1 request" in saw["message"]) is client.says_why
    assert saw["refusals"] == client.refused[1]


@pytest.mark.parametrize("environment", [NEW, OLD])
def test_a_tools_result_alone_goes_on_from_a_response_that_is_kept(environment: str, told: Told) -> None:
    saw = told("openai_sdk", environment)["wires"]["responses"]["tool_by_id"]
    assert saw.get("text") == RAIN, saw
    assert saw["called"] == ["Bern"]


def test_tokens_of_a_message_are_counted(told: Told) -> None:
    saw = told("anthropic_sdk", NEW)["wires"]["messages"]["counted"]
    assert saw.get("usage", [0])[0] > 5, saw


def test_it_reaches_nobody_but_the_gateway(client: Client, told: Told) -> None:
    assert told(client.program, client.environment)["strangers"] == []

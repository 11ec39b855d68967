"""What LangChain does with every model: callbacks, fallbacks, retries, and errors that it knows."""

from __future__ import annotations

import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelRateLimitError,
)
from langchain_core.language_models import FakeListChatModel
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_duet import ChatDuet
from pairs import pair

from duet_sdk import (
    Authentication,
    BackendError,
    Budget,
    BudgetExceeded,
    ConnectFailed,
    ContentFiltered,
    ContextOverflow,
    DeadlineExceeded,
    EndpointResting,
    InvalidRequest,
    Limit,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
    Retry,
    StreamBroken,
)
from duet_sdk.backends import Capabilities
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[object] = []
        self.ended = 0
        self.errors: list[BaseException] = []

    def on_llm_new_token(self, token, *, chunk=None, **_):
        self.tokens.append(token or chunk.message.additional_kwargs.get("reasoning_content", ""))

    def on_llm_end(self, response, **_):
        self.ended += 1

    def on_llm_error(self, error, **_):
        self.errors.append(error)


def test_callbacks_see_every_piece_of_a_stream():
    seen = Seen()
    model, *_ = pair("one two", "three")
    list(model.stream("q", {"callbacks": [seen]}))
    assert ([token for token in seen.tokens if token], seen.ended) == (["one", " two", "three"], 1)


def test_a_streaming_model_streams_under_a_call_too():
    seen = Seen()
    model, *_ = pair("one two", "three", streaming=True)
    assert model.invoke("q", {"callbacks": [seen]}).text == "three"
    assert [token for token in seen.tokens if token] == ["one", " two", "three"]


def test_callbacks_are_told_of_an_error():
    seen = Seen()
    with pytest.raises(InvalidRequest):
        pair()[0].invoke("", {"callbacks": [seen]})
    assert [type(error).__name__ for error in seen.errors] == ["InvalidRequest"]


def test_usage_is_summed_by_pair():
    usage = UsageMetadataCallbackHandler()
    model = ChatDuet(reasoner="scripted/one two", generator="scripted/three")
    model.batch(["q", "q"], {"callbacks": [usage]})
    (summed,) = usage.usage_metadata.values()
    assert list(usage.usage_metadata) == ["scripted/one two + scripted/three"]
    assert (summed["output_tokens"], summed["output_token_details"]) == (6, {"reasoning": 4})


def full(ledger: MemoryLedger) -> ChatDuet:
    return pair(ledger=ledger, tenant="a")[0]


async def test_an_exhausted_budget_is_our_error_and_a_fallback_catches_it():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(reasoner_tokens=1))
    model = full(ledger)
    with pytest.raises(BudgetExceeded) as caught:
        await model.ainvoke("q")
    assert type(caught.value) is BudgetExceeded
    assert not isinstance(caught.value, ModelError)
    other = FakeListChatModel(responses=["from the fallback"])
    assert (await model.with_fallbacks([other]).ainvoke("q")).text == "from the fallback"
    chosen = model.with_fallbacks([other], exceptions_to_handle=(BudgetExceeded,))
    assert "".join([chunk.text async for chunk in chosen.astream("q")]) == "from the fallback"


def test_a_deadline_is_our_error():
    model = ChatDuet(reasoner="scripted/x", generator=Scripted(Script("one", first_s=60)), timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        model.invoke("q")


def test_a_retry_of_langchains_asks_again():
    gone = Script(error=ConnectFailed("gone", backend="scripted", model="lines"))
    model, _, generator = pair("notes", gone, "back", retry=Retry(attempts=1), on_failure="raise")
    again = model.with_retry(retry_if_exception_type=(ConnectFailed,), wait_exponential_jitter=False)
    assert (again.invoke("q").text, len(generator.calls)) == ("back", 2)


def test_a_rate_limiter_of_langchains_is_asked():
    model, *_ = pair(rate_limiter=InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.001))
    assert model.invoke("q").text == "the answer"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Authentication, ModelAuthenticationError),
        (ModelNotFound, ModelNotFoundError),
        (Rejected, ModelInvalidRequestError),
        (RateLimited, ModelRateLimitError),
        (ConnectFailed, ModelConnectionError),
        (EndpointResting, ModelConnectionError),
        (QuotaExceeded, ModelRateLimitError),
        (ContentFiltered, ModelInvalidRequestError),
        (StreamBroken, ModelAPIError),
    ],
)
def test_errors_of_a_server_are_langchains_as_well(ours, theirs):
    error = ours("no", backend="scripted", model="lines", status=418, retry_after=7.0)
    model, *_ = pair("notes", Script(error=error), retry=Retry(attempts=1), on_failure="raise")
    with pytest.raises(ours) as caught:
        model.invoke("q")
    assert isinstance(caught.value, theirs)
    assert str(caught.value) == "no"
    assert (caught.value.status, caught.value.retry_after) == (418, 7.0)
    assert caught.value.is_retryable is error.retryable


def test_an_error_that_langchain_has_no_name_for_stays_as_it_is():
    error = BackendError("no", backend="scripted", model="lines")
    model, *_ = pair("notes", Script(error=error), retry=Retry(attempts=1), on_failure="raise")
    with pytest.raises(BackendError) as caught:
        model.invoke("q")
    assert caught.value is error


async def test_a_conversation_too_long_is_what_summarising_middleware_waits_for():
    small = Capabilities(context_tokens=32)
    model = ChatDuet(reasoner="scripted/x", generator=Scripted("y", capabilities=small), budget=Budget(answer_tokens=8))
    for ask in (model.ainvoke("word " * 100), anext(model.astream("word " * 100))):
        with pytest.raises(ContextOverflow) as caught:
            await ask
        assert isinstance(caught.value, ContextOverflowError)
        assert caught.value.context_tokens == 32

"""What a pair answers → LiteLLM's responses and chunks; and its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import litellm
from litellm.types.utils import Choices, Delta, Message, ModelResponse, ModelResponseStream, StreamingChoices, Usage

from duet_sdk import (
    AnswerDelta,
    Done,
    Event,
    FellBack,
    Reply,
    Retried,
    SignalDelta,
    SignalDone,
    ToolCallDelta,
    errors,
)

TURN = "duet_turn"
"""In a message's ``provider_specific_fields``."""
_KINDS: dict[type[errors.DuetError], type[Exception]] = {
    errors.Authentication: litellm.AuthenticationError,
    # Never one that is retried.
    errors.QuotaExceeded: litellm.exceptions.PaymentRequiredError,
    errors.RateLimited: litellm.RateLimitError,
    errors.ModelNotFound: litellm.NotFoundError,
    errors.ContentFiltered: litellm.ContentPolicyViolationError,
    errors.Rejected: litellm.BadRequestError,
    errors.ConnectFailed: litellm.APIConnectionError,
    errors.InvalidRequest: litellm.BadRequestError,
    errors.ContextOverflow: litellm.ContextWindowExceededError,
    errors.DeadlineExceeded: litellm.Timeout,
    # Not its BudgetExceededError, which it takes apart on the way; and never one that is retried.
    errors.BudgetExceeded: litellm.BadRequestError,
}


@contextmanager
def told_as_theirs(model: str) -> Iterator[None]:
    """Raise DUET's errors as LiteLLM's, which its retries, fallbacks and proxy go by; DUET's is the cause."""
    try:
        yield
    except errors.DuetError as error:
        kind = next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), litellm.InternalServerError)
        raise kind(message=str(error), model=model, llm_provider="duet") from error


def usage_of(reply: Reply) -> Usage:
    """Both stages together, the reasoner's output as reasoning tokens, and the cost where it is known."""
    reasoner, generator = reply.usage.reasoner, reply.usage.generator
    return Usage(
        prompt_tokens=reasoner.input_tokens + generator.input_tokens,
        completion_tokens=reasoner.output_tokens + generator.output_tokens,
        total_tokens=reply.usage.total_tokens,
        prompt_tokens_details={"cached_tokens": (reasoner + generator).cached_tokens or 0},
        completion_tokens_details={"reasoning_tokens": reasoner.output_tokens},
        cost=None if reply.cost.usd is None else float(reply.cost.usd),
    )


def turn_of(reply: Reply) -> dict[str, Any]:
    """What goes back with the turn: its signal, by which ours is told from others', and what its model wants."""
    told = reply.message.to_dict()
    return {TURN: {name: told[name] for name in ("signal", "provider_parts") if name in told}}


def response_of(reply: Reply, model: str) -> ModelResponse:
    """The whole reply, a choice for each answer."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in reply.tool_calls
    ]
    choices = []
    for index, text in enumerate(reply.answers or (reply.text,)):
        message = Message(
            content=text or None,
            tool_calls=calls if calls and not index else None,
            reasoning_content=reply.new_signal or None,
            provider_specific_fields={"duet": reply.summary(), **({} if index else turn_of(reply))},
        )
        choices.append(Choices(index=index, message=message, finish_reason=_finish(reply)))
    response = ModelResponse(model=f"duet/{model}", choices=choices, usage=usage_of(reply))
    response._hidden_params["response_cost"] = response.usage.cost  # noqa: SLF001 - LiteLLM's place for a known cost
    return response


class Chunks:
    """The events of a run as chunks of one stream."""

    def __init__(self, model: str) -> None:
        self._about = {"id": f"chatcmpl-{uuid4()}", "model": f"duet/{model}"}
        self._thought = False

    def take(self, event: Event) -> Iterator[ModelResponseStream]:
        """The chunks that an event makes.

        Raises:
            ConfigError: the answer started over after a part of it had been shown.
        """
        match event:
            case SignalDelta(text):
                self._thought = True
                yield self._chunk(Delta(reasoning_content=text, role="assistant"))
            case SignalDone(signal) if signal.text and not self._thought:  # from a cache
                yield self._chunk(Delta(reasoning_content=signal.text, role="assistant"))
            case AnswerDelta(text, index):
                yield self._chunk(Delta(content=text, role="assistant"), index)
            case ToolCallDelta(at, call, name, arguments, index):
                function = {"name": name, "arguments": arguments}
                told = {"index": at, "id": call, "type": "function", "function": function}
                yield self._chunk(Delta(tool_calls=[told], role="assistant"), index)
            case Retried(stage="generator", discard=True) | FellBack(discard=True):
                raise errors.ConfigError(
                    "the answer started over, but streamed text cannot be retracted: do not let on_failure restart it"
                )
            case Done(reply):
                # Before the reason: LiteLLM reads nothing behind that.
                told = {"duet": reply.summary(), **turn_of(reply)}
                last = self._chunk(Delta(role="assistant", provider_specific_fields=told))
                last.usage = usage_of(reply)
                yield last
                yield self._chunk(Delta(), finish_reason=_finish(reply))

    def _chunk(self, delta: Delta, index: int = 0, finish_reason: str | None = None) -> ModelResponseStream:
        choice: Any = StreamingChoices(index=index, delta=delta, finish_reason=finish_reason)
        return ModelResponseStream(choices=[choice], **self._about)


def _finish(reply: Reply) -> str:
    """Why the answer ended, in a word that LiteLLM knows: ``empty`` is DUET's own."""
    return "stop" if reply.finish_reason in (None, "empty") else reply.finish_reason

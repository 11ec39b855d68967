"""What a pair answers → a response as pydantic-ai keeps it, whole or as a stream; and its errors."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic_ai import exceptions as theirs
from pydantic_ai import messages as pai
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.usage import RequestUsage

from duet_pydantic_ai.history import PARTS, SIGNAL
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
from duet_sdk.stream import Run

_FINISH: dict[str | None, Any] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_FINISH["tool_calls"] = "tool_call"
_KINDS: dict[type[errors.DuetError], type[theirs.ModelAPIError]] = {
    errors.ContextOverflow: theirs.ModelContextWindowExceededError,
    errors.Authentication: theirs.ModelAuthenticationError,
    errors.QuotaExceeded: theirs.ModelQuotaExceededError,
    errors.RateLimited: theirs.ModelRateLimitError,
    errors.ModelNotFound: theirs.ModelNotFoundError,
    errors.Rejected: theirs.ModelRequestRejectedError,
}


@contextmanager
def told_as_theirs(model: str) -> Iterator[None]:
    """Raise what a model or its server did wrong as pydantic-ai's own errors, which `FallbackModel` goes by."""
    try:
        yield
    except (errors.BackendError, errors.ContextOverflow) as error:
        other = theirs.ModelServerError if getattr(error, "status", None) else theirs.ModelConnectionError
        after = getattr(error, "retry_after", None)
        kind = next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), other)
        raise kind(model, str(error), retry_after=after) from error


def usage_of(reply: Reply) -> RequestUsage:
    """Both stages together; what the reasoner wrote stands apart in the details."""
    reasoner, generator = reply.usage.reasoner, reply.usage.generator
    return RequestUsage(
        input_tokens=reasoner.input_tokens + generator.input_tokens,
        output_tokens=reasoner.output_tokens + generator.output_tokens,
        cache_read_tokens=(reasoner + generator).cached_tokens or 0,
        details={"reasoning_tokens": reasoner.output_tokens},
        cost=reply.cost.usd,
    )


def details_of(reply: Reply) -> dict[str, Any]:
    """What a pair says of a response, and what goes back with it."""
    parts = reply.provider_parts
    return reply.summary() | ({} if parts is None else {PARTS: asdict(parts)})


def response_of(reply: Reply, model: str) -> pai.ModelResponse:
    """The whole reply: signal, text, tool calls."""
    thought = [pai.ThinkingPart(reply.new_signal, provider_name="duet")] if reply.new_signal else []
    text = [pai.TextPart(reply.text)] if reply.text else []
    calls = [pai.ToolCallPart(call.name, call.arguments, call.id) for call in reply.tool_calls]
    facts, finish = details_of(reply), _FINISH.get(reply.finish_reason)
    told = {"model_name": model, "provider_name": "duet", "provider_details": facts, "finish_reason": finish}
    return pai.ModelResponse([*thought, *text, *calls], usage=usage_of(reply), **told)


class DuetStreamedResponse(StreamedResponse):
    """A run of a pair, as pydantic-ai reads a stream."""

    provider_name, provider_url, model_name, timestamp = "duet", None, "", datetime.min

    def __init__(self, parameters: ModelRequestParameters, model: str, run: Run) -> None:
        super().__init__(parameters)
        self.model_name, self.timestamp = model, datetime.now(UTC)
        self._run, self._thought = run, ""

    async def _get_event_iterator(self) -> AsyncIterator[pai.ModelResponseStreamEvent]:
        with told_as_theirs(self.model_name):
            async for event in self._run:
                for shown in self._shown(event):
                    yield shown

    def _shown(self, event: Event) -> Iterator[pai.ModelResponseStreamEvent]:
        parts = self._parts_manager
        match event:
            case SignalDelta(text):
                self._thought += text
                yield from self._think(text, None)
            case SignalDone(signal) if signal.text != self._thought:  # cut, wrapped up, started over, from a cache
                yield from self._think("" if self._thought else signal.text, {SIGNAL: signal.text})
            case FellBack(stage="reasoner") if self._thought:
                yield from self._think("", {SIGNAL: ""})
            case AnswerDelta(text):
                yield from parts.handle_text_delta(vendor_part_id="answer", content=text)
            case ToolCallDelta(at, call, name, arguments):
                told = {"tool_name": name, "args": arguments, "tool_call_id": call}
                yield from parts.handle_tool_call_delta_events(vendor_part_id=at, **told)
            case Retried(stage="generator", discard=True) | FellBack(discard=True):
                raise theirs.ModelAPIError(
                    self.model_name, "the answer started over, but streamed text cannot be retracted"
                )
            case Done(reply):
                self._usage, self.provider_details = usage_of(reply), details_of(reply)
                self.finish_reason = _FINISH.get(reply.finish_reason)

    def _think(self, text: str, details: dict[str, str] | None) -> Iterator[pai.ModelResponseStreamEvent]:
        told = {"content": text, "provider_name": "duet", "provider_details": details}
        return self._parts_manager.handle_thinking_delta(vendor_part_id=SIGNAL, **told)

    async def close_stream(self) -> None:
        """End both stages."""
        await self._run.aclose()
        self._usage = usage_of(self._run.reply)

"""The span of one attempt."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from duet_sdk.backends.base import trace_headers
from duet_sdk.pipeline.causes import without_foreign_words
from duet_sdk.telemetry import names
from duet_sdk.telemetry.attributes import IN_PROCESS, attempt_end, attempt_start, called, readable
from duet_sdk.telemetry.content import Heard, input_of, tools_of
from duet_sdk.telemetry.style import NONE, Content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from duet_sdk.backends.base import Backend, Call, Chunk
    from duet_sdk.reply import Attempt
    from duet_sdk.telemetry.attributes import Attributes
    from duet_sdk.telemetry.metrics import Instruments
    from duet_sdk.telemetry.style import Style

_OPENLLMETRY_KEY: Final = "suppress_language_model_instrumentation"
_UTIL_GENAI: Final = "opentelemetry.util.genai.invocation"
# Of the propagators only this one: baggage is the application's, and no business of a model's server.
_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()


class MeasuredAttempt:
    """An attempt of a request that is not recorded: metrics, and the trace that the application is in.

    Args:
        meters: where metrics go.
        backend: who is called.
        context: what the attempt happens in.
    """

    hears: Callable[[Chunk], None] | None = None

    def __init__(self, meters: Instruments, backend: Backend, context: Context) -> None:
        self._meters = meters
        self._model, self._called = called(backend)
        self._context = context

    def sending(self) -> Sending:
        """Entered around the sending of the call."""
        return Sending(self._context)

    def end(self, record: Attempt) -> None:
        """The attempt is over."""
        self._meters.attempt_ended(record, self._called, self._context)


class TracedAttempt(MeasuredAttempt):
    """An attempt with a span, which hangs under the request's own."""

    def __init__(
        self,
        meters: Instruments,
        backend: Backend,
        context: Context,
        *,
        tracer: Tracer,
        call: Call,
        about: Attributes,
        style: Style,
    ) -> None:
        super().__init__(meters, backend, context)
        self._call = call
        self._style = style
        self._start: Attributes = {**self._called, **attempt_start(call), **about}
        kind = SpanKind.INTERNAL if backend.name in IN_PROCESS else SpanKind.CLIENT
        self._span: Span = tracer.start_span(f"{names.CHAT} {self._model}", context, kind, self._start)
        self._context = set_span_in_context(self._span, context)
        if style.captures:
            self._heard = Heard(style.limit)
            self.hears = self._heard.hear

    def end(self, record: Attempt) -> None:
        """The attempt is over."""
        super().end(record)
        content = NONE
        if self._style.captures:
            content = Content(input_of(self._call), self._heard.messages(), tools_of(self._call))
        said = record.error or ""
        if not self._style.captures:
            said = without_foreign_words(said)
        found = attempt_end(record, readable(said))
        self._span.set_attributes(self._style.end(self._start, found, content))
        self._style.emit(self._start | found, content, self._context)
        if record.error_type not in (None, "cancelled"):
            self._span.set_status(Status(StatusCode.ERROR, readable(said)))
        self._span.end()


class Sending:
    """While it is entered, what is sent belongs to the attempt, and other instrumentation does not count it again.

    Never entered across a yield to the consumer.
    """

    __slots__ = ("_attached", "_context", "_headers")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        headers: dict[str, str] = {}
        _TRACE_CONTEXT.inject(headers, self._context)
        self._headers: Token[Mapping[str, str] | None] = trace_headers.set(headers)
        self._attached = otel_context.attach(_already_traced(self._context))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._attached)
        trace_headers.reset(self._headers)


def _already_traced(context: Context) -> Context:
    """The context in which instrumented clients (openai, LiteLLM) leave the call to DUET.

    Those of OpenTelemetry look for an object of a class of their own; only where one of them is loaded is it there.
    """
    context = otel_context.set_value(_OPENLLMETRY_KEY, True, context)
    genai = sys.modules.get(_UTIL_GENAI)
    key, kind = getattr(genai, "CLIENT_INFERENCE_CONTEXT_KEY", None), getattr(genai, "InferenceData", None)
    return context if key is None or kind is None else otel_context.set_value(key, kind(), context)

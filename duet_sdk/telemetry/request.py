"""One request as a trace: a root span, a span for the gate, and one for every attempt.

No span is current in the consumer's task, and attempts hang under the root by an explicit context, since
several can run at once.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from duet_sdk.errors import BudgetExceeded
from duet_sdk.events import FellBack, GateDecided, Retried, SignalDone
from duet_sdk.pipeline.causes import cause, without_foreign_words
from duet_sdk.pipeline.observer import SILENT
from duet_sdk.telemetry import names
from duet_sdk.telemetry.attempt import MeasuredAttempt, TracedAttempt
from duet_sdk.telemetry.attributes import decision_of, labels_of, readable, root_end, root_start
from duet_sdk.telemetry.content import Capture, answers_of, message_of
from duet_sdk.telemetry.scope import instruments, is_heard, tracer
from duet_sdk.telemetry.style import NONE, Content, Style

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from duet_sdk.backends.base import Backend, Call
    from duet_sdk.events import Event
    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.pipeline.observer import AttemptSpan, Observer
    from duet_sdk.request import Request
    from duet_sdk.telemetry.attributes import Attributes
    from duet_sdk.types import AttemptKind, Stage

_NOTHING = nullcontext()


def observer_of(request: Request, dialects: tuple[str, ...]) -> Observer:
    """Who observes a request: no one unless spans, metrics or events can reach something.

    Args:
        request: the request.
        dialects: further names for what spans say, as `check_dialects` gives them.
    """
    return TracedRequest(request, dialects) if is_heard() else SILENT


class TracedRequest:
    """Observes one request with the providers that are set when it begins."""

    def __init__(self, request: Request, dialects: tuple[str, ...]) -> None:
        self._request = request
        self._dialects = dialects
        self._style = Style((), Capture.NO_CONTENT, 0)
        self._tracer = tracer()
        self._meters = instruments()
        self._labels = labels_of(request.labels)
        self._draft: Draft | None = None
        self._root: Span | None = None
        self._context: Context = otel_context.get_current()
        self._is_in_trace = False
        self._is_recording = False
        self._gate: Span | None = None
        self._started_ns = 0
        self._gate_over_ns: int | None = None
        self._attached: Token[Context] | None = None

    @property
    def trace_id(self) -> str:
        """The request's trace in hexadecimal, empty if there is none."""
        if self._root is None or not self._is_in_trace:
            return ""
        return format(self._root.get_span_context().trace_id, "032x")

    def request(self, draft: Draft) -> Self:
        """Entered by the task that works on the request, left with whatever ends it."""
        self._draft = draft
        return self

    def __enter__(self) -> None:
        self._begin()
        self._attached = otel_context.attach(self._context) if self._is_in_trace else None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._attached is not None:
            otel_context.detach(self._attached)
        if self._draft is not None and self._root is not None:
            self._end(self._draft, self._root, exc)

    def deciding(self, policy: str) -> AbstractContextManager[object]:
        """Entered around a gate's own work."""
        if not self._is_recording:
            return _NOTHING
        self._gate = self._tracer.start_span(
            names.GATE_SPAN,
            self._context,
            attributes={names.GATE_POLICY: policy, **self._labels},
        )
        return Deciding(self._gate, self._context)

    def told(self, event: Event) -> None:
        """Record an event other than a piece of a model's output."""
        if isinstance(event, GateDecided):
            self._decided(event)
        elif isinstance(event, SignalDone):
            if self._draft is not None and self._draft.served_by != "cache":
                self._meters.signalled(event.signal)
        elif isinstance(event, Retried):
            facts: Attributes = {names.STAGE: event.stage, names.DISCARDED: event.discard}
            self._meters.retried(facts)
            self._note(names.RETRY_EVENT, {**facts, names.ERROR: self._told(event.error)})
        elif isinstance(event, FellBack):
            facts = {names.STAGE: event.stage, names.SERVED_BY: event.served_by, names.ERROR_TYPE: event.error_type}
            self._meters.fell_back(facts)
            more: Attributes = {names.MODEL: event.model, names.DISCARDED: event.discard}
            self._note(names.FALLBACK_EVENT, {**facts, **more, names.ERROR: self._told(event.error)})

    def attempt(
        self, call: Call, *, stage: Stage, model: str, backend: Backend, number: int, kind: AttemptKind
    ) -> AttemptSpan:
        """Begin the span and measures of an attempt that is about to be sent."""
        if not self._is_recording:
            return MeasuredAttempt(self._meters, backend, self._context)
        about: Attributes = {
            names.STAGE: stage,
            names.MODEL: model,
            names.ATTEMPT: number,
            names.ATTEMPT_KIND: kind,
            **self._labels,
        }
        return TracedAttempt(
            self._meters, backend, self._context, tracer=self._tracer, call=call, about=about, style=self._style
        )

    def _begin(self) -> None:
        self._started_ns = time.time_ns()
        self._start: Attributes = {**root_start(self._request), **self._labels}
        self._root = self._tracer.start_span(
            f"{names.INVOKE_WORKFLOW} {names.WORKFLOW}",
            kind=SpanKind.INTERNAL,
            attributes=self._start,
            start_time=self._started_ns,
        )
        self._is_recording = self._root.is_recording()
        if self._is_recording:
            self._style = Style.now(self._dialects)
        self._is_in_trace = self._root.get_span_context().is_valid
        self._context = set_span_in_context(self._root)

    def _end(self, draft: Draft, root: Span, exc: BaseException | None) -> None:
        facts: Attributes = {names.MODE: self._request.mode}
        if exc is None:
            facts |= {names.OUTCOME: "ok", names.SERVED_BY: draft.served_by}
        elif isinstance(exc, Exception):
            facts |= {names.OUTCOME: "error", names.ERROR_TYPE: type(exc).__name__}
        else:
            facts[names.OUTCOME] = "cancelled"
        if isinstance(exc, BudgetExceeded):
            self._refused(exc)
        self._meters.request_ended(draft, {names.WORKFLOW_NAME: names.WORKFLOW, **facts}, self._context)
        if self._gate is not None:  # the request ended before the gate did
            self._gate.end(self._gate_over_ns)
            self._gate = None
        if self._is_recording:
            root.set_attributes(self._style.end(self._start, {**facts, **root_end(draft)}, self._content(draft)))
            if isinstance(exc, Exception):
                root.set_attribute(names.ERROR, self._told(cause(exc)))
                root.set_status(Status(StatusCode.ERROR, self._words(exc)))
        root.end()

    def _content(self, draft: Draft) -> Content:
        if not self._style.capture.on_spans:
            return NONE
        return Content([message_of(message) for message in self._request.messages], answers_of(draft))

    def _words(self, error: Exception) -> str | None:
        """What an error says, which may hold content; None while that is off."""
        return readable(str(error)[: self._style.limit]) if self._style.capture.on_spans else None

    def _told(self, said: str) -> str:
        """The words of an error that the setting allows."""
        return readable(said if self._style.capture.on_spans else without_foreign_words(said))

    def _decided(self, event: GateDecided) -> None:
        facts = decision_of(event.decision)
        self._meters.decided({name: facts[name] for name in (names.GATE_POLICY, names.GATE_DECISION)})
        if not self._is_recording:
            return
        if self._gate is None:  # it judged by what a model wrote
            self._gate = self._tracer.start_span(
                names.GATE_SPAN, self._context, attributes=self._labels, start_time=self._started_ns
            )
        self._gate.set_attributes(self._style.end({}, facts, NONE))
        self._gate.end()
        self._gate = None

    def _refused(self, error: BudgetExceeded) -> None:
        # The kind of scope, not its name: metrics must not have a series for every tenant.
        self._meters.refused(
            {names.BUDGET_SCOPE: error.scope.partition(":")[0], names.ERROR_TYPE: type(error).__name__}
        )
        facts: Attributes = {names.BUDGET_SCOPE: error.scope, names.ERROR_TYPE: type(error).__name__}
        self._note(names.BUDGET_EVENT, facts)
        if self._root is not None:
            self._root.set_attribute(names.BUDGET_EXHAUSTED, True)

    def _note(self, name: str, facts: Attributes) -> None:
        if self._is_recording and self._root is not None:
            self._root.add_event(name, facts)


class Deciding:
    """A gate at work: its span is current, and bears what it raises."""

    __slots__ = ("_context", "_span", "_token")

    def __init__(self, span: Span, context: Context) -> None:
        self._context = set_span_in_context(span, context)
        self._span = span

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        if isinstance(exc, Exception):
            self._span.set_attribute(names.ERROR_TYPE, type(exc).__name__)
            self._span.set_status(Status(StatusCode.ERROR))

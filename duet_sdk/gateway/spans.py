"""A span for each request for a model, in the caller's trace where it names one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from duet_sdk.telemetry import names
from duet_sdk.telemetry.scope import is_traced, tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from duet_sdk.gateway.record import Record

_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()
_PLAIN: Final = re.compile(rb"[0-9a-f-]{55,128}")
"""What a ``traceparent`` is made of."""
_FAILED: Final = 500
"""From this status on the fault is not the caller's."""


@contextmanager
def spanned(record: Record, headers: Mapping[bytes, bytes]) -> Iterator[None]:
    """Entered around a request; without a provider of spans it does nothing.

    Of the caller's trace its id, the span's and the flag are taken, and nothing else: ``tracestate`` and ``baggage``
    would carry a client's text to every server behind this one. A ``traceparent`` that is none is read over.
    """
    if not is_traced():
        yield
        return
    kind, path = record.method, record.path
    span = tracer().start_span(f"{kind} {path}" if path else kind, _context(headers), kind=SpanKind.SERVER)
    attached = otel_context.attach(set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(attached)
        span.set_attribute(names.HTTP_METHOD, kind)
        span.set_attribute(names.HTTP_ROUTE, path)
        span.set_attribute(names.HTTP_STATUS, record.status)
        span.set_attribute(names.RECEIPT, record.receipt)
        span.set_attribute(names.ENDED, record.ended)
        if record.model:
            span.set_attribute(names.REQUEST_MODEL, record.model)
        if record.status >= _FAILED:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _context(headers: Mapping[bytes, bytes]) -> Context | None:
    """The caller's trace; None where this app is in a trace of its own already, or the caller names none."""
    named = headers.get(b"traceparent", b"")
    if get_current_span().get_span_context().is_valid or _PLAIN.fullmatch(named) is None:
        return None
    return _TRACE_CONTEXT.extract({"traceparent": named.decode()}, context=otel_context.Context())

"""The ids of the current trace in log records."""

from __future__ import annotations

import logging

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span


def add_trace_ids() -> None:
    """Give every record of this process ``otelTraceID``, ``otelSpanID`` and ``otelTraceSampled``.

    The names are those of OpenTelemetry's own logging instrumentation; outside a trace the ids are ``"0"``.
    """
    make = logging.getLogRecordFactory()

    def with_ids(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        current = get_current_span().get_span_context()
        record.otelTraceID = format_trace_id(current.trace_id) if current.is_valid else "0"
        record.otelSpanID = format_span_id(current.span_id) if current.is_valid else "0"
        record.otelTraceSampled = current.trace_flags.sampled
        return record

    logging.setLogRecordFactory(with_ids)

"""Traces and metrics of every request, by OpenTelemetry.

Nothing has to be set up here: spans and metrics go to whatever providers the application has set. `configure` is for
programs that have none of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duet_sdk.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duet_sdk.telemetry.export import Exporting, Transport

__all__ = ["configure"]


def configure(
    endpoint: str | None = None,
    *,
    protocol: Transport | None = None,
    headers: Mapping[str, str] | None = None,
    resource: Mapping[str, str] | None = None,
    sampled_share: float | None = None,
) -> Exporting:
    """Export traces and metrics by OTLP, for a program without a set-up of its own; needs the extra ``otel``.

    Sets the global providers of this process, once. Spans are exported in batches, from a thread of their own; what is
    left is flushed when the program ends. The standard's environment variables (``OTEL_EXPORTER_OTLP_*``,
    ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``, ``OTEL_METRIC_EXPORT_INTERVAL``) hold where
    an argument is left out, and ``OTEL_METRICS_EXPORTER=none`` for tools that take traces alone. The trace's ids are
    added to log records as ``otelTraceID`` and ``otelSpanID``.

    Args:
        endpoint: the collector, such as ``http://127.0.0.1:4318``; for HTTP the path of each signal is added.
        protocol: ``http/protobuf`` by default.
        headers: sent with every export; they may hold keys and are never shown.
        resource: attributes of this program; ``service.name`` is ``duet`` unless it is set here or in the environment.
        sampled_share: share of traces that are kept, in [0, 1], decided by a trace's id; a request inside a trace
            goes the way of that trace.

    Returns:
        The running export, to flush it or to read what was lost.

    Raises:
        ConfigError: the application has set a provider, which gets DUET's spans as it is; or a value cannot work.
        MissingExtra: the extra ``otel`` is not installed.
    """
    if sampled_share is not None and not 0 <= sampled_share <= 1:
        raise ConfigError(f"sampled_share must be between 0 and 1, got {sampled_share}")
    try:
        from duet_sdk.telemetry.export import start
    except ModuleNotFoundError as error:
        raise MissingExtra("telemetry.configure()", extra="otel") from error
    return start(
        endpoint, protocol=protocol, headers=headers or {}, resource=resource or {}, sampled_share=sampled_share
    )

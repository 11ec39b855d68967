"""The tracer and the instruments of DUET's scope, from whatever providers the application has set."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from duet_sdk.telemetry import names
from duet_sdk.telemetry.metrics import Instruments

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer, TracerProvider


def is_heard() -> bool:
    """Whether anything of a request can reach anybody: a provider is set, or the application is in a trace."""
    return (
        _is_real(type(trace.get_tracer_provider()))
        or _is_real(type(metrics.get_meter_provider()))
        or trace.get_current_span() is not trace.INVALID_SPAN
    )


def is_traced() -> bool:
    """Whether the application has set a provider of spans."""
    return _is_real(type(trace.get_tracer_provider()))


def tracer() -> Tracer:
    """DUET's tracer; asked for with each request, as an application may set its provider at any time."""
    return _tracer(trace.get_tracer_provider())


def instruments() -> Instruments:
    """DUET's instruments; likewise."""
    return _instruments(metrics.get_meter_provider())


@lru_cache(maxsize=16)
def _is_real(provider: type) -> bool:
    """Whether providers of this kind keep anything; those of the API package itself stand in for one."""
    return not provider.__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


# Making a tracer costs more than a span.
@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(names.SCOPE, _version(), names.SCHEMA_URL)


@lru_cache(maxsize=1)
def _instruments(provider: MeterProvider) -> Instruments:
    return Instruments(provider.get_meter(names.SCOPE, _version(), names.SCHEMA_URL))


def _version() -> str:
    try:
        return version("duet-sdk")
    except PackageNotFoundError:  # read from a checkout
        return "unknown"

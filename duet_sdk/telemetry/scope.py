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


def tracer() -> Tracer:
    """DUET's tracer; asked for with each request, as an application may set its provider at any time."""
    return _tracer(trace.get_tracer_provider())


def instruments() -> Instruments:
    """DUET's instruments; likewise."""
    return _instruments(metrics.get_meter_provider())


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

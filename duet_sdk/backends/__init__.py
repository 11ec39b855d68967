"""Models behind one base class: `Backend` is what a stage talks to, `connect` turns a name into one."""

from duet_sdk.backends.base import (
    Backend,
    Call,
    Capabilities,
    Chunk,
    Served,
    ThinkPlacer,
    ThinkRenderer,
    Thought,
    Wrapped,
    trace_headers,
)

__all__ = [
    "Backend",
    "Call",
    "Capabilities",
    "Chunk",
    "Served",
    "ThinkPlacer",
    "ThinkRenderer",
    "Thought",
    "Wrapped",
    "trace_headers",
]

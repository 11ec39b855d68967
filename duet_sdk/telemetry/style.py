"""How the spans of one request are written: with or without content, and in which further dialects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import _logs as logs

from duet_sdk.telemetry import names
from duet_sdk.telemetry.content import Capture, as_attribute, bounded, capture, limit_chars
from duet_sdk.telemetry.dialects import in_dialects

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from duet_sdk.telemetry.attributes import Attributes
    from duet_sdk.types import Json


@dataclass(frozen=True, slots=True)
class Content:
    """What went in and what came out, as messages of the conventions."""

    inputs: Sequence[Json] = ()
    outputs: Sequence[Json] = ()
    tools: Sequence[Json] = ()

    def named(self) -> dict[str, Sequence[Json]]:
        """What there is of it, by attribute."""
        given = ((names.INPUT_MESSAGES, self.inputs), (names.OUTPUT_MESSAGES, self.outputs))
        return {name: value for name, value in (*given, (names.TOOL_DEFINITIONS, self.tools)) if value}


NONE = Content()


@dataclass(frozen=True, slots=True)
class Style:
    """How to write."""

    dialects: tuple[str, ...]
    capture: Capture
    limit: int

    @classmethod
    def now(cls, dialects: tuple[str, ...]) -> Style:
        """By the environment as it is now."""
        captured = capture()
        return cls(dialects, captured, limit_chars() if captured is not Capture.NO_CONTENT else 0)

    @property
    def captures(self) -> bool:
        """Whether content is wanted anywhere."""
        return self.capture is not Capture.NO_CONTENT

    def end(self, start: Attributes, found: Attributes, content: Content) -> Attributes:
        """What to add to a span that began with ``start`` and came to ``found``."""
        if self.capture.on_spans:
            found = found | {name: as_attribute(value, self.limit) for name, value in content.named().items()}
        return found | in_dialects(self.dialects, start | found) if self.dialects else found

    def emit(self, attributes: Attributes, content: Content, context: Context) -> None:
        """Write the log event of an attempt, where content goes there."""
        if not self.capture.in_events:
            return
        body = {name: bounded(value, self.limit) for name, value in content.named().items()}
        logs.get_logger(names.SCOPE, schema_url=names.SCHEMA_URL).emit(
            logs.LogRecord(event_name=names.DETAILS_EVENT, attributes={**attributes, **body}, context=context)
        )

"""Who watches a request: the interface for telemetry, which the pipeline does not know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from duet_sdk.backends.base import Backend, Call, Chunk
    from duet_sdk.events import Event
    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.reply import Attempt
    from duet_sdk.types import AttemptKind, Stage


class AttemptSpan(Protocol):
    """One attempt as its observer sees it. Events are not enough: an attempt also ends when nothing reads them."""

    @property
    def hears(self) -> Callable[[Chunk], None] | None:
        """Called with each chunk that counts, None where what the model writes is of no interest."""

    def sending(self) -> AbstractContextManager[object]:
        """Entered around the sending of the call, so that what it carries belongs to the attempt."""

    def end(self, record: Attempt) -> None:
        """The attempt is over; called exactly once."""


class Observer(Protocol):
    """Watches one request."""

    @property
    def trace_id(self) -> str:
        """The request's trace in hexadecimal, empty if there is none."""

    def request(self, draft: Draft) -> AbstractContextManager[object]:
        """Entered by the task that works on the request, left with whatever ends it.

        What is logged and traced in between belongs to the request; no consumer has its turn in that task.
        """

    def deciding(self, policy: str) -> AbstractContextManager[object]:
        """Entered around a gate's own work; what it decided comes with `GateDecided`."""

    def told(self, event: Event) -> None:
        """An event other than a piece of a model's output."""

    def attempt(
        self, call: Call, *, stage: Stage, model: str, backend: Backend, number: int, kind: AttemptKind
    ) -> AttemptSpan:
        """An attempt is about to be sent."""


_NOTHING = nullcontext()


class _SilentSpan:
    hears = None

    def sending(self) -> AbstractContextManager[object]:
        return _NOTHING

    def end(self, record: Attempt) -> None:
        """Nothing to do."""


class _Silent:
    trace_id = ""

    def request(self, draft: Draft) -> AbstractContextManager[object]:
        return _NOTHING

    def deciding(self, policy: str) -> AbstractContextManager[object]:
        return _NOTHING

    def told(self, event: Event) -> None:
        """Nothing to do."""

    def attempt(
        self, call: Call, *, stage: Stage, model: str, backend: Backend, number: int, kind: AttemptKind
    ) -> AttemptSpan:
        return _SILENT_SPAN


_SILENT_SPAN = _SilentSpan()
SILENT: Observer = _Silent()

"""Who watches the attempts of a request: the seam that telemetry fits into, which the pipeline does not know."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from duet_sdk.backends.protocol import Backend, Call
    from duet_sdk.types import Attempt, AttemptKind, Stage


class AttemptSpan(Protocol):
    """One attempt as its observer sees it. Events do not do: an attempt ends also when nobody reads them."""

    def sending(self) -> AbstractContextManager[object]:
        """Entered around the sending of the call, so that what it carries belongs to the attempt."""

    def end(self, record: Attempt) -> None:
        """The attempt is over and settled; called exactly once."""


class Observer(Protocol):
    """Watches the attempts of one request."""

    @property
    def trace_id(self) -> str:
        """The request's trace in hexadecimal, empty where there is none."""

    def attempt(
        self, call: Call, *, stage: Stage, model: str, backend: Backend, number: int, kind: AttemptKind
    ) -> AttemptSpan:
        """An attempt is about to be sent."""


class _SilentSpan:
    def sending(self) -> AbstractContextManager[object]:
        return nullcontext()

    def end(self, record: Attempt) -> None:
        """Nothing to do."""


class _Silent:
    trace_id = ""

    def attempt(
        self, call: Call, *, stage: Stage, model: str, backend: Backend, number: int, kind: AttemptKind
    ) -> AttemptSpan:
        return _SILENT_SPAN


_SILENT_SPAN = _SilentSpan()
SILENT: Observer = _Silent()

"""What happens in one request, as a tagged union: every consumer of the pipeline reads these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TypeAlias

from typing_extensions import override

from duet_sdk.reply import GateDecision, Reply, Signal, StageUsage
from duet_sdk.types import HandoffName, ServedBy, Stage, TokenLogprob


@dataclass(frozen=True, slots=True)
class _Shown:
    """What all events have in common."""

    def _repr_html_(self) -> str:
        """The event on one line, for notebooks."""
        from duet_sdk.notebook import paragraph

        return paragraph(
            type(self).__name__, ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
        )


@dataclass(frozen=True, slots=True)
class GateDecided(_Shown):
    """The gate said whether the reasoner is asked (mode ``duet`` only)."""

    decision: GateDecision


@dataclass(frozen=True, slots=True)
class AttemptStarted(_Shown):
    """A model is about to be called."""

    stage: Stage
    model: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SignalDelta(_Shown):
    """The reasoner wrote a piece of its signal. For display: `SignalDone` holds what counts."""

    text: str


@dataclass(frozen=True, slots=True)
class SignalDone(_Shown):
    """The signal is complete, cut where a limit said so."""

    signal: Signal
    handoff: HandoffName
    cut: str = field(default="", compare=False)
    """How it was cut, in words: ``at 512 tokens``, ``by its deadline of 1.8 s``, ``by an error``."""


@dataclass(frozen=True, slots=True)
class AnswerDelta(_Shown):
    """A piece of an answer; ``index`` tells which of the ``n`` answers it belongs to.

    For display: `AnswerDone` holds what counts. The two differ where a model that nothing is known of thinks in its
    text and marks only the end of that.
    """

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta(_Shown):
    """A piece of a tool call. ``id`` and ``name`` come with the first piece of each ``position``."""

    position: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class AnswerDone(_Shown):
    """One of the ``n`` answers is complete."""

    text: str
    finish_reason: str | None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Retried(_Shown):
    """The stage starts over; with ``discard`` what it had written so far is void."""

    stage: Stage
    discard: bool
    error: str = field(default="", compare=False)
    """Why, in the words of the error, masked."""


@dataclass(frozen=True, slots=True)
class FellBack(_Shown):
    """A stage failed and the next rung of the ladder takes over; ``error_type`` is the error's class name."""

    stage: Stage
    served_by: ServedBy
    error_type: str
    discard: bool = False
    model: str = ""
    """Full name of the model that takes over."""
    error: str = field(default="", compare=False)
    """The error in its own words, masked."""


@dataclass(frozen=True, slots=True)
class AttemptEnded(_Shown):
    """A model's call is over, one for each `AttemptStarted` unless the consumer left early."""

    stage: Stage
    model: str
    attempt: int
    usage: StageUsage
    error_type: str | None = None
    error: str | None = field(default=None, compare=False)
    """The error in its own words, masked."""


@dataclass(frozen=True, slots=True)
class Done(_Shown):
    """The last event of a request that succeeded."""

    reply: Reply

    @override
    def _repr_html_(self) -> str:
        return self.reply._repr_html_()  # a notebook calls it by this name


Event: TypeAlias = (
    GateDecided
    | AttemptStarted
    | SignalDelta
    | SignalDone
    | AnswerDelta
    | ToolCallDelta
    | AnswerDone
    | Retried
    | FellBack
    | AttemptEnded
    | Done
)
"""Anything that a stream tells; `match` on the class."""

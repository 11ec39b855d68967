"""What happens in one request, as a tagged union: every consumer of the pipeline reads these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from duet_sdk.reply import GateDecision, Reply, Signal, StageUsage
from duet_sdk.types import HandoffName, ServedBy, Stage, TokenLogprob


@dataclass(frozen=True, slots=True)
class GateDecided:
    """The gate said whether the reasoner is asked (mode ``duet`` only)."""

    decision: GateDecision


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A model is about to be called."""

    stage: Stage
    model: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SignalDelta:
    """The reasoner wrote a piece of its signal. For display: `SignalDone` holds what counts."""

    text: str


@dataclass(frozen=True, slots=True)
class SignalDone:
    """The signal is complete, cut where a limit said so."""

    signal: Signal
    handoff: HandoffName


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """A piece of an answer; ``index`` tells which of the ``n`` answers it belongs to.

    For display: `AnswerDone` holds what counts. The two differ where a model that nothing is known of thinks in its
    text and marks only the end of that.
    """

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. ``id`` and ``name`` come with the first piece of each ``position``."""

    position: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class AnswerDone:
    """One of the ``n`` answers is complete."""

    text: str
    finish_reason: str | None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Retried:
    """The stage starts over; with ``discard`` what it had written so far is void."""

    stage: Stage
    discard: bool
    error: str = field(default="", compare=False)
    """Why, in the words of the error, masked."""


@dataclass(frozen=True, slots=True)
class FellBack:
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
class AttemptEnded:
    """A model's call is over, one for each `AttemptStarted` unless the consumer left early."""

    stage: Stage
    model: str
    attempt: int
    usage: StageUsage
    error_type: str | None = None
    error: str | None = field(default=None, compare=False)
    """The error in its own words, masked."""


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a request that succeeded."""

    reply: Reply


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

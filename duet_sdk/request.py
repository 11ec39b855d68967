"""One question as the pipeline takes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from duet_sdk.policies import DEFAULT_BUDGET, ResolvedBudget, RunScope, Sampling
from duet_sdk.schemas import Parser
from duet_sdk.types import Json, Message, Mode, Vote


@dataclass(frozen=True, slots=True)
class Labels:
    """Names that a request carries into traces and ledgers; they change nothing in the answer."""

    session: str | None = None
    user: str | None = None
    tenant: str | None = None
    scopes: tuple[str, ...] = ()
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One question, as the pipeline takes it: every choice made, nothing left to defaults."""

    messages: tuple[Message, ...]
    mode: Mode = "duet"
    budget: ResolvedBudget = DEFAULT_BUDGET
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    parser: Parser | None = None
    """Reads the answer as the type that was given as its format."""
    n: int = 1
    vote: Vote | None = None
    signal_scope: RunScope | None = RunScope()
    """When the reasoner is asked again within a run of tool turns; None gives every turn a signal of its own."""
    reasoner_sampling: Sampling = Sampling()
    generator_sampling: Sampling = Sampling()
    labels: Labels = Labels()
    allowed: frozenset[str] | None = None
    """Boundaries that it may cross; None for those of the pair's first models."""
    whole: bool = True
    """Whether the caller sees the reply only at the end, so that an answer may still be started over."""

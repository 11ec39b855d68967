"""How long a signal holds: for one turn of an agent, or for its run, until the user speaks again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from duet_sdk.errors import ConfigError

Trigger: TypeAlias = Literal["tool_error", "repeated_call", "invalid_call", "low_confidence"]
"""What makes the reasoner be asked again within a run."""
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)


@dataclass(frozen=True, slots=True)
class RunScope:
    """The reasoner plans once for an agent's run, and is asked again only where one of these rules says so.

    A run lasts from a user message to the next one. The gate has the last word on every asking.

    >>> RunScope(after_tool_turns=4, ask_again_on=["tool_error"]).ask_again_on
    ('tool_error',)
    """

    ask_again_on: Sequence[Trigger] = TRIGGERS
    """``tool_error``, ``repeated_call``, ``invalid_call``, ``low_confidence`` (where the gate judges that); all by
    default, as each tells of a plan that did not hold."""
    after_tool_turns: int | None = 8
    """Tool turns after which a signal counts as old; 8 by default, None for never."""
    most_calls: int = 4
    """How often the reasoner is asked for a signal in one run, whatever happens; retries of one asking count once."""

    def __post_init__(self) -> None:
        """Check the rules.

        Raises:
            ConfigError: an unknown rule, or a number below 1.
        """
        given: object = self.ask_again_on
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ConfigError(f"ask_again_on must be a list out of {', '.join(TRIGGERS)}, got {given!r}")
        object.__setattr__(self, "ask_again_on", tuple(given))
        if unknown := [rule for rule in self.ask_again_on if rule not in TRIGGERS]:
            raise ConfigError(f"ask_again_on knows no {unknown[0]!r}; known are {', '.join(TRIGGERS)}")
        for name in ("after_tool_turns", "most_calls"):
            value = getattr(self, name)
            if value is None and name == "after_tool_turns":
                continue
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


SignalScope: TypeAlias = "Literal['turn', 'run'] | RunScope"
"""``turn``: every turn has a signal of its own. ``run``, or a `RunScope`: a run of tool turns has one in common."""


def run_scope(given: SignalScope) -> RunScope | None:
    """The rules of that scope; None for ``turn``, which has none.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(given, RunScope):
        return given
    if given == "run":
        return RunScope()
    if given == "turn":
        return None
    raise ConfigError(f"signal_scope {given!r} is unknown; known are 'turn', 'run', or a RunScope")

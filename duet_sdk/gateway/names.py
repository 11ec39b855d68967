"""Models' names: each selects a pair, a mode and a limit among those that the operator has configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from duet_sdk.errors import ConfigError
from duet_sdk.gateway.errors import Refused

if TYPE_CHECKING:
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway.keys import Caller
    from duet_sdk.gateway_policy import GatewayPolicy, ServedMode

_LONGEST: Final = 200
"""Characters of a name: more than any model's has, and little to compare with patterns."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a name stands for."""

    name: str
    client: AsyncDuetClient
    mode: ServedMode
    signal_tokens: int
    """Limit of the signal."""
    answer_tokens: int
    """Limit of an answer where the request sets none."""
    most_answer_tokens: int
    """Limit of an answer whatever the request sets."""


class Names:
    """All names that a gateway knows.

    Args:
        pairs: clients by the name of their pair.
        policy: what is served of each.

    Raises:
        ConfigError: an alias of no name.
    """

    def __init__(self, pairs: Mapping[str, AsyncDuetClient], policy: GatewayPolicy) -> None:
        self._choices = {
            choice.name: choice for pair, client in pairs.items() for choice in _choices(pair, client, policy)
        }
        self._aliases = policy.aliases
        for alias, name in self._aliases.items():
            if name not in self._choices:
                known = ", ".join(self._choices)
                raise ConfigError(
                    f"the gateway's alias {alias!r} stands for {name!r}, which it does not serve: {known}"
                )

    def all_for(self, caller: Caller) -> list[str]:
        """The names that this caller may use, aliases without a pattern among them."""
        plain = [alias for alias in self._aliases if "*" not in alias]
        return [name for name in (*self._choices, *plain) if self._allows(caller, name)]

    def find(self, name: object, caller: Caller) -> Choice:
        """What a name stands for.

        Raises:
            Refused: 400, it is missing; 404, there is no such name for this caller.
        """
        if not isinstance(name, str) or not name:
            raise Refused(400, None, "model is missing: name one of GET /v1/models", param="model")
        choice = self._choices.get(name) or self._by_alias(name)
        # A key that lists an alias means it by that name; one that lists "duet" means every alias of it, too.
        may = (
            choice is not None
            and caller.may_have(choice.mode)
            and (caller.may_use(name) or caller.may_use(choice.name))
        )
        if choice is None or not may:
            known = ", ".join(self.all_for(caller)) or "none"
            raise Refused(404, "model_not_found", f"there is no such model; this key may use: {known}", param="model")
        return choice

    def _allows(self, caller: Caller, name: str) -> bool:
        choice = self._choices[self._aliases.get(name, name)]
        return caller.may_use(name) and caller.may_have(choice.mode)

    def counted_as(self, asked: str, choice: Choice) -> str:
        """The name under which a request is counted: the one asked for where it is configured by itself."""
        return asked if asked in self._choices or asked in self._aliases else choice.name

    def _by_alias(self, name: str) -> Choice | None:
        if len(name) > _LONGEST:
            return None
        meant = next((known for alias, known in self._aliases.items() if fnmatchcase(name, alias)), None)
        return None if meant is None else self._choices.get(meant)


def _choices(pair: str, client: AsyncDuetClient, policy: GatewayPolicy) -> list[Choice]:
    own = client.budget
    most = policy.answer_tokens or own.answer_tokens
    answer = min(own.answer_tokens, most)
    limits = policy.signal_tokens or sorted({max(1, own.signal_tokens // part) for part in (4, 2, 1)})
    found = []
    if "duet" in policy.modes:
        found.append(Choice(pair, client, "duet", own.signal_tokens, answer, most))
        found += [Choice(f"{pair}:{limit}", client, "duet", limit, answer, most) for limit in limits]
    for mode in policy.modes:
        if mode != "duet":
            found.append(Choice(f"{pair}/{mode}", client, mode, own.signal_tokens, answer, most))
    return found

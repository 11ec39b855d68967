"""How large a body may be once it is parsed: messages and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway_policy import GatewayPolicy

_HISTORIES: Final = ("messages", "input")
"""Fields that hold a conversation, by wire."""


def check_bounds(body: Mapping[str, Any], policy: GatewayPolicy) -> None:
    """Let a body pass.

    Raises:
        Refused: 400, it has too many messages, or values that lie too deep.
    """
    for name in _HISTORIES:
        if isinstance(history := body.get(name), list):
            check_count(name, history, policy)
    level: list[Any] = [body]
    for _ in range(policy.most_depth):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in (dict, list)
        ]
        if not level:
            return
    raise Refused(
        400, "too_deep", f"values lie more than {policy.most_depth} levels deep, the most that is allowed here"
    )


def check_count(name: str, history: Sequence[Any], policy: GatewayPolicy) -> None:
    """Let a conversation pass.

    Raises:
        Refused: 400, it has too many messages.
    """
    if len(history) > policy.most_messages:
        raise Refused(
            400,
            "too_many_messages",
            f"{name} has {len(history)} entries, and {policy.most_messages} are allowed here",
            param=name,
        )

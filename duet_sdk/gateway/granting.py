"""What a caller's key adds to a request of the pair, whatever wire it came by; a client chooses none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from duet_sdk.budget import scope_of
from duet_sdk.policies import Budget

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Given
    from duet_sdk.options import CallOptions

_OWN_END: Final = 0.95
"""Share of the time that is left in which the pair ends by itself: it can then say where it stood, and what it took."""


def granted(options: CallOptions, given: Given, *, left_s: float | None) -> CallOptions:
    """The options with what the key and the gateway say: how far a request may go, who else pays, when it must end.

    Args:
        options: as the wire read them.
        given: the request.
        left_s: seconds that are left of its time; None for no end.
    """
    caller, made = given.caller, cast("CallOptions", {**options})
    if caller.rights.boundaries:
        made["boundary"] = caller.rights.boundaries
    if caller.name is not None:
        made["scopes"] = (scope_of("caller", caller.name),)
    if left_s is not None:
        budget, own_s = cast("Budget | None", options.get("budget")) or Budget(), given.choice.client.budget.deadline_s
        left_s *= _OWN_END
        made["budget"] = replace(budget, deadline_s=left_s if own_s is None else min(own_s, left_s))
    return made

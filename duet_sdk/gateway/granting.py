"""What a caller's key adds to a request of the pair, whatever wire it came by; a client chooses none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from duet_sdk.budget import scope_of

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Given
    from duet_sdk.options import CallOptions


def granted(options: CallOptions, given: Given) -> CallOptions:
    """The options with what the key says: how far the request may go, and who else pays for it."""
    caller, more = given.caller, {}
    if caller.rights.boundaries:
        more["boundary"] = caller.rights.boundaries
    if caller.name is not None:
        more["scopes"] = (scope_of("caller", caller.name),)
    return cast("CallOptions", {**options, **more})

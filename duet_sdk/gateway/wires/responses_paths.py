"""Below ``/v1/responses``: responses that are kept, and what the pair makes of an input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.errors import NOT_AGAIN, Refused

if TYPE_CHECKING:
    from duet_sdk.gateway.kept import Kept
    from duet_sdk.gateway.keys import Caller

_PREFIX: Final = "/v1/responses/"
Answering = Callable[["Kept", "Caller"], Mapping[str, Any]]
"""From the kept responses and whoever asks to the body of a response."""


def kept_paths(path: str) -> Mapping[str, Answering] | None:
    """What a path of a response answers, by method; None where it is no such path."""
    if not path.startswith(_PREFIX):
        return None
    name, _, what = path.removeprefix(_PREFIX).partition("/")
    if not name:
        return None
    if not what:
        return {
            "GET": lambda kept, caller: _response(kept, caller, name),
            "DELETE": lambda kept, caller: _forget(kept, caller.tenant, name),
        }
    if what == "input_items":
        return {"GET": lambda kept, caller: _input_items(kept, caller.tenant, name)}
    if what == "cancel":
        return {"POST": lambda kept, caller: _cancel(kept, caller, name)}
    return None


def _response(kept: Kept, caller: Caller, name: str) -> Mapping[str, Any]:
    """The response, without the signal for a key that may not see it: another key of the tenant may have made it."""
    found = kept.response(caller.tenant, name)
    if found is None:
        raise _unknown()
    if not caller.sees_signal:
        for item in found["output"]:
            if item["type"] == "reasoning":
                item["summary"] = []
    return found


def _forget(kept: Kept, tenant: str | None, name: str) -> Mapping[str, Any]:
    if not kept.forget(tenant, name):
        raise _unknown()
    return {"id": name, "object": "response", "deleted": True}


def _input_items(kept: Kept, tenant: str | None, name: str) -> Mapping[str, Any]:
    """The request's own items, the last in front, as OpenAI tells them."""
    found = kept.given(tenant, name)
    if found is None:
        raise _unknown()
    items = [{"id": f"in_{name.removeprefix('resp_')}_{at}", "type": "message", **one} for at, one in enumerate(found)]
    items.reverse()
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, **ends, "has_more": False}


def _cancel(kept: Kept, caller: Caller, name: str) -> Mapping[str, Any]:
    _response(kept, caller, name)
    told = "only background responses can be cancelled, and none runs here; close the connection of one that runs"
    raise Refused(400, "not_cancellable", told, headers=NOT_AGAIN)


def _unknown() -> Refused:
    told = (
        "this response is not known here: it was not stored, is too old or deleted, or another key, another worker or "
        "an earlier run of the gateway made it"
    )
    return Refused(404, "response_not_found", told, param="response_id", headers=NOT_AGAIN)

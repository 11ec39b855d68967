"""Responses of the gateway's own, kept for a while, so that clients can name them and what stands in them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

KEPT_S: Final = 24 * 3600.0
"""Seconds without use for which a response is kept: conversations go on after a night."""
_MOST: Final = 10_000
"""Responses that are kept: their names take room, too, where they say little."""
_MOST_CHAINED: Final = 1000
"""Responses that a conversation may go back: more than people have turns, and few enough to read."""
_SHARE: Final = 4
"""One tenant has at most a quarter of the room and of the number, so that none pushes out all others' responses."""
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Kept:
    response: bytes
    """As JSON, which takes a fifth of what its values do."""
    given: bytes
    """The items of its request, likewise, without those of earlier responses."""
    previous: str | None
    used_s: float

    @property
    def size(self) -> int:
        return len(self.response) + len(self.given)


class Kept:
    """Responses by tenant and id, the least lately used going first; in this process alone.

    Args:
        most_bytes: of all responses together; 0 keeps none.
        seconds: of a monotonic clock.
    """

    def __init__(self, most_bytes: int, *, seconds: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes
        self._seconds = seconds
        self._tenants: dict[str | None, OrderedDict[str, _Kept]] = {}
        self._sizes: dict[str | None, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    @property
    def size(self) -> int:
        """Bytes of all responses."""
        return sum(self._sizes.values())

    def keep(self, tenant: str | None, response: Mapping[str, Any], given: Sequence[Any]) -> None:
        """Remember a response and the items of its request."""
        new = _Kept(_encode(response), _encode(given), response.get("previous_response_id"), self._seconds())
        share = self.most_bytes if tenant is None else self.most_bytes // _SHARE
        if new.size > share:
            return
        self.forget(tenant, response["id"])
        own = self._tenants.setdefault(tenant, OrderedDict())
        own[response["id"]] = new
        self._sizes[tenant] = self._sizes.get(tenant, 0) + new.size
        most = _MOST if tenant is None else _MOST // _SHARE
        while self._sizes[tenant] > share or len(own) > most:
            self._drop(tenant, next(iter(own)))
        self._drop_old()
        while self.size > self.most_bytes:
            self._drop_first_of(max(self._sizes, key=lambda one: self._sizes[one]))
        while len(self) > _MOST:
            self._drop_first_of(max(self._tenants, key=lambda one: len(self._tenants[one])))

    def response(self, tenant: str | None, name: str) -> dict[str, Any] | None:
        """A response; None where there is none of this name for this tenant."""
        found = self._find(tenant, name)
        return None if found is None else _decode(found.response)

    def given(self, tenant: str | None, name: str) -> list[Any] | None:
        """The items of a response's request."""
        found = self._find(tenant, name)
        return None if found is None else _decode(found.given)

    def items(self, tenant: str | None, response: str) -> dict[str, dict[str, Any]]:
        """What a response has put out, by id; nothing where it is not known."""
        found = self.response(tenant, response) or {}
        return {item["id"]: item for item in found.get("output", ())}

    def chain(self, tenant: str | None, name: str) -> list[Any] | None:
        """The items of a response, its request's, and those of all responses that it went on from, the first in front.

        None where one of them is not known any more.
        """
        links: list[_Kept] = []
        at: str | None = name
        while at is not None:
            found = self._find(tenant, at)
            if found is None or len(links) == _MOST_CHAINED:
                return None
            links.append(found)
            at = found.previous
        return [item for one in reversed(links) for item in (*_decode(one.given), *_decode(one.response)["output"])]

    def forget(self, tenant: str | None, name: str) -> bool:
        """Forget a response; whether there was one."""
        if self._find(tenant, name) is None:
            return False
        self._drop(tenant, name)
        return True

    def _find(self, tenant: str | None, name: str) -> _Kept | None:
        own = self._tenants.get(tenant)
        found = None if own is None else own.get(name)
        if own is None or found is None:
            return None
        now_s = self._seconds()
        if now_s - found.used_s > KEPT_S:
            self._drop(tenant, name)
            return None
        found.used_s = now_s
        own.move_to_end(name)
        return found

    def _drop_old(self) -> None:
        before_s = self._seconds() - KEPT_S
        for tenant, own in list(self._tenants.items()):
            while own and next(iter(own.values())).used_s < before_s:
                self._drop(tenant, next(iter(own)))

    def _drop_first_of(self, tenant: str | None) -> None:
        self._drop(tenant, next(iter(self._tenants[tenant])))

    def _drop(self, tenant: str | None, name: str) -> None:
        self._sizes[tenant] -= self._tenants[tenant].pop(name).size
        if not self._tenants[tenant]:
            del self._tenants[tenant], self._sizes[tenant]

"""Who asks: keys by their digests, and what each may ask for."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from duet_sdk.environment import variable
from duet_sdk.errors import ConfigError
from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway_policy import GatewayKey


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what it may have."""

    tenant: str | None = None
    """None where the gateway has no keys."""
    models: tuple[str, ...] = ()
    sees_signal: bool = True

    def may_use(self, name: str) -> bool:
        """Whether its key allows this name."""
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)


ANYBODY: Final = Caller()
"""Whoever reaches a gateway without keys."""


class Keys:
    """Finds the caller of a request; digests alone are kept.

    Raises:
        ConfigError: a variable that should hold a key is not set.
    """

    def __init__(self, keys: Iterable[GatewayKey]) -> None:
        self._callers = [(_digest(key), Caller(key.tenant, key.models, key.sees_signal)) for key in keys]

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Whoever presented a key, as a bearer's token or as ``x-api-key``.

        Raises:
            Refused: 401, no key or an unknown one.
        """
        if not self._callers:
            return ANYBODY
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest, found = hashlib.sha256(given).hexdigest(), None
        for known, caller in self._callers:  # all of them, so that the time does not tell which one was nearly right
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            what = "this key is not known" if given else "this gateway needs a key: send Authorization: Bearer KEY"
            raise Refused(401, "invalid_api_key", what, kind="authentication_error", headers=NOT_AGAIN)
        return found


def _digest(key: GatewayKey) -> str:
    if key.sha256 is not None:
        return key.sha256
    value = variable(key.key_env or "")
    if value is None:
        raise ConfigError(f"the key of tenant {key.tenant!r} is in {key.key_env}, which is not set")
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()

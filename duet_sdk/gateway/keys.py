"""Who asks: keys by their digests, and what each may ask for."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeAlias

from duet_sdk.environment import variable
from duet_sdk.errors import ConfigError
from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway.key_file import KeyFile, StoredKey, digest_of
from duet_sdk.gateway_key import GatewayKey, Rights, ServedMode

_log = logging.getLogger(__name__)
LOOK_S: Final = 1.0
"""Seconds between two looks at a key file: a revoked key ends within them, and a look is one call of the system."""
_Facts: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what it may have."""

    tenant: str | None = None
    """None where the gateway has no keys."""
    rights: Rights = Rights(sees_signal=True)
    id: str = "anybody"
    """Stands for the key where requests are counted; says nothing of it."""
    name: str | None = None
    """The key's name in the ledger; None where it has none."""

    @property
    def sees_signal(self) -> bool:
        """Whether answers may show it the signal."""
        return self.rights.sees_signal

    def may_use(self, name: str) -> bool:
        """Whether its key allows this name."""
        patterns = self.rights.models
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    def may_have(self, mode: ServedMode) -> bool:
        """Whether its key allows names of this mode."""
        return not self.rights.modes or mode in self.rights.modes


ANYBODY: Final = Caller()
"""Whoever reaches a gateway without keys."""


@dataclass(frozen=True, slots=True)
class _Known:
    """One digest, and for whom it is taken how long."""

    digest: str
    caller: Caller
    until: datetime | None = None
    gone: str | None = None
    """Why it is not taken any more."""


class Keys:
    """Finds the caller of a request; digests alone are kept.

    Args:
        keys: of the settings.
        file: of further keys, whose changes count while it runs; None for none.
        seconds: of a monotonic clock.
        now: the time of day.

    Raises:
        ConfigError: a variable that should hold a key is not set, or the file cannot be used.
    """

    def __init__(
        self,
        keys: Iterable[GatewayKey],
        file: str | None = None,
        *,
        seconds: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._own = [_own(key) for key in keys]
        self._file = None if file is None else KeyFile(Path(file))
        self._seconds, self._now = seconds, now
        self._looked_s = seconds()
        self._facts: _Facts | None = None
        self._filed: list[_Known] = []
        self.salt: str | None = None
        """The secret of the key file; None without one."""
        if self._file is not None:
            self._facts = _facts(self._file)
            self._read(self._file)

    def secret(self) -> bytes:
        """What the gateways of these keys have in common and nobody else can know."""
        known = self.salt or "".join(sorted(one.digest for one in self._own))
        return hashlib.sha256(b"duet gateway\0" + known.encode()).digest()

    def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Whoever presented a key, as a bearer's token or as ``x-api-key``.

        Raises:
            Refused: 401, no key, an unknown one, or one that is not taken any more.
        """
        if self._file is not None:
            self._look(self._file)
        elif not self._own:
            return ANYBODY
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if not given:
            raise _refused("this gateway needs a key: send Authorization: Bearer KEY")
        found = self._find(hashlib.sha256(given).hexdigest())
        if found is None:
            raise _refused("this key is not known")
        if found.gone is not None:
            raise _refused(found.gone)
        if found.until is not None and found.until <= self._now():
            raise _refused("this key has expired")
        return found.caller

    def _find(self, digest: str) -> _Known | None:
        found = None
        for keys in (self._own, self._filed):
            for known in keys:  # all of them, so that the time does not tell which one was nearly right
                if hmac.compare_digest(known.digest, digest):
                    found = known
        return found

    def _look(self, file: KeyFile) -> None:
        """Read the file again if it changed; one that cannot be used any more leaves the keys as they were."""
        now_s = self._seconds()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        facts = _facts(file)
        if facts == self._facts:
            return
        self._facts = facts
        try:
            self._read(file)
        except ConfigError as error:
            _log.error("%s; the keys that were read before stay valid", error)

    def _read(self, file: KeyFile) -> None:
        stored = file.read()
        self._filed = [known for key in stored.keys for known in _filed(key)]
        self.salt = stored.salt


def _facts(file: KeyFile) -> _Facts | None:
    """What changes with the file; it is replaced as a whole, so that its number changes, too."""
    try:
        facts = file.path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _own(key: GatewayKey) -> _Known:
    digest = key.sha256
    if digest is None:
        value = variable(key.key_env or "")
        if value is None:
            raise ConfigError(f"the key of tenant {key.tenant!r} is in {key.key_env}, which is not set")
        digest = digest_of(value)
    # Hashed once more: a short key could be found by a part of its digest.
    return _Known(digest, Caller(key.tenant, key, key.name or digest_of(digest)[:16], key.name))


def _filed(key: StoredKey) -> Iterable[_Known]:
    caller = Caller(key.tenant, key.rights, key.id, key.id)
    gone = None if key.revoked is None else "this key was revoked"
    for digest in key.digests:
        ends = [end for end in (key.expires, digest.until) if end is not None]
        yield _Known(digest.sha256, caller, min(ends, default=None), gone)


def _refused(what: str) -> Refused:
    return Refused(401, "invalid_api_key", what, kind="authentication_error", headers=NOT_AGAIN)

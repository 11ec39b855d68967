"""The file of a gateway's keys: digests and rights, changed by ``duet keys`` while gateways read it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from duet_sdk.errors import ConfigError, DuetError, MissingExtra
from duet_sdk.gateway_key import Rights

PREFIX: Final = "duet-"
"""Begins every key, so that scanners of repositories and people know one."""
_KEY_BYTES: Final = 32
"""Of chance in a key: nobody finds it by its SHA-256, so that no slow hash is needed."""
_ID_BYTES: Final = 4
"""Of a key's public id, which stands in the key, too: short to type, and looked up for doubles."""
_VERSION: Final = 1
"""Of the file's format; a later one may hold what this version would lose when it writes."""
_MOST_BYTES: Final = 64 << 20
"""Most that is read: a hundred thousand keys, and nothing that fills a memory."""
_LOCK_S: Final = 10.0
"""Longest wait for another command that changes the file, which takes milliseconds."""

Moment = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Digest:
    """One value of a key, by its SHA-256."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    until: Moment | None = None
    """When it stops, set when the key was rotated."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as the file has it."""

    id: str
    tenant: Annotated[str, Meta(min_length=1)]
    digests: tuple[Digest, ...]
    """The newest first."""
    created: Moment
    rights: Rights = Rights()
    expires: Moment | None = None
    revoked: Moment | None = None

    def state(self, now: datetime) -> str:
        """``valid``, ``rotating`` while an old value is still taken, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        if self.expires is not None and self.expires <= now:
            return "expired"
        return "rotating" if any(old.until is not None and old.until > now for old in self.digests) else "valid"


@dataclass(frozen=True, slots=True)
class Stored:
    """All that is in the file."""

    version: int
    salt: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    """A secret of the gateways that read it; it signs what must not be guessed, such as salts of caches."""
    keys: tuple[StoredKey, ...] = ()


class KeyFile:
    """The file at a path; it is replaced as a whole, so that a reader never sees half of it.

    Args:
        path: of the file; its folder must be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Stored:
        """What is in it.

        Raises:
            ConfigError: it is missing, damaged, too long, from a newer version, or others can write it.
        """
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            raise ConfigError(f"there is no key file at {self.path}: duet keys create TENANT makes it") from None
        except OSError as error:
            raise ConfigError(f"the key file {self.path} cannot be read: {error.strerror or error}") from None
        if hasattr(os, "getuid") and mode & 0o022:
            raise ConfigError(f"the key file {self.path} can be written by others: chmod 600 it, and look at its keys")
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"the key file {self.path} is longer than {_MOST_BYTES} bytes")
        return self._parsed(content)

    def _parsed(self, content: bytes) -> Stored:
        try:
            found = msgspec.json.decode(content, type=Stored)
        except (msgspec.DecodeError, DuetError, UnicodeDecodeError, RecursionError) as error:
            # The place alone: a value in the wrong place may be a key.
            place = str(error).partition(" - at ")[2] or "its JSON"
            raise ConfigError(
                f"the key file {self.path} is damaged at {place}: put a copy back, or make its keys anew"
            ) from None
        if found.version != _VERSION:
            raise ConfigError(
                f"the key file {self.path} has format {found.version}, this version knows {_VERSION}: update duet-sdk"
            )
        return found

    def create(
        self, tenant: str, rights: Rights, *, expires: datetime | None = None, now: datetime | None = None
    ) -> tuple[StoredKey, str]:
        """Add a key; it and its value, which is kept nowhere.

        Raises:
            ConfigError: the tenant is empty, or the file cannot be read or written.
        """
        if not tenant.strip():
            raise ConfigError("a key needs a tenant, such as team-a")
        with self._changing() as kept:
            known = {key.id for key in kept.keys}
            new = next(fresh for fresh in iter(lambda: secrets.token_hex(_ID_BYTES), "") if fresh not in known)
            value = _value(new)
            key = StoredKey(new, tenant, (Digest(digest_of(value)),), now or _now(), rights, expires)
            self._write(replace(kept, keys=(*kept.keys, key)))
        return key, value

    def rotate(self, key_id: str, *, grace: timedelta, now: datetime | None = None) -> tuple[StoredKey, str]:
        """Give a key a new value; the present one is taken for the grace time, older ones no longer.

        Raises:
            ConfigError: there is no such key, it is revoked or expired, or the file cannot be read or written.
        """
        now = now or _now()
        with self._changing() as kept:
            key = self._find(kept, key_id)
            if (state := key.state(now)) in ("revoked", "expired"):
                raise ConfigError(f"the key {key.id} is {state}: make another with duet keys create")
            value = _value(key.id)
            old = () if grace <= timedelta() else (replace(key.digests[0], until=now + grace),)
            key = replace(key, digests=(Digest(digest_of(value)), *old))
            self._write(_with(kept, key))
        return key, value

    def revoke(self, key_id: str, *, now: datetime | None = None) -> StoredKey:
        """Stop taking a key; one that is revoked stays so.

        Raises:
            ConfigError: there is no such key, or the file cannot be read or written.
        """
        with self._changing() as kept:
            key = self._find(kept, key_id)
            if key.revoked is None:
                key = replace(key, revoked=now or _now())
                self._write(_with(kept, key))
        return key

    def _find(self, kept: Stored, key_id: str) -> StoredKey:
        # People have the key before them, and its beginning is the id.
        wanted = key_id.removeprefix(PREFIX).partition("-")[0]
        for key in kept.keys:
            if key.id == wanted:
                return key
        raise ConfigError(f"there is no key of this id in {self.path}; duet keys list shows them")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Stored]:
        """What is in the file, which nobody else changes meanwhile; a new one where there is none."""
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise MissingExtra("duet keys", extra="serve") from error
        if not self.path.parent.is_dir():
            raise ConfigError(f"the key file's folder {self.path.parent} does not exist: make it first")
        lock = FileLock(f"{self.path}.lock", timeout=_LOCK_S, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"another command is changing {self.path}: try again when it is done") from None
        except OSError as error:
            raise ConfigError(f"the key file {self.path} cannot be changed: {error.strerror or error}") from None
        try:
            yield self.read() if self.path.exists() else Stored(_VERSION, secrets.token_hex(_KEY_BYTES))
        finally:
            lock.release()

    def _write(self, kept: Stored) -> None:
        fresh: Path | None = None
        try:
            # A temporary file is readable and writable by its owner only (0600).
            with NamedTemporaryFile("wb", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as file:
                fresh = Path(file.name)
                file.write(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
                file.flush()
                os.fsync(file.fileno())  # else a crash may leave the new name with nothing in it
            fresh.replace(self.path)
        except OSError as error:
            if fresh is not None:
                fresh.unlink(missing_ok=True)
            raise ConfigError(f"the key file {self.path} cannot be written: {error.strerror or error}") from None


def digest_of(value: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()


def _value(key_id: str) -> str:
    return f"{PREFIX}{key_id}-{secrets.token_urlsafe(_KEY_BYTES)}"


def _with(kept: Stored, key: StoredKey) -> Stored:
    return replace(kept, keys=tuple(key if one.id == key.id else one for one in kept.keys))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

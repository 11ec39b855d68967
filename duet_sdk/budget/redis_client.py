"""The ledger's script on a Redis: connections for each event loop, errors as ours, the password never shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from duet_sdk._tasks import PerLoop
from duet_sdk.errors import ConfigError, LedgerError, MissingExtra

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

_LUA: Final = Path(__file__).with_name("redis_ledger.lua")
_SILENCE_S: Final = 2.0
"""Longest wait for a connection, and for an answer; a call takes far below a millisecond, so that a server silent for
this long is down, and a user waits a few seconds at most."""
_TRIES: Final = 3
"""Repeats of a call, enough for a server that restarts or a connection that was dropped while idle."""
_BACKOFF_S: Final = 0.05
"""First pause between repeats: enough for a new connection, too short to be noticed."""
_LONGEST_BACKOFF_S: Final = 0.5
"""Pauses between repeats double, up to this: a restart takes about as long."""
_CONNECTIONS: Final = 50
"""For each event loop. A call holds one for less than a millisecond, so that these serve thousands of requests at once,
and many processes stay below a server's usual limit of 10,000 clients."""
_QUEUE_S: Final = 10.0
"""Longest wait for one of the connections to be free; longer than all repeats of a call take."""


@dataclass(frozen=True, slots=True)
class _Connected:
    """The connections of one event loop."""

    redis: Redis
    script: AsyncScript


class RedisScript:
    """Calls the script; every call may be repeated, so that one whose answer was lost is sent again.

    Args:
        url: of the server.
        prefix: of the ledger's keys.
        password: of the server.

    Raises:
        ConfigError: the URL cannot work.
        MissingExtra: the package ``redis`` is not installed.
    """

    def __init__(self, url: str, *, prefix: str, password: str | None) -> None:
        self._url, self._user, self.address = _checked(url)
        self._prefix = prefix
        self._password = password
        self._lua = _LUA.read_text(encoding="utf-8")
        self._connections = PerLoop(self._connect, close=_close)
        self._closed = False
        _library()

    async def call(self, *arguments: str | int) -> list[Any]:
        """One operation of the script, in one round trip.

        Raises:
            LedgerError: the server cannot be reached, or failed.
        """
        script = (await self._here()).script
        return cast("list[Any]", await self._guarded(script([self._prefix], arguments)))

    async def read(self, ask: Callable[[Redis, str], Awaitable[Any]]) -> Any:
        """Run a plain command on the ledger's keys and return its result.

        Raises:
            LedgerError: the server cannot be reached, or failed.
        """
        return await self._guarded(ask((await self._here()).redis, self._prefix))

    async def aclose(self) -> None:
        """Close this loop's connections, and those of other loops as soon as these get to it."""
        self._closed = True
        await self._connections.aclose()

    async def _guarded(self, answer: Awaitable[Any]) -> Any:
        redis = _library()
        try:
            return await answer
        except (redis.RedisError, OSError, TimeoutError) as error:
            raise LedgerError(
                f"the ledger at {self.address} failed: {type(error).__name__}: {error}; check that the server is "
                "up, reachable, accepts this password and has memory left; a hold in progress will expire"
            ) from error

    async def _here(self) -> _Connected:
        if self._closed:
            raise LedgerError(f"the ledger at {self.address} is closed")
        return await self._connections.get()

    def _connect(self) -> _Connected:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialWithJitterBackoff

        pool = BlockingConnectionPool.from_url(
            self._url,
            max_connections=_CONNECTIONS,
            timeout=_QUEUE_S,
            username=self._user,
            password=self._password,
            decode_responses=True,
            socket_timeout=_SILENCE_S,
            socket_connect_timeout=_SILENCE_S,
            retry=Retry(ExponentialWithJitterBackoff(base=_BACKOFF_S, cap=_LONGEST_BACKOFF_S), _TRIES),
        )
        redis = Redis.from_pool(pool)
        return _Connected(redis, redis.register_script(self._lua))


async def _close(connected: _Connected) -> None:
    await connected.redis.aclose()


def _library() -> Any:
    try:
        import redis
    except ImportError as error:
        raise MissingExtra("a ledger on Redis", extra="redis") from error
    return redis


def _checked(url: str) -> tuple[str, str | None, str]:
    """The URL without user, the user, and what may be shown.

    Raises:
        ConfigError: not the URL of a Redis, or one with a password or options.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("redis", "rediss"):
        raise ConfigError("a ledger on Redis needs a URL such as redis://127.0.0.1:6379/0 or rediss://host:6379/0")
    if parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "the URL of a ledger must not contain a password or options, because it appears in errors; pass the "
            "password by password_env, the name of an environment variable, or in code as password="
        )
    database = parts.path.strip("/") or "0"
    if not database.isdecimal():
        raise ConfigError("the path in the URL of a ledger on Redis must be a database number, such as /0")
    place = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{place}:{port or 6379}/{database}"
    return shown, parts.username, shown

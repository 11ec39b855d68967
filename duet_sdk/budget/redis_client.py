"""The ledger's script on a Redis: connections for each event loop, errors as ours, the password never shown."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

from duet_sdk._tasks import PerLoop
from duet_sdk.errors import ConfigError, LedgerError, MissingExtra

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

    Client: TypeAlias = Redis | RedisCluster

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
_ADVICE: Final = (
    ("ReadOnlyError", "the address is a read-only replica's: name the primary, or an address that follows it"),
    ("BusyLoadingError", "the server is still loading its data, and answers once that is done"),
    ("WRONGTYPE", "something else writes keys of this name: give the ledger a name of its own (redis://…/0#name)"),
    ("NoPermissionError", "allow this user the commands of category @scripting, hgetall and xrange, on keys {duet:*"),
    ("MISCONF", "the server takes no writes because it cannot save them: see its log"),
    ("NOREPLICAS", "the server takes no writes while too few of its replicas are connected"),
    ("ClusterDownError", "the cluster does not serve every slot: redis-cli --cluster check shows which"),
    ("RedisClusterException", "every address that the cluster announces must be reachable from here"),
)
"""What to do, by a word of the error. Source: redis.io/docs/latest/develop/reference/protocol-spec, server.c and
cluster.c of Redis 7, and redis-py's exceptions.py."""
_DEFAULT_ADVICE: Final = (
    "check that the server is up, reachable, accepts this password and has memory left; a hold in progress will expire"
)


@dataclass(slots=True)
class _Connected:
    """The connections of one event loop."""

    redis: Client
    is_cluster: bool = False
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CONNECTIONS))
    """A cluster's connections that are free; the pool of a single server counts its own."""
    left: list[Client] = field(default_factory=list)
    """The client of a single server that turned out to belong to a cluster; calls may still be under way on it."""


class RedisScript:
    """Calls the script; every call may be repeated, so that one whose answer was lost is sent again.

    A server that turns out to belong to a cluster is spoken to as one: every key of a ledger is in one slot.

    Args:
        url: of the server.
        lua: the script.
        prefix: of the ledger's keys.
        password: of the server.

    Raises:
        ConfigError: the URL cannot work.
        MissingExtra: the package ``redis`` is not installed.
    """

    def __init__(self, url: str, lua: Path, *, prefix: str, password: str | None) -> None:
        self._url, self._user, self.address = _checked(url)
        self._prefix = prefix
        self._password = password
        self._lua = lua.read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self._lua.encode(), usedforsecurity=False).hexdigest()
        self._connections = PerLoop(self._connect, close=_close)
        self._closed = False
        _library()

    async def call(self, *arguments: str | int) -> list[Any]:
        """One operation of the script, in one round trip.

        Raises:
            LedgerError: the server cannot be reached, or failed.
            ConfigError: the database does not exist, as the server belongs to a cluster.
        """
        return cast("list[Any]", await self._guarded(lambda redis: self._run(redis, arguments)))

    async def read(self, ask: Callable[[Client, str], Awaitable[Any]]) -> Any:
        """Run a plain command on the ledger's keys and return its result.

        Raises:
            LedgerError: the server cannot be reached, or failed.
        """
        return await self._guarded(lambda redis: ask(redis, self._prefix))

    async def aclose(self) -> None:
        """Close this loop's connections, and those of other loops as soon as these get to it."""
        self._closed = True
        await self._connections.aclose()

    async def _run(self, redis: Client, arguments: tuple[str | int, ...]) -> Any:
        try:
            return await redis.evalsha(self._sha, 1, self._prefix, *arguments)
        except _library().exceptions.NoScriptError:  # restarted, flushed, or another server after a failover
            return await redis.eval(self._lua, 1, self._prefix, *arguments)

    async def _guarded(self, ask: Callable[[Client], Awaitable[Any]]) -> Any:
        here, errors = await self._here(), _library().exceptions
        try:
            for number in range(_TRIES + 1):
                used = here.redis
                try:
                    if not here.is_cluster:
                        return await ask(used)
                    async with asyncio.timeout(_QUEUE_S):
                        await here.free.acquire()
                    try:
                        return await ask(used)
                    finally:
                        here.free.release()
                except errors.MovedError:
                    if here.is_cluster:
                        raise
                    await self._join_cluster(here, used)
                except errors.ReadOnlyError:
                    # A primary that was made a replica: its name may lead to the new primary by now.
                    if here.is_cluster or number == _TRIES:
                        raise
                    await _hang_up(used)
                    await asyncio.sleep(min(_BACKOFF_S * 2**number, _LONGEST_BACKOFF_S))
            raise LedgerError(f"the ledger at {self.address} failed: its server sends every call elsewhere")
        except (errors.RedisError, errors.RedisClusterException, OSError, TimeoutError) as error:
            said = f"{type(error).__name__}: {error}"
            if "SELECT is not allowed" in said:
                raise ConfigError(
                    f"{self.address} is a Redis cluster, which has one database alone: let the URL end in /0"
                ) from error
            advice = next((advice for word, advice in _ADVICE if word in said), _DEFAULT_ADVICE)
            raise LedgerError(f"the ledger at {self.address} failed: {said}; {advice}") from error

    async def _join_cluster(self, here: _Connected, used: Client) -> None:
        """Speak to the whole cluster from now on; the first of several concurrent calls arranges it."""
        if here.redis is not used:
            return
        from redis.asyncio import RedisCluster

        here.redis, here.is_cluster = RedisCluster.from_url(self._url, **self._options()), True
        here.left.append(used)

    async def _here(self) -> _Connected:
        if self._closed:
            raise LedgerError(f"the ledger at {self.address} is closed")
        return await self._connections.get()

    def _connect(self) -> _Connected:
        from redis.asyncio import BlockingConnectionPool, Redis

        pool = BlockingConnectionPool.from_url(self._url, timeout=_QUEUE_S, **self._options())
        return _Connected(Redis.from_pool(pool))

    def _options(self) -> dict[str, Any]:
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialWithJitterBackoff

        return {
            "max_connections": _CONNECTIONS,
            "username": self._user,
            "password": self._password,
            "decode_responses": True,
            "socket_timeout": _SILENCE_S,
            "socket_connect_timeout": _SILENCE_S,
            "retry": Retry(ExponentialWithJitterBackoff(base=_BACKOFF_S, cap=_LONGEST_BACKOFF_S), _TRIES),
        }


async def _close(connected: _Connected) -> None:
    for client in (connected.redis, *connected.left):
        await client.aclose()


async def _hang_up(redis: Client) -> None:
    """Close a single server's idle connections; those in use go when their calls are over."""
    pool = getattr(redis, "connection_pool", None)
    if pool is not None:
        await pool.disconnect(inuse_connections=False)


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

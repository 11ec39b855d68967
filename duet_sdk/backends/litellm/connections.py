"""LiteLLM itself: how it is imported, and the connections that it opens for DUET.

LiteLLM keeps HTTP clients in a cache of the process, one for each event loop and set of parameters, and shares them
with everybody who calls it. DUET notes which of them appeared during its own calls and, when a backend is closed,
closes their idle connections. A client whose connections were closed opens new ones at its next call, so that this
disturbs no other caller.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

from duet_sdk.errors import MissingExtra

_refusing: ContextVar[bool] = ContextVar("this call's redirects are refused", default=False)
# Of the process, as LiteLLM's cache is: a client may be opened by one backend and used by another.
_opened: WeakSet[Any] = WeakSet()


def load() -> Any:
    """LiteLLM's module, imported at the first call; takes seconds then.

    Three things outside DUET are changed, and only these. ``LITELLM_LOCAL_MODEL_COST_MAP`` is set where it is not set:
    without it the import fetches a price list from the network. It is written and never read here, and stays, as
    LiteLLM looks at it again later. ``litellm.suppress_debug_info`` is turned on: LiteLLM otherwise prints advice to
    standard output at every error, where DUET's own output may go. And httpx's clients ask, before they follow a
    redirect, whether the request is one of DUET's calls: see `refusing_redirects`. All other requests in the process
    are sent as they were.

    Raises:
        MissingExtra: LiteLLM is not installed.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ModuleNotFoundError as error:
        raise MissingExtra("backend 'litellm'", extra="litellm") from error
    litellm.suppress_debug_info = True
    _guard_redirects()
    return litellm


@contextmanager
def refusing_redirects() -> Iterator[None]:
    """Redirects are not followed inside: they would carry key and prompt to another place.

    A download, of an image that the user names by its URL, carries neither and may be redirected.
    """
    before = _refusing.set(True)
    try:
        yield
    finally:
        _refusing.reset(before)


@cache
def _guard_redirects() -> None:
    """Make the clients that LiteLLM and the OpenAI SDK send with look at `_refusing`.

    LiteLLM has no option for it that all providers heed, makes its clients itself, and shares them with every caller
    in the process: so it is the request that decides, not the client.
    """
    for name in ("httpx", "httpx2"):  # the OpenAI SDK sends by the second from release 3 on
        if find_spec(name) is not None:
            library = import_module(name)
            for client in (library.Client, library.AsyncClient):
                client.send = _guarded(client.send)


def _guarded(send: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(send)
    def guarded(client: Any, request: Any, **options: Any) -> Any:
        if _refusing.get() and request.method not in ("GET", "HEAD"):
            options["follow_redirects"] = False
        return send(client, request, **options)

    return guarded


class Clients:
    """The HTTP clients that LiteLLM opens while it is watched."""

    def __init__(self) -> None:
        self._used = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note the clients that LiteLLM adds to its cache inside; redirects are refused."""
        self._used = True
        cached = _cached()
        before = {id(client) for client in cached.values()}
        try:
            with refusing_redirects():
                yield
        finally:
            for client in list(_cached().values()):
                if id(client) not in before and _session(client) is not None:
                    _opened.add(client)

    async def aclose(self) -> None:
        """Close what was opened in this event loop and is idle; what is busy is left to its user."""
        if not self._used:
            return
        for client in list(_opened):
            session = _session(client)
            # Neither library says in public whether a request is running; without an answer it is left open.
            busy = getattr(getattr(session, "connector", None), "_acquired", True)
            if session is not None and not busy and getattr(session, "_loop", None) is asyncio.get_running_loop():
                await session.close()


def _cached() -> dict[str, Any]:
    import litellm

    cached: dict[str, Any] = getattr(litellm.in_memory_llm_clients_cache, "cache_dict", {})
    return cached


def _session(client: object) -> Any | None:
    """The aiohttp session under a client of LiteLLM (``client``) or of the OpenAI SDK (``_client``)."""
    import aiohttp

    for holder in (getattr(client, "client", None), getattr(client, "_client", None)):
        session = getattr(getattr(holder, "_transport", None), "client", None)
        if isinstance(session, aiohttp.ClientSession):
            return session
    return None

"""The ASGI app: which path is answered by what, and what every request passes on its way there."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from duet_sdk.client import AsyncDuetClient
from duet_sdk.errors import BudgetExceeded
from duet_sdk.gateway import access_log
from duet_sdk.gateway.admission import Admission
from duet_sdk.gateway.bounds import check_bounds
from duet_sdk.gateway.description import description
from duet_sdk.gateway.errors import NOT_AGAIN, Refused, refused
from duet_sdk.gateway.exchange import Exchange, Left, Receive, Scope, Send
from duet_sdk.gateway.guards import Guards
from duet_sdk.gateway.kept import Kept
from duet_sdk.gateway.keys import Keys
from duet_sdk.gateway.metrics import KIND, Metrics
from duet_sdk.gateway.model_cards import card, cards
from duet_sdk.gateway.names import Names
from duet_sdk.gateway.quiet import Quiet
from duet_sdk.gateway.rates_shared import rates_of
from duet_sdk.gateway.running import LAST_WORD_S, Running, ended
from duet_sdk.gateway.signals import Signals
from duet_sdk.gateway.spans import spanned
from duet_sdk.gateway.values import check_signs, check_values
from duet_sdk.gateway.wires.answering import answer
from duet_sdk.gateway.wires.chat import CHAT
from duet_sdk.gateway.wires.counting import count
from duet_sdk.gateway.wires.messages import MESSAGES
from duet_sdk.gateway.wires.responses import RESPONSES
from duet_sdk.gateway.wires.responses_paths import kept_paths
from duet_sdk.gateway.wires.wire import Given
from duet_sdk.gateway_policy import GatewayPolicy

if TYPE_CHECKING:
    from duet_sdk.gateway.keys import Caller
    from duet_sdk.gateway.wires.wire import Wire
    from duet_sdk.gateway.worker_metrics import WorkerMetrics
    from duet_sdk.reply import Reply
    from duet_sdk.settings import Settings

_log = logging.getLogger(__name__)
_decode: Final = msgspec.json.Decoder().decode
_LEFT: Final = 499
"""What logs call a request whose client has gone; nginx's number, as HTTP has none."""
_MODELS: Final = "/v1/models"
_MESSAGES: Final = "/v1/messages"
_RESPONSES: Final = "/v1/responses"
_WIRES: Final[Mapping[str, Wire]] = {"/v1/chat/completions": CHAT, _RESPONSES: RESPONSES, _MESSAGES: MESSAGES}
_COUNTING: Final[Mapping[str, Wire]] = {
    f"{_MESSAGES}/count_tokens": MESSAGES,
    f"{_RESPONSES}/input_tokens": RESPONSES,
}
_Handler: TypeAlias = "Callable[[Exchange], Awaitable[Reply | None]]"


class Gateway:
    """An ASGI app that serves pairs; `app` makes one.

    Args:
        pairs: clients by the name of their pair, which begins the names of its models.
        policy: what is served, and to whom.
        owned: clients to close when the server ends.
        before: the gateway that this one takes the place of; it goes on with its counts and signals.
        beside: where the counts of other workers are.

    Raises:
        ConfigError: a key's variable is not set, or an alias stands for no name.
    """

    def __init__(
        self,
        pairs: Mapping[str, AsyncDuetClient],
        policy: GatewayPolicy,
        *,
        owned: tuple[AsyncDuetClient, ...] = (),
        before: Gateway | None = None,
        beside: WorkerMetrics | None = None,
    ) -> None:
        self.policy = policy
        self.pairs = pairs
        self.names = Names(pairs, policy)
        self.metrics: Metrics = Metrics() if before is None else before.metrics
        self.beside = beside
        self._keys = Keys(policy.keys, policy.key_file)
        if policy.cache_salt and (policy.keys or policy.key_file):
            for client in pairs.values():
                client.keep_tenants_apart(self._keys.secret())
        self._guards = Guards(policy)
        self._quiet = Quiet(policy.quiet_s)
        self.signals: Signals = Signals() if before is None else before.signals
        has_kept = before is not None and before.policy.most_kept_bytes == policy.most_kept_bytes
        self.kept: Kept = before.kept if before is not None and has_kept else Kept(policy.most_kept_bytes)
        known = None if before is None else before.admission
        self.admission: Admission = Admission(
            policy, rates_of(pairs.values(), on_failure=policy.rates_on_failure), before=known
        )
        self._owned = owned
        self.running = Running()
        self._ending = False
        self._routes: Mapping[str, Mapping[str, _Handler]] = {
            **{path: {"POST": self._ask} for path in _WIRES},
            **{path: {"POST": self._count} for path in _COUNTING},
            _MODELS: {"GET": self._models},
            "/metrics": {"GET": self._metrics},
        }
        # For whoever watches the process: no key, and any name of the host.
        self._open: Mapping[str, _Handler] = {
            "/health": self._health,
            "/ready": self._ready,
            "/openapi.json": self._description,
            "/api/hello": self._health,  # Claude Code asks there before its first request
        }
        self.metrics.by_tenant = policy.metrics_tenants  # last: what was refused by now changes nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's beginning and end."""
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send, receipt=os.urandom(12).hex())
            if exchange.path in _WIRES:
                exchange.record.path = exchange.path
                with spanned(exchange.record, exchange.headers):
                    await self._serve(exchange)
            else:
                await self._serve(exchange)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    def drain(self) -> None:
        """The server will end: ``/ready`` says so from now on."""
        self._ending = True

    async def aclose(self) -> None:
        """End what runs, with the wire's error, and close what `app` has made."""
        self.drain()
        self.running.end()
        await self.running.over()
        await self.admission.aclose()
        for client in self._owned:
            await client.aclose()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._ending = False  # a server may begin and end several times
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, exchange: Exchange) -> None:
        record = exchange.record
        self.running.add(exchange)
        self.metrics.running += 1
        try:
            record.reply = await self._handler(exchange)(exchange) or record.reply
        except Left:
            record.ended = "left"
        except asyncio.CancelledError:
            why = exchange.release()
            record.ended = why or "drained"
            if why is None:  # whoever runs this app ends it, and waits for nothing
                raise
            if why == "drained":
                await self._end(exchange)
        except Exception as error:  # noqa: BLE001  # the edge of the process: whatever it was, the client hears of it
            record.ended = "error"
            await self._refuse(exchange, error)
        finally:
            exchange.release()
            record.status = _LEFT if record.ended == "left" else record.status or exchange.status
            self.metrics.running -= 1
            self.metrics.ended(record)
            if self.policy.access_log:
                access_log.write(record)
            self.running.discard(exchange)

    def _handler(self, exchange: Exchange) -> _Handler:
        methods: Mapping[str, _Handler] | None
        if exchange.path in self._open or exchange.path in self._routes:
            exchange.record.path = exchange.path
        if exchange.path in self._open:
            methods = {"GET": self._open[exchange.path]}
        else:
            self._guards.check(exchange.headers)
            methods = self._routes.get(exchange.path)
        if methods is None and exchange.path.startswith(_MODELS + "/"):
            methods = {"GET": self._one_model}
        if methods is None and (known_of := kept_paths(exchange.path)) is not None:
            methods = dict.fromkeys(known_of, self._kept)
        if methods is None:
            known = ", ".join((*self._routes, *self._open))
            raise Refused(404, "not_found", f"there is nothing at this path; known: {known}", headers=NOT_AGAIN)
        handler = methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            allow = (b"allow", ", ".join(("GET, HEAD" if one == "GET" else one) for one in methods).encode())
            raise Refused(405, "method", f"send {' or '.join(methods)} to this path", headers=(allow, *NOT_AGAIN))
        return handler

    async def _end(self, exchange: Exchange) -> None:
        """Tell a client that reads that the server ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await self._refuse(exchange, ended())

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        """Tell the client."""
        told = refused(error)
        record = exchange.record
        record.status, record.code = told.status, told.code
        if isinstance(error, BudgetExceeded):
            record.reply = record.reply or error.reply
            kind, _, name = error.scope.partition(":")
            record.refused_scope = kind if name else None
        if told.status >= 500:  # what the client did wrong is no news to the operator
            level = logging.ERROR if told.code == "internal_error" else logging.WARNING
            _log.log(level, "request %s: %s: %s", exchange.receipt, type(error).__name__, error, exc_info=level > 30)
        if exchange.status and exchange.broken is not None:
            await exchange.end(exchange.broken(told))
            return
        wire = _wire(exchange)
        exchange.receipt_headers = wire.receipt_headers
        status, body, headers = wire.refusal(told, exchange.receipt)
        record.status = status
        await exchange.json(status, body, (*exchange.with_receipt(), *headers))

    async def _ask(self, exchange: Exchange) -> Reply:
        caller = self._keys.caller(exchange.headers)  # before the body is read: an unknown key costs nothing
        self._guards.check_json(exchange.headers)
        wire, record = _WIRES[exchange.path], exchange.record
        record.wire, record.tenant = wire.name, caller.tenant
        exchange.receipt_headers = wire.receipt_headers
        async with self.admission.admitted(exchange.headers, caller) as one:
            raw = await exchange.body(self.policy.most_body_bytes)
            exchange.end_if_client_leaves()
            before_s = time.monotonic()
            try:
                await one.turn()  # and then it is parsed
            finally:
                self.metrics.waited(time.monotonic() - before_s)
            body = _object(raw)
            check_bounds(body, self.policy)
            given = self._given(exchange, body, caller)
            record.streamed = body.get("stream") is True
            if body.get("stream") is True:
                self._quiet.watch(exchange)
            try:
                reply = await answer(exchange, wire, given, one)
            except BaseException:  # a client that leaves before the end pays for what it got, too
                if record.reply is not None:
                    await one.broke_off(record.reply.usage.total_tokens)
                raise
            finally:
                self._quiet.forget(exchange)
            await one.took(reply.usage.total_tokens)
            return reply

    def _given(self, exchange: Exchange, body: Mapping[str, Any], caller: Caller) -> Given:
        record = exchange.record
        asked = body.get("model")
        record.asked = asked if isinstance(asked, str) else ""
        choice = self.names.find(asked, caller)
        record.model = self.names.counted_as(record.asked, choice)
        now = int(time.time())
        return Given(
            body, exchange.headers, choice, caller, self.policy, exchange.receipt, now, self.signals, self.kept
        )

    async def _count(self, exchange: Exchange) -> None:
        caller = self._keys.caller(exchange.headers)
        self._guards.check_json(exchange.headers)
        wire = _COUNTING[exchange.path]
        exchange.receipt_headers = wire.receipt_headers
        exchange.record.wire, exchange.record.tenant = "count_tokens", caller.tenant
        async with self.admission.admitted(exchange.headers, caller) as one:
            raw = await exchange.body(self.policy.most_body_bytes)
            exchange.end_if_client_leaves()
            await one.turn()
            body = _object(raw)
            check_bounds(body, self.policy)
            counted = await count(self._given(exchange, body, caller), wire)
            await one.took(0)
        await exchange.json(200, counted, exchange.with_receipt())

    async def _models(self, exchange: Exchange) -> None:
        names = self.names.all_for(self._keys.caller(exchange.headers))
        await exchange.json(200, cards(names, anthropic=_is_anthropic(exchange)))

    async def _one_model(self, exchange: Exchange) -> None:
        name = exchange.path[len(_MODELS) + 1 :]
        self.names.find(name, self._keys.caller(exchange.headers))
        await exchange.json(200, card(name, anthropic=_is_anthropic(exchange)))

    async def _kept(self, exchange: Exchange) -> None:
        caller = self._keys.caller(exchange.headers)
        answers = kept_paths(exchange.path) or {}
        found = answers["GET" if exchange.method == "HEAD" else exchange.method](self.kept, caller)
        await exchange.json(200, found, exchange.with_receipt())

    async def _metrics(self, exchange: Exchange) -> None:
        self._keys.caller(exchange.headers)
        self.metrics.waiting = self.admission.line.waiting
        text = self.metrics.text() if self.beside is None else self.beside.all(self.metrics)
        await exchange.whole(200, text.encode(), KIND)

    async def _description(self, exchange: Exchange) -> None:
        await exchange.json(200, description())

    async def _health(self, exchange: Exchange) -> None:
        await exchange.json(200, {"status": "ok"})

    async def _ready(self, exchange: Exchange) -> None:
        await exchange.json(503 if self._ending else 200, {"status": "ending" if self._ending else "ok"})


def app(
    pair: AsyncDuetClient | Settings | Mapping[str, AsyncDuetClient], *, policy: GatewayPolicy | None = None
) -> Gateway:
    """The gateway as an ASGI app, to be run by a server or mounted in another app.

    A client that is given stays the caller's to close; one that is made from settings is closed with the server.

    Args:
        pair: a client, or several by the name that selects them; or settings, from which one is made.
        policy: what is served and to whom; by default the settings' own, else everything to loopback.

    Raises:
        ConfigError: settings of which no client can be made, a key's variable that is not set, an alias of no name.
    """
    if isinstance(pair, AsyncDuetClient):
        return Gateway({"duet": pair}, policy or GatewayPolicy())
    if isinstance(pair, Mapping):
        return Gateway(pair, policy or GatewayPolicy())
    client = AsyncDuetClient(settings=pair)
    return Gateway({"duet": client}, policy or pair.gateway, owned=(client,))


def _wire(exchange: Exchange) -> Wire:
    """Whose form the errors of a request have; where its path is no wire's own, as its client's headers look."""
    path = exchange.path
    other = MESSAGES if _is_anthropic(exchange) else CHAT
    return next((wire for own, wire in _WIRES.items() if path == own or path.startswith(own + "/")), other)


def _is_anthropic(exchange: Exchange) -> bool:
    return b"anthropic-version" in exchange.headers


def _object(body: bytes) -> dict[str, Any]:
    check_signs(body)
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused(400, "invalid_json", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "invalid_json", "the body must be a JSON object")
    check_values(found)
    return found

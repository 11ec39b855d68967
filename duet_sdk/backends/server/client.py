"""One OpenAI-compatible server as its client sees it: JSON questions, and answers that are generated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from duet_sdk._tasks import apart
from duet_sdk.backends.base import Chunk
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.server.decoding import UNREADABLE, Decoder
from duet_sdk.backends.server.http import (
    MAX_BODY_BYTES,
    TRANSPORT_ERRORS,
    BodyTooLong,
    Http,
    Silence,
    body_here,
    drain,
    read_body,
    was_closed_before,
)
from duet_sdk.backends.server.pulse import Awaited, Pulse, ServerStopped
from duet_sdk.backends.server.scale_out import GENERATE, Derender
from duet_sdk.backends.server.sse import LineTooLong
from duet_sdk.backends.server.wire import encode
from duet_sdk.errors import (
    BackendError,
    ConnectFailed,
    ContextOverflow,
    DuetError,
    ModelNotFound,
    Rejected,
    StreamBroken,
)

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from duet_sdk.backends.server.knowledge import Knowledge
    from duet_sdk.types import Json

_ERROR_BYTES: Final = 1 << 16
"""Most that is read of an error: far more than any server explains, and too little to matter."""
_ASK_S: Final = 30.0
"""Longest wait for what costs the server no generation: its lists, its tokenizer."""
_LONG: Final = 1 << 16
"""Bytes of a request from which on an error that may quote it is made in a thread: its words are compared with all of
the prompt, which takes milliseconds for each 64 KiB."""
_RESTARTS: Final = (502, 503, 504)
"""What stands in for a server that restarts says: gateways, and servers that are not ready yet."""
_DEAD: Final = 503
"""What vLLM's ``/health`` answers when its engine is dead. Source: vllm/entrypoints/serve/instrumentator/health.py."""
_STREAM: Final = "text/event-stream"
_MAY_STREAM: Final = frozenset((_STREAM, "text/plain", "application/octet-stream"))
"""The types of a stream: some servers send it as anything. aiohttp takes one without a type for the last."""
_STREAMS: Final = frozenset((_STREAM, f"{_STREAM}; charset=utf-8"))
"""The usual spellings; any other one is parsed."""


@dataclass(slots=True)
class Generation:
    """A request that generates, and how its answer is read."""

    path: str
    body: Json
    payload: bytes
    """``body`` as it is sent."""
    decoder: Decoder
    derender: Derender | None = None
    """Makes another request of it, to `GENERATE`, and the answer to that one such as ``path`` gives."""
    again: Again | None = None
    """How it is asked otherwise after a refusal."""
    headers: Mapping[str, str] | None = None
    """Sent with it in addition to the endpoint's own."""


Prepare: TypeAlias = Callable[[], Awaitable[Generation]]
"""Makes a request that generates."""
Again: TypeAlias = Callable[[BackendError], Prepare | None]
"""(why a request was refused) → the same in another form, None where there is none."""


class Server:
    """A server; its paths count from the API's base, or with ``//`` in front from the server's root.

    Args:
        base_url: where the API begins, ``/v1`` included.
        http: sends the requests.
        failures: makes the errors.
        read_s: longest wait for progress of an answer, in seconds.
        knowledge: is told what speaks against it, and asked anew where a refusal does; None where nothing is known.

    Attributes:
        pulse: looks whether the server has stopped, where it is silent.
    """

    def __init__(
        self, base_url: str, http: Http, failures: Failures, *, read_s: float, knowledge: Knowledge | None = None
    ) -> None:
        self._base = base_url
        self._knowledge = knowledge
        self.pulse = Pulse(self._refuses)
        self._root = base_url.removesuffix("/v1")
        self._http = http
        self._failures = failures
        self._read_s = read_s
        self._ask_s = min(read_s, _ASK_S)

    async def ask(self, path: str, body: Json | None, headers: Mapping[str, str] | None = None) -> Any:
        """One JSON answer of an endpoint other than those that generate; ``body`` None gets, else posts.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures`.
        """
        try:
            async with asyncio.timeout(self._ask_s):
                response = await (
                    self._send("GET", path, None, None) if body is None else self._post(path, body, headers)
                )
                try:
                    said = await read_body(response)
                    return await apart(lambda: json.loads(said), characters=len(said))
                finally:
                    response.close()
        except UNREADABLE:
            raise self._failures.wrong_url(f"its answer to {path.replace('//', '/')} is not JSON") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)

    async def streamed(  # noqa: C901, PLR0912, PLR0915  # one generator: each one around it costs something for every token
        self, prepare: Prepare
    ) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of a streamed answer, those of one network read in one step.

        Closing the iterator closes the connection, which makes the server stop.

        Args:
            prepare: makes the request when the first step is asked for. It is called in here because another
                generator around this one would cost something for every token.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures`, after the chunks that came before it;
                ContextOverflow and InvalidRequest likewise.
        """
        wanted, response = await self._begun(prepare)
        del prepare  # what is not needed while the stream is open must not be held by it
        decoder, derender, again = wanted.decoder, wanted.derender, wanted.again
        anew: Prepare | None = None
        is_long = len(wanted.payload) > _LONG
        del wanted  # frees the encoded prompt: it may be long, and the stream open for minutes
        content, silence = response.content, Silence(response, longest_s=self._read_s, pulse=self.pulse)
        try:
            if response.headers.get("Content-Type") not in _STREAMS and response.content_type not in _MAY_STREAM:
                await self._take_whole(response, decoder, derender)
            while not decoder.done:
                began = silence.since = monotonic()
                data = await content.readany()
                silence.since = None
                if not data:
                    break
                events = decoder.cut(data)
                if derender is not None:
                    events = await self._derendered(derender, events)
                chunks = await _read_apart(decoder, events) if is_long else decoder.read(events)
                if chunks and (chunks[0].text or chunks[0].token_ids):
                    silence.idle_s, silence.has_begun = 0.0, True
                else:
                    silence.heard(chunks, monotonic() - began)
                data, events = b"", ()  # whoever reads may take its time, and a stream may be open for long
                if chunks:
                    if content.at_eof():  # whoever reads need not wait for an end that is here already
                        chunks[-1].last = decoder.has_ended
                    yield chunks
                if decoder.failure is not None:
                    raise decoder.failure
                chunks = []
            if chunks := decoder.close():
                yield chunks
            if decoder.failure is not None:
                raise decoder.failure
            await drain(response)
        except (LineTooLong, *TRANSPORT_ERRORS) as error:
            raise self._cut(error) from _harmless(error)
        except BackendError as error:
            anew = _otherwise(again, error)
            if anew is None:
                raise
        finally:
            decoder.failure = None  # once raised it refers to this frame: without this, a reference cycle
            silence.over()
            response.close()
        if anew is not None:
            async with aclosing(self.streamed(anew)) as batches:
                async for chunks in batches:
                    yield chunks

    async def whole(self, prepare: Prepare) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of a whole answer, in one step. Arguments and errors as for `streamed`."""
        while True:
            wanted, response = await self._begun(prepare)
            try:
                chunks = await self._whole(response, wanted)
            except TRANSPORT_ERRORS as error:
                raise self._cut(error) from _harmless(error)
            except BackendError as error:
                anew = _otherwise(wanted.again, error)
                if anew is None:
                    raise
                prepare = anew
            else:
                break
            finally:
                response.close()
        if chunks:
            chunks[-1].last = True
            yield chunks

    async def _begun(self, prepare: Prepare) -> tuple[Generation, ClientResponse]:
        """The request, in the form in which the server takes it, and its answer as far as the headers.

        Prepared and sent once more where a refusal shows that the server is no longer what it was.
        """
        first: Prepare | None = prepare
        try:
            with Awaited(self.pulse):
                while True:
                    wanted: Generation | None = None
                    try:
                        wanted = await prepare()
                        if wanted.derender is not None:
                            asked = await wanted.derender.request()
                            return wanted, await self._post(GENERATE, asked, wanted.headers)
                        payload, body, more = wanted.payload, wanted.body, wanted.headers
                        return wanted, await self._send("POST", wanted.path, payload, body, more)
                    except (BackendError, ContextOverflow) as error:
                        anew = None if wanted is None else _otherwise(wanted.again, error)
                        if anew is None and first is not None and await self._is_contradicted(error):
                            anew, first = first, None
                        if anew is None:
                            raise
                        prepare = anew
        except ServerStopped as error:
            raise self._cut(error) from None
        except BackendError as error:
            self._note(error)
            raise

    def _note(self, error: BackendError) -> None:
        """What a failure says about whether the server is still what is known of it."""
        if self._knowledge is not None and isinstance(error, ConnectFailed) and error.retryable:
            self._knowledge.lost()
        elif self._knowledge is not None and error.status in _RESTARTS:
            self._knowledge.doubt()

    def _cut(self, error: Exception) -> StreamBroken:
        """The way to the server broke after the request was sent: who answers there the next time is not known."""
        if isinstance(error, LineTooLong):
            return self._failures.broken(f"{error} in its answer")
        if self._knowledge is not None:
            self._knowledge.lost()
        if isinstance(error, ServerStopped):
            return self._failures.broken("it is silent and accepts no new connections, so it has stopped")
        return self._failures.cut(error)

    async def _refuses(self) -> bool:
        """Whether the server is gone: it takes no connections, or its engine is dead (vLLM's 503 of ``/health``)."""
        if await self._http.refuses(self._base):
            return True
        if not self.pulse.ends_at_once:
            return False
        response = await self._http.send(await self._http.sessions.get(), "GET", f"{self._root}/health")
        response.close()
        return response.status == _DEAD

    async def _is_contradicted(self, error: Exception) -> bool:
        """Whether a refusal shows that the server is no longer what is known of it."""
        if self._knowledge is None or not isinstance(error, Rejected | ContextOverflow | ModelNotFound):
            return False
        return await self._knowledge.contradicted(error)

    async def _post(self, path: str, body: Json, headers: Mapping[str, str] | None) -> ClientResponse:
        return await self._send("POST", path, encode(body), body, headers)

    async def _send(
        self,
        method: str,
        path: str,
        payload: bytes | None,
        body: Json | None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """An answer that says yes; every other one is raised."""
        url = self._root + path[1:] if path.startswith("//") else self._base + path
        session = self._http.sessions.here() or await self._http.sessions.get()
        begun = monotonic()
        while True:
            try:
                response = await self._http.send(session, method, url, payload, headers)
                break
            except TRANSPORT_ERRORS as error:
                if not was_closed_before(error, begun=begun):
                    raise self._failures.no_connection(error) from _harmless(error)
        if 200 <= response.status < 300:
            return response
        try:
            said = await _beginning(response, within_s=self._ask_s)
        finally:
            response.close()
        explain = partial(self._failures.status, response.status, response.headers, said, body or {})
        raise await asyncio.to_thread(explain) if payload and len(payload) > _LONG else explain()

    async def _whole(self, response: ClientResponse, wanted: Generation) -> list[Chunk]:
        decoder, derender = wanted.decoder, wanted.derender
        try:
            said = body_here(response)
            if said is None:
                async with asyncio.timeout(self._read_s):  # for all of it: empty lines keep a connection alive, too
                    said = await read_body(response)
            if derender is not None:
                said = await derender.whole(said)
        except UNREADABLE as error:
            reason = (
                str(error)
                if isinstance(error, BodyTooLong)
                else f"its answer is no completion ({response.content_type})"
            )
            raise self._failures.broken(reason) from None
        if len(said) + len(wanted.payload) > _LONG:
            chunks = await asyncio.to_thread(decoder.whole, said, kind=response.content_type)
        else:
            chunks = decoder.whole(said, kind=response.headers.get("Content-Type", "untyped"))
        if decoder.failure is not None:
            raise decoder.failure
        return chunks

    async def _derendered(self, derender: Derender, events: Sequence[bytes]) -> Sequence[bytes]:
        try:
            return await derender.events(events)
        except UNREADABLE as error:
            raise self._failures.unreadable(error) from None

    async def _take_whole(self, response: ClientResponse, decoder: Decoder, derender: Derender | None) -> None:
        """Read what is no stream, though one was asked for: an answer in one piece, or an error with status 200."""
        said = await _beginning(response, within_s=self._read_s, most=MAX_BODY_BYTES)
        if derender is not None:
            with suppress(*UNREADABLE):  # an error has a form of its own
                said = await derender.whole(said)
        await asyncio.to_thread(decoder.take_whole, said, kind=response.content_type)


async def _beginning(response: ClientResponse, *, within_s: float, most: int = _ERROR_BYTES) -> bytes:
    """The beginning of an error; what came of one that breaks off, or drips in, says more than nothing."""
    said = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for data in response.content.iter_any():
                said += data
                if len(said) >= most:
                    break
    except TRANSPORT_ERRORS:
        pass
    return bytes(said[:most])


async def _read_apart(decoder: Decoder, events: Sequence[bytes]) -> list[Chunk]:
    """As `Decoder.read`, off the event loop where the events may hold an error about a long request."""
    if any(b'"choices"' not in event or b'"error"' in event for event in events):
        return await asyncio.to_thread(decoder.read, events)
    return decoder.read(events)


def _otherwise(again: Again | None, error: DuetError) -> Prepare | None:
    """The request in another form; None where the error is no refusal, came after words of an answer, or all failed."""
    if again is None or isinstance(error, StreamBroken) or not isinstance(error, BackendError):
        return None
    return again(error)


def _harmless(error: Exception) -> Exception | None:
    """The cause to show; not one that holds the request's headers, and with them the key."""
    return None if hasattr(error, "request_info") else error

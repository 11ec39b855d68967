"""One OpenAI-compatible server as its client sees it: JSON questions, and answers that are generated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from duet_sdk.backends.base import Chunk
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.refusals import error_within, parsed
from duet_sdk.backends.server.decoding import UNREADABLE, Decoder
from duet_sdk.backends.server.http import TRANSPORT_ERRORS, BodyTooLong, Http, Silence, drain, read_body
from duet_sdk.backends.server.reading import OutputFailed
from duet_sdk.backends.server.scale_out import GENERATE, Derender
from duet_sdk.backends.server.sse import LineTooLong
from duet_sdk.backends.server.wire import encode
from duet_sdk.errors import BackendError, Rejected

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from duet_sdk.types import Json

_ERROR_BYTES: Final = 1 << 16
"""Most that is read of an error: far more than any server explains, and too little to matter."""
_ASK_S: Final = 30.0
"""Longest wait for what costs the server no generation: its lists, its tokenizer."""
_STREAM: Final = "text/event-stream"
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
        read_s: longest silence, in seconds.
    """

    def __init__(self, base_url: str, http: Http, failures: Failures, *, read_s: float) -> None:
        self._base = base_url
        self._root = base_url.removesuffix("/v1")
        self._http = http
        self._failures = failures
        self._read_s = read_s
        self._ask_s = min(read_s, _ASK_S)

    async def ask(self, path: str, body: Json | None) -> Any:
        """One JSON answer of an endpoint other than those that generate; ``body`` None gets, else posts.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures`.
        """
        try:
            async with asyncio.timeout(self._ask_s):
                response = await (self._send("GET", path, None, None) if body is None else self._post(path, body))
                try:
                    return json.loads(await read_body(response))
                finally:
                    response.close()
        except UNREADABLE:
            raise self._failures.wrong_url(f"its answer to {path.replace('//', '/')} is not JSON") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)

    async def streamed(  # noqa: C901, PLR0912  # one generator: each one around it costs something for every token
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
        wanted, response = await self._begin(prepare)
        del prepare  # what is not needed while the stream is open must not be held by it
        body, decoder, derender, again = wanted.body, wanted.decoder, wanted.derender, wanted.again
        anew: Prepare | None = None
        del wanted  # frees the encoded prompt: it may be long, and the stream open for minutes
        content, silence = response.content, Silence(response, longest_s=self._read_s)
        try:
            if response.headers.get("Content-Type") not in _STREAMS and response.content_type != _STREAM:
                raise await self._no_stream(response, body)
            while not decoder.done:
                silence.since = monotonic()
                data = await content.readany()
                silence.since = None
                if not data:
                    break
                events = decoder.cut(data)
                if derender is not None:
                    events = await self._derendered(derender, events)
                chunks = decoder.read(events)
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
        except LineTooLong as error:
            raise self._failures.broken(f"{error} in its answer") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.cut(error) from _harmless(error)
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
            wanted, response = await self._begin(prepare)
            try:
                chunks = await self._whole(response, wanted.decoder, wanted.derender)
            except TRANSPORT_ERRORS as error:
                raise self._failures.cut(error) from _harmless(error)
            except BackendError as error:
                anew = _otherwise(wanted.again, error)
                if anew is None:
                    raise
                prepare = anew
            else:
                break
            finally:
                response.close()
        chunks[-1].last = True
        yield chunks

    async def _begin(self, prepare: Prepare) -> tuple[Generation, ClientResponse]:
        """The request, in the form in which the server takes it, and its answer."""
        while True:
            wanted = await prepare()
            try:
                if wanted.derender is not None:
                    return wanted, await self._begin_derendered(wanted.derender)
                return wanted, await self._send("POST", wanted.path, wanted.payload, wanted.body)
            except BackendError as error:
                anew = _otherwise(wanted.again, error)
                if anew is None:
                    raise
                prepare = anew

    async def _begin_derendered(self, derender: Derender) -> ClientResponse:
        return await self._post(GENERATE, await derender.request())

    async def _post(self, path: str, body: Json) -> ClientResponse:
        return await self._send("POST", path, encode(body), body)

    async def _send(self, method: str, path: str, payload: bytes | None, body: Json | None) -> ClientResponse:
        """An answer that says yes; every other one is raised."""
        url = self._root + path[1:] if path.startswith("//") else self._base + path
        try:
            response = await self._http.send(method, url, payload)
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)
        if 200 <= response.status < 300:
            return response
        try:
            said = await _beginning(response)
        finally:
            response.close()
        raise self._failures.status(response.status, response.headers, said, body or {})

    async def _whole(self, response: ClientResponse, decoder: Decoder, derender: Derender | None) -> list[Chunk]:
        try:
            said = await read_body(response)
            chunks = decoder.whole(said if derender is None else await derender.whole(said))
        except OutputFailed as error:
            raise self._failures.broken(str(error)) from None
        except UNREADABLE as error:
            reason = (
                str(error)
                if isinstance(error, BodyTooLong)
                else f"its answer is no completion ({response.content_type})"
            )
            raise self._failures.broken(reason) from None
        if decoder.failure is not None:
            raise decoder.failure
        return chunks

    async def _derendered(self, derender: Derender, events: Sequence[bytes]) -> Sequence[bytes]:
        try:
            return await derender.events(events)
        except UNREADABLE as error:
            raise self._failures.unreadable(error) from None

    async def _no_stream(self, response: ClientResponse, body: Json) -> Exception:
        """Why an answer is no stream: an error that came with status 200, or something else altogether."""
        if (error := error_within(parsed(await _beginning(response)))) is not None:
            return self._failures.event(error, body, begun=False)
        return self._failures.broken(f"a stream was asked for, and its answer is {response.content_type or 'untyped'}")


async def _beginning(response: ClientResponse) -> bytes:
    """The beginning of an error; what came of one that breaks off says more than nothing."""
    said = bytearray()
    try:
        async for data in response.content.iter_any():
            said += data
            if len(said) >= _ERROR_BYTES:
                break
    except TRANSPORT_ERRORS:
        pass
    return bytes(said[:_ERROR_BYTES])


def _otherwise(again: Again | None, error: BackendError) -> Prepare | None:
    """The request in another form; None where the error is no refusal, came after words of an answer, or all failed."""
    is_refusal = isinstance(error, Rejected) or type(error) is BackendError  # template errors are 400 or 500
    return again(error) if again is not None and is_refusal else None


def _harmless(error: Exception) -> Exception | None:
    """The cause to show; not one that holds the request's headers, and with them the key."""
    return None if hasattr(error, "request_info") else error

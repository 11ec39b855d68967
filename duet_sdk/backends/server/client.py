"""One OpenAI-compatible server as its client sees it: JSON questions, and answers that are generated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from duet_sdk.backends.base import Chunk
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.server.http import TRANSPORT_ERRORS, BodyTooLong, Http, drain, read_body
from duet_sdk.backends.server.joining import Joiner
from duet_sdk.backends.server.scale_out import GENERATE, Derender
from duet_sdk.backends.server.sse import EventParser, LineTooLong
from duet_sdk.backends.server.wire import OutputFailed, Reader, encode

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from duet_sdk.types import Json

_ERROR_BYTES: Final = 1 << 16
_ASK_S: Final = 30.0
"""Longest wait for what costs the server no generation: its lists, its tokenizer."""
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Generation:
    """A request that generates, and how its answer is read."""

    path: str
    body: Json
    reader: Reader
    derender: Derender | None = None
    """Makes another request of it, to `GENERATE`, and the answer to that one such as ``path`` gives."""
    joiner: Joiner | None = None
    """Makes fewer chunks of it, where nobody looks at each."""


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
        self._ask_s = min(read_s, _ASK_S)

    async def ask(self, path: str, body: Json | None) -> Any:
        """One JSON answer of an endpoint other than those that generate; ``body`` None gets, else posts.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures`.
        """
        try:
            async with asyncio.timeout(self._ask_s):
                response = await self._send("GET" if body is None else "POST", path, body)
                try:
                    return json.loads(await read_body(response))
                finally:
                    response.close()
        except _UNREADABLE:
            raise self._failures.wrong_url(f"its answer to {path.replace('//', '/')} is no JSON") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)

    async def generate(self, prepare: Callable[[], Awaitable[Generation]]) -> AsyncGenerator[Chunk, None]:
        """The chunks of an answer, streamed where the request asks for a stream.

        Closing the iterator closes the connection, which makes the server stop.

        Args:
            prepare: makes the request, when the first chunk is asked for. It is made in here, as another generator
                around this one would be paid for with every token.

        Raises:
            BackendError: see `duet_sdk.backends.failures.Failures`; ContextOverflow and InvalidRequest likewise.
        """
        wanted = await prepare()
        body, reader, derender, joiner = wanted.body, wanted.reader, wanted.derender, wanted.joiner
        if derender is None:
            response = await self._send("POST", wanted.path, body)
        else:
            response = await self._send("POST", GENERATE, await derender.request())
        try:
            if not body["stream"]:
                for chunk in await self._whole(response, reader, body, derender):
                    yield chunk
                return
            if response.content_type != "text/event-stream":
                raise await self._no_stream(response, body)
            parser = EventParser()
            async for data in response.content.iter_any():
                events = parser.feed(data)
                if derender is not None:
                    events = await self._derendered(derender, events)
                read = self._read(reader, events, body)
                for chunk in read if joiner is None else joiner.join(read):
                    yield chunk
                if reader.done:
                    break
            for chunk in self._read(reader, parser.close(), body):
                yield chunk
            self._check_end(reader)
            await drain(response)
        except LineTooLong as error:
            raise self._failures.broken(f"{error} in its answer") from None
        except TRANSPORT_ERRORS as error:
            raise self._failures.cut(error) from _harmless(error)
        finally:
            response.close()

    async def _send(self, method: str, path: str, body: Json | None) -> ClientResponse:
        """An answer that says yes; every other one is raised."""
        url = self._root + path[1:] if path.startswith("//") else self._base + path
        payload = None if body is None else encode(body)
        try:
            response = await self._http.send(method, url, payload)
        except TRANSPORT_ERRORS as error:
            raise self._failures.no_connection(error) from _harmless(error)
        if 200 <= response.status < 300:
            return response
        try:
            said = await read_body(response, limit=_ERROR_BYTES)
        except (*TRANSPORT_ERRORS, BodyTooLong):
            said = b""
        finally:
            response.close()
        raise self._failures.status(response.status, response.headers, said, body or {})

    async def _whole(
        self, response: ClientResponse, reader: Reader, body: Json, derender: Derender | None
    ) -> list[Chunk]:
        try:
            said = await read_body(response)
            value = from_json(said if derender is None else await derender.whole(said))
            if isinstance(value, dict) and value.get("error"):
                raise self._failures.event(value["error"], body, begun=False)
            chunks = reader.whole(value)
        except OutputFailed as error:
            raise self._failures.broken(str(error)) from None
        except _UNREADABLE as error:
            reason = (
                str(error)
                if isinstance(error, BodyTooLong)
                else f"its answer is no completion ({response.content_type})"
            )
            raise self._failures.broken(reason) from None
        self._check_end(reader)
        return chunks

    async def _derendered(self, derender: Derender, events: Sequence[bytes]) -> Sequence[bytes]:
        try:
            return await derender.events(events)
        except _UNREADABLE as error:
            raise self._failures.unreadable(error) from None

    async def _no_stream(self, response: ClientResponse, body: Json) -> Exception:
        """Why an answer is no stream: an error that came with status 200, or something else altogether."""
        try:
            value = json.loads(await read_body(response, limit=_ERROR_BYTES))
        except _UNREADABLE:
            value = None
        if isinstance(value, dict) and value.get("error"):
            return self._failures.event(value["error"], body, begun=False)
        return self._failures.broken(f"a stream was asked for, and its answer is {response.content_type or 'untyped'}")

    def _read(self, reader: Reader, events: Sequence[bytes], body: Json) -> Iterator[Chunk]:
        """The chunks of events up to the one that says that the stream is over."""
        for event in events:
            if reader.done or event == b"[DONE]":
                reader.done = True
                return
            try:
                value = from_json(event)
                error = value.get("error")
                chunks = () if error else reader.event(value)
            except OutputFailed as failed:
                raise self._failures.broken(str(failed)) from None
            except _UNREADABLE as unreadable:
                raise self._failures.unreadable(unreadable) from None
            if error:
                raise self._failures.event(error, body, begun=reader.begun)
            yield from chunks

    def _check_end(self, reader: Reader) -> None:
        if reader.unfinished:
            raise self._failures.broken("its answer ended without saying why")


def _harmless(error: Exception) -> Exception | None:
    """The cause to show; not one that holds the request's headers, and with them the key."""
    return None if hasattr(error, "request_info") else error

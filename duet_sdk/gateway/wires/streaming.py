"""One stream: events of the pair in, pieces of a wire out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.events import AnswerDelta, AnswerDone, Event, FellBack, Retried, SignalDelta, ToolCallDelta
from duet_sdk.gateway.errors import Refused

if TYPE_CHECKING:
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway.exchange import Exchange
    from duet_sdk.gateway.wires.wire import Asked, Writer
    from duet_sdk.reply import Reply
    from duet_sdk.stream import Run
    from duet_sdk.types import TokenLogprob

JOINED_S: Final = 0.02
"""Seconds for which pieces of a stream may wait to be sent together: fifty writes a second look alike to a reader, and
each costs the gateway as much as reading a token."""


class Stream:
    """Reads a run to its end and writes what it tells.

    Args:
        exchange: what is written to; nothing is before the first piece, so that an error still has a status.
        writer: makes the pieces.
        what: the request.
    """

    def __init__(self, exchange: Exchange, writer: Writer, what: Asked) -> None:
        self._exchange = exchange
        self._writer = writer
        self._what = what
        self._ready: list[bytes] = []
        """Pieces that are not sent yet."""
        self._signals: list[str] = []
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._finishes: dict[int, str | None] = {}
        self._shown = False
        """Whether anything of an answer was handed over, which cannot be taken back."""
        self._take: Mapping[type[Event], Any] = {
            AnswerDelta: self._text,
            ToolCallDelta: self._call,
            AnswerDone: self._answered,
            Retried: self._void,
            FellBack: self._void,
            **({SignalDelta: self._signal} if writer.shows_signal else {}),
        }

    async def run(self, client: AsyncDuetClient) -> Reply:
        """Stream the answer to its end.

        Raises:
            Refused: it broke off after something was shown, and the client must not take that for an answer.
            DuetError: it could not be answered.
        """
        run = client.stream(self._what.messages, **self._what.options)
        try:
            await self._pass_on(run)
        finally:  # the part, too, where it broke or the client left
            self._exchange.record.told(run.reply)
        reply = run.reply
        self._finishes.setdefault(0, reply.finish_reason)
        if not self._shown and not self._texts and reply.text:
            self._texts[0] = [reply.text]
        await self._exchange.end(self._pieces() + self._writer.end(reply, self._finishes))
        return reply

    async def _pass_on(self, run: Run) -> None:
        """Write what the run tells as it comes, but for the last of it."""
        loop = asyncio.get_running_loop()
        async with run:
            waiting, sent_s = run.outbox.events, 0.0
            async for event in run:
                take = self._take.get(type(event))
                if take is not None:
                    take(event)
                if waiting or not (self._ready or self._signals or self._texts):
                    continue  # what has come already goes with it
                wait_s = sent_s + JOINED_S - loop.time()
                if wait_s > 0 and not run.is_over:
                    await asyncio.sleep(wait_s)
                    if waiting:
                        continue
                if not run.is_over:
                    await self._exchange.write(self._pieces())
                    sent_s = loop.time()

    def _text(self, event: AnswerDelta) -> None:
        if event.text or event.logprobs:
            self._texts.setdefault(event.index, []).append(event.text)
            if event.logprobs:
                self._logprobs.setdefault(event.index, []).extend(event.logprobs)

    def _call(self, event: ToolCallDelta) -> None:
        self._join()  # a call never overtakes the text before it
        piece = self._writer.call(event)
        if piece:
            self._ready.append(piece)
            self._shown = True

    def _signal(self, event: SignalDelta) -> None:
        if event.text:
            self._signals.append(event.text)

    def _answered(self, event: AnswerDone) -> None:
        self._finishes[event.index] = event.finish_reason

    def _void(self, event: Retried | FellBack) -> None:
        """An answer starts over; none of it can be taken back from a client who has it.

        Raises:
            Refused: a part of it was sent.
        """
        if not event.discard:
            return
        if self._shown:
            raise Refused(502, "stream_broken", "the answer broke off; send the request again", kind="server_error")
        self._texts.clear()
        self._logprobs.clear()
        self._finishes.clear()

    def _join(self) -> None:
        """Make pieces of the texts that have come: one of the signal, one of each answer."""
        if self._signals:
            self._ready.append(self._writer.signal("".join(self._signals)))
            self._signals.clear()
        for index, texts in self._texts.items():
            self._ready.append(self._writer.text(index, "".join(texts), self._logprobs.get(index, ())))
            self._shown = True
        self._texts.clear()
        self._logprobs.clear()

    def _pieces(self) -> bytes:
        self._join()
        joined = b"".join(self._ready)
        self._ready.clear()
        return joined

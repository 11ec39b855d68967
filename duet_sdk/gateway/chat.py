"""``POST /v1/chat/completions``: one request of a client through both stages."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.events import AnswerDelta, AnswerDone, Event, FellBack, Retried, SignalDelta, ToolCallDelta
from duet_sdk.gateway.chat_in import Asked, asked
from duet_sdk.gateway.chat_out import (
    DONE,
    SIGNAL_FIELDS,
    Answer,
    Head,
    completion,
    finish_of,
    receipt_of,
    usage_of,
)
from duet_sdk.gateway.errors import Refused
from duet_sdk.types import ToolCall

if TYPE_CHECKING:
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway.exchange import Exchange
    from duet_sdk.gateway.keys import Caller
    from duet_sdk.gateway.names import Choice
    from duet_sdk.gateway.signals import Signals
    from duet_sdk.gateway_policy import GatewayPolicy
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob

JOINED_S: Final = 0.02
"""Seconds for which pieces of a stream may wait to be sent together: fifty writes a second look alike to a reader, and
each costs the gateway as much as reading a token."""


async def chat(
    exchange: Exchange,
    body: Mapping[str, Any],
    choice: Choice,
    caller: Caller,
    policy: GatewayPolicy,
    signals: Signals,
) -> Reply:
    """Answer a request, whole or in chunks; the reply, for the metrics.

    Raises:
        Refused: the request cannot be used, or its stream broke before anything of it was sent.
        DuetError: it could not be answered.
    """
    what = asked(body, choice, caller, exchange.headers, image_hosts=policy.image_hosts)
    what = replace(what, messages=signals.restored(caller.tenant, what.messages))
    head = Head(exchange.receipt, body["model"], int(time.time()))
    field = policy.signal_field if caller.sees_signal else "none"
    exchange.end_if_client_leaves()
    if what.streamed:
        reply = await Streaming(exchange, head, what, SIGNAL_FIELDS[field]).run(choice.client)
        signals.keep(caller.tenant, what.messages, reply.tool_calls, reply.signal.text)
        return reply
    answers, reply = await _whole(choice.client, what)
    signals.keep(caller.tenant, what.messages, reply.tool_calls, reply.signal.text)
    receipt = ((b"x-duet-receipt", exchange.receipt.encode()),)
    await exchange.json(200, completion(head, answers, reply, signal_field=field), receipt)
    return reply


async def _whole(client: AsyncDuetClient, what: Asked) -> tuple[list[Answer], Reply]:
    if what.answers == 1:
        reply = await client.chat(what.messages, **what.options)
        return [Answer(reply.text, reply.tool_calls, reply.finish_reason, reply.logprobs)], reply
    # A reply knows the calls and the end of one answer alone; the events have those of all.
    answers = [Answer() for _ in range(what.answers)]
    logprobs: defaultdict[int, list[TokenLogprob]] = defaultdict(list)
    calls: dict[tuple[int, int], list[str]] = {}
    async with client.stream(what.messages, **what.options) as run:
        async for event in run:
            if isinstance(event, AnswerDelta):
                logprobs[event.index] += event.logprobs
            elif isinstance(event, AnswerDone):
                answers[event.index].text, answers[event.index].finish_reason = event.text, event.finish_reason
            elif isinstance(event, ToolCallDelta):
                call = calls.setdefault((event.index, event.position), ["", "", ""])
                call[0], call[1], call[2] = event.id or call[0], event.name or call[1], call[2] + event.arguments
            elif isinstance(event, Retried | FellBack) and event.discard:
                logprobs.clear()
                calls.clear()
    for index, answer in enumerate(answers):
        answer.logprobs = logprobs[index]
        answer.calls = [ToolCall(*calls[at]) for at in sorted(calls) if at[0] == index]
    return answers, run.reply


class Streaming:
    """One stream: events in, chunks out.

    Args:
        exchange: what is written to; nothing is before the first piece, so that an error still has a status.
        head: of its chunks.
        what: the request.
        signal_fields: where the signal is shown.
    """

    def __init__(self, exchange: Exchange, head: Head, what: Asked, signal_fields: tuple[str, ...]) -> None:
        self._exchange = exchange
        self._head = head
        self._what = what
        self._signal_fields = signal_fields
        self._ready: list[bytes] = []
        """Chunks that are not sent yet."""
        self._signals: list[str] = []
        self._texts: dict[int, list[str]] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._begun: set[int] = set()
        """Answers of which something was shown."""
        self._calling: set[int] = set()
        self._finishes: dict[int, str | None] = {}
        self._sent_text = False
        self._take: Mapping[type[Event], Any] = {
            AnswerDelta: self._text,
            ToolCallDelta: self._call,
            AnswerDone: self._answered,
            Retried: self._void,
            FellBack: self._void,
            **({SignalDelta: self._signal} if signal_fields else {}),
        }

    async def run(self, client: AsyncDuetClient) -> Reply:
        """Stream the answer to its end.

        Raises:
            Refused: it broke off after something was shown, and the client must not take that for an answer.
            DuetError: it could not be answered.
        """
        loop = asyncio.get_running_loop()
        async with client.stream(self._what.messages, **self._what.options) as run:
            waiting, sent_s = run.outbox.events, 0.0
            async for event in run:
                self._told(event)
                if waiting or not (self._ready or self._signals or self._texts):
                    continue  # what has come already goes with it
                wait_s = sent_s + JOINED_S - loop.time()
                if wait_s > 0 and not run.is_over:
                    await asyncio.sleep(wait_s)
                    if waiting:
                        continue
                if not run.is_over:
                    await self._exchange.write(self._chunks())
                    sent_s = loop.time()
        self._finish(run.reply)
        await self._exchange.end(self._chunks() + DONE)
        return run.reply

    def _told(self, event: Event) -> None:
        take = self._take.get(type(event))
        if take is not None:
            take(event)

    def _text(self, event: AnswerDelta) -> None:
        if event.text or event.logprobs:
            self._texts.setdefault(event.index, []).append(event.text)
            if event.logprobs:
                self._logprobs.setdefault(event.index, []).extend(event.logprobs)

    def _call(self, event: ToolCallDelta) -> None:
        self._join()  # a call never overtakes the text before it
        self._begin(event.index)
        self._calling.add(event.index)
        self._ready.append(self._head.call(event))

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
        if self._sent_text or self._calling:
            raise Refused(502, "stream_broken", "the answer broke off; send the request again", kind="server_error")
        self._texts.clear()
        self._logprobs.clear()
        self._finishes.clear()

    def _begin(self, index: int) -> None:
        if index not in self._begun:
            self._begun.add(index)
            self._ready.append(self._head.role(index))

    def _join(self) -> None:
        """Make chunks of the texts that have come: one of the signal, one of each answer."""
        if self._signals:
            self._begin(0)
            self._ready.append(self._head.signal("".join(self._signals), self._signal_fields))
            self._signals.clear()
        for index, texts in self._texts.items():
            self._begin(index)
            self._ready.append(self._head.text(index, "".join(texts), self._logprobs.get(index, ())))
            self._sent_text = True
        self._texts.clear()
        self._logprobs.clear()

    def _chunks(self) -> bytes:
        self._join()
        joined = b"".join(self._ready)
        self._ready.clear()
        return joined

    def _finish(self, reply: Reply) -> None:
        self._join()
        self._finishes.setdefault(0, reply.finish_reason)
        if not self._sent_text and reply.text:
            self._text(AnswerDelta(reply.text))
            self._join()
        more = {"duet": receipt_of(reply, self._head.receipt)}
        last = self._what.answers - 1
        for index in range(self._what.answers):
            self._begin(index)
            reason = finish_of(self._finishes.get(index), has_calls=index in self._calling)
            with_receipt = index == last and not self._what.with_usage
            self._ready.append(self._head.finish(index, reason, more if with_receipt else None))
        if self._what.with_usage:
            self._ready.append(self._head.usage(usage_of(reply), more))

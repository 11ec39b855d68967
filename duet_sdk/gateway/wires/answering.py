"""One request of a client through both stages, whatever wire it came by."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from duet_sdk.errors import ContextOverflow
from duet_sdk.events import AnswerDelta, AnswerDone, FellBack, Retried, ToolCallDelta
from duet_sdk.gateway.granting import granted
from duet_sdk.gateway.overflow import overflowed
from duet_sdk.gateway.wires.streaming import Stream
from duet_sdk.gateway.wires.wire import Answer, Asked, Given, Wire
from duet_sdk.stream import parts_told_to
from duet_sdk.types import ToolCall

if TYPE_CHECKING:
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway.admission import Admitted
    from duet_sdk.gateway.exchange import Exchange
    from duet_sdk.gateway.record import Record
    from duet_sdk.reply import Reply
    from duet_sdk.types import TokenLogprob


async def answer(exchange: Exchange, wire: Wire, given: Given, one: Admitted) -> Reply:
    """Answer a request, whole or as a stream; the reply, for the metrics.

    Raises:
        Refused: the request cannot be used, or its stream broke.
        DuetError: it could not be answered.
    """
    what = wire.asked(given)
    await one.belongs_to(what.options.get("session"))
    messages = given.signals.restored(given.caller.tenant, what.messages)
    what = replace(what, messages=messages, options=granted(what.options, given, left_s=one.left_s()))
    try:
        return await _answered(exchange, wire, given, what)
    except ContextOverflow as error:
        raise overflowed(error, what) from error


async def _answered(exchange: Exchange, wire: Wire, given: Given, what: Asked) -> Reply:
    signals, tenant = given.signals, given.caller.tenant
    if what.streamed:
        writer = wire.writer(given, what)
        exchange.broken = writer.broken
        reply = await Stream(exchange, writer, what).run(given.choice.client)
        signals.keep(tenant, what.messages, reply.tool_calls, reply.signal.text, given.receipt)
        return reply
    with parts_told_to(exchange.record.told):
        answers, reply = await _whole(given.choice.client, what, exchange.record)
    signals.keep(tenant, what.messages, reply.tool_calls, reply.signal.text, given.receipt)
    await exchange.json(200, wire.whole(given, answers, reply), exchange.with_receipt())
    return reply


async def _whole(client: AsyncDuetClient, what: Asked, record: Record) -> tuple[list[Answer], Reply]:
    if what.answers == 1:
        reply = await client.chat(what.messages, **what.options)
        return [Answer(reply.text, reply.tool_calls, reply.finish_reason, reply.logprobs)], reply
    # A reply knows the calls and the end of one answer alone; the events have those of all.
    answers = [Answer() for _ in range(what.answers)]
    logprobs: defaultdict[int, list[TokenLogprob]] = defaultdict(list)
    calls: dict[tuple[int, int], list[str]] = {}
    run = client.stream(what.messages, **what.options)
    try:
        async with run:
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
    finally:
        record.told(run.reply)
    for index, one in enumerate(answers):
        one.logprobs = logprobs[index]
        one.calls = [ToolCall(*calls[at]) for at in sorted(calls) if at[0] == index]
    return answers, run.reply

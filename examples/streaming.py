"""One request as a stream of events, synchronous and asynchronous, on scripted models."""

import asyncio

from duet_sdk import (
    AnswerDelta,
    AsyncDuetClient,
    DuetClient,
    Event,
    FellBack,
    SignalDelta,
    SignalDone,
)
from duet_sdk.backends.scripted import Script, Scripted

QUESTION = "How many primes are below 60?"


def reasoner() -> Scripted:
    """Writes slowly enough to be watched."""
    return Scripted(Script("17, by sieving to 60", token_s=0.02))


def generator() -> Scripted:
    """Writes slowly enough to be watched."""
    return Scripted(Script("There are 17 primes below 60, and the largest is 59.", token_s=0.02))


def show(event: Event) -> None:
    """Print what an event tells; the events that nobody waits for fall through."""
    match event:
        case SignalDelta(text) | AnswerDelta(text):
            print(text, end="", flush=True)
        case SignalDone(signal):
            print(f"\n  [signal: {signal.tokens} of {signal.limit} tokens, counted by {signal.counted_by}]")
        case FellBack(stage, served_by):
            print(f"\n  [{stage} failed, going on as {served_by}]")
        case _:
            pass


def in_a_thread() -> None:
    """The synchronous client: an ordinary loop."""
    with DuetClient(reasoner(), generator()) as duet, duet.stream(QUESTION) as run:
        for event in run:
            show(event)
    print(f"\n  [{run.reply.served_by}, {run.reply.usage.total_tokens} tokens]")


async def on_an_event_loop() -> None:
    """The asynchronous client, left after two pieces of the answer: the generator is stopped and paid for."""
    async with AsyncDuetClient(reasoner(), generator()) as duet, duet.stream(QUESTION) as run:
        pieces = 0
        async for event in run:
            show(event)
            pieces += isinstance(event, AnswerDelta)
            if pieces == 2:
                break
    reply = run.reply
    print(f"\n  [{reply.finish_reason} after {reply.usage.generator.output_tokens} tokens of the answer]")


in_a_thread()
asyncio.run(on_an_event_loop())

"""What the tests of gates by first tokens share: scripts that are sure or in doubt, and checks that hold for all."""

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.events import AttemptEnded, AttemptStarted
from duet_sdk.policies import Retry

SURE, DOUBT = -0.01, -3.0
TEN = "a1 a2 a3 a4 a5 a6 a7 a8 a9 a10"
GUIDED = "g1 g2 g3"


def is_guided(call):
    return any("<notes>" in message.text for message in call.messages)


def answering(alone=SURE, guided=SURE, **script):
    """A generator that is as sure as told, alone and with a signal."""

    def line(call):
        if is_guided(call):
            return Script(GUIDED, logprob=guided, token_ids=True)
        return Script(TEN, logprob=alone, token_ids=True, **script)

    return Scripted(line, model="small")


def duet(reasoner, generator, **options):
    options.setdefault("retry", Retry(attempts=1))
    return AsyncDuetClient(reasoner, generator, **options)


async def events_of(client, **options):
    """All events of a request, and its reply; what ends it is raised."""
    async with client, client.stream("why is it so?", **options) as run:
        events = [event async for event in run]
    return events, run.reply


def check(events, reply, *backends, unsent=0):
    """Every attempt that began has ended, no call is open, and all that was written is charged.

    ``unsent`` is how many attempts ended before anything was sent.
    """
    started = [(event.stage, event.attempt) for event in events if isinstance(event, AttemptStarted)]
    ended = [(event.stage, event.attempt) for event in events if isinstance(event, AttemptEnded)]
    assert sorted(started) == sorted(ended)
    assert len(set(started)) == len(started) == len(reply.receipt.attempts)
    assert [backend.open_calls for backend in backends] == [0] * len(backends)
    assert sum((a.usage.total_tokens for a in reply.receipt.attempts), 0) == reply.usage.total_tokens
    assert sum(len(backend.calls) for backend in backends) == len(started) - unsent


def kinds(reply):
    return [(attempt.kind, attempt.discarded) for attempt in reply.receipt.attempts]

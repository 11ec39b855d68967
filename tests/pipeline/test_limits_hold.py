"""No script of a reasoner or generator gets a request past its limits."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConnectFailed, DuetError, StreamBroken
from duet_sdk.events import AttemptEnded, AttemptStarted
from duet_sdk.gate import Confidence, Race
from duet_sdk.policies import Progressive, Retry
from duet_sdk.pricing import TokenPrice

ERRORS = (
    None,
    ConnectFailed("gone", backend="scripted", model="lines"),
    StreamBroken("cut", backend="scripted", model="lines"),
)
WORDS = st.lists(
    st.sampled_from(["one", "two.", "drei", "четыре", "五", "🙂.", "<think>", "</think>", "\n"]), max_size=60
)
SCRIPTS = st.builds(
    Script,
    text=WORDS.map(" ".join),
    reasoning=WORDS.map(" ".join),
    error=st.sampled_from(ERRORS),
    fail_after=st.integers(0, 40),
    usage=st.sampled_from(["each", "last", "none"]),
    token_ids=st.booleans(),
    obeys=st.booleans(),
    tokens_per_chunk=st.integers(1, 7),
)
LIMITS = st.integers(1, 40)
POLICIES = st.sampled_from(["sentence", "keep", "wrap_up"])


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@given(script=SCRIPTS, limit=LIMITS, on_cut=POLICIES, handoff=st.sampled_from(["instruct", "think"]))
@settings(max_examples=300, deadline=None)
def test_a_signal_never_exceeds_its_limit_unless_it_says_so(script, limit, on_cut, handoff):
    reasoner, generator = Scripted(script), Scripted("answer")

    async def ask():
        async with AsyncDuetClient(
            reasoner, generator, on_cut=on_cut, handoff=handoff, retry=Retry(attempts=1)
        ) as duet:
            return await duet.chat("q", budget=Budget(signal_tokens=limit))

    reply = asyncio.run(ask())
    signal = reply.signal
    assert sum(call.max_tokens for call in reasoner.calls[:1]) <= limit
    assert signal.limit == limit
    assert signal.tokens <= limit or not signal.honoured
    assert signal.tokens == reply.usage.reasoner.output_tokens
    # Whatever was billed, no more than the limit is handed on: each word of a script is one token, and of a piece
    # of several the share that fits is kept.
    assert len(signal.text.split()) <= limit or script.tokens_per_chunk > 1
    assert len(signal.text.split()) <= limit + script.tokens_per_chunk
    assert reasoner.open_calls == generator.open_calls == 0
    if script.obeys and script.usage == "each" and script.error is None:
        assert signal.honoured
        assert signal.tokens <= limit


@given(script=SCRIPTS, limit=LIMITS, n=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_an_answer_never_exceeds_its_limit(script, limit, n):
    generator = Scripted(replace(script, error=None))

    async def ask():
        async with AsyncDuetClient(Scripted("s"), generator) as duet:
            return await duet.chat("q", budget=Budget(answer_tokens=limit), n=n)

    reply = asyncio.run(ask())
    assert all(len(answer.split()) <= limit + script.tokens_per_chunk - 1 for answer in reply.answers)
    assert generator.open_calls == 0


@given(
    reasoner_script=SCRIPTS,
    generator_script=SCRIPTS,
    total=st.integers(1, 900),
    usd=st.integers(1, 2_000_000),
    on_cut=POLICIES,
    mode=st.sampled_from(["duet", "generator", "reasoner", "signal"]),
    n=st.integers(1, 3),
    tries=st.integers(1, 3),
)
@settings(max_examples=400, deadline=None)
def test_tokens_and_money_of_obedient_models_stay_within_the_request(
    reasoner_script, generator_script, total, usd, on_cut, mode, n, tries
):
    # Models that obey and report: then the bound is exact, whatever fails on the way.
    reasoner, generator = (
        Scripted(replace(script, obeys=True, usage="each"), model=model)
        for script, model in ((reasoner_script, "big"), (generator_script, "small"))
    )
    prices = {"scripted/big": TokenPrice(1000, 5000), "scripted/small": TokenPrice(100, 400)}
    budget = Budget(total_tokens=total, cost_usd=Decimal(usd) / 1_000_000, signal_tokens=30, answer_tokens=50)

    async def ask():
        async with (
            AsyncDuetClient(
                reasoner, generator, prices=prices, on_cut=on_cut, retry=Retry(attempts=tries, first_wait_s=0)
            ) as duet,
            duet.stream("why is it so?", mode=mode, budget=budget, n=n) as run,
        ):
            try:
                async for _ in run:
                    pass
            except DuetError as error:
                return run.reply, error
            return run.reply, None

    reply, error = asyncio.run(ask())
    assert reply.usage.total_tokens <= total
    assert reply.cost.usd <= budget.cost_usd
    if isinstance(error, BudgetExceeded) and not reply.receipt.attempts:
        assert reasoner.calls == generator.calls == []


class Billing(Scripted):
    """Remembers what it billed for: the prompt of each call that began, and every token that it let go."""

    def __init__(self, *lines, **options):
        super().__init__(*lines, **options)
        self.billed = 0
        self.written = 0

    async def stream(self, call):
        self.billed += len(call.prompt_ids) or await self.count_tokens(call.messages, tools=call.tools)
        async with aclosing(super().stream(call)) as chunks:
            async for chunk in chunks:
                self.billed += len(chunk.token_ids)
                self.written += len(chunk.token_ids)
                yield chunk


TOKEN_GATES = st.builds(
    lambda kind, threshold, tokens: kind(threshold, tokens),
    st.sampled_from([Race, Confidence]),
    st.floats(0, 1),
    st.integers(1, 8),
)
PROBES = st.builds(
    Progressive,
    slice_tokens=st.integers(1, 12),
    threshold=st.floats(0, 1),
    probe_tokens=st.integers(1, 6),
    share=st.sampled_from([0.3, 1.0]),
    most_probes=st.integers(1, 4),
)
# Between two tokens others get their turn, so that both sides of a race are under way at once.
CONCURRENT = st.builds(
    replace,
    SCRIPTS,
    token_s=st.sampled_from([0.0, 1e-9]),
    logprob=st.sampled_from([-0.01, -0.3, -3.0, float("nan")]),
    token_ids=st.just(True),
    obeys=st.just(True),
    usage=st.just("each"),
)


@given(
    reasoner_script=CONCURRENT,
    generator_scripts=st.lists(CONCURRENT, min_size=1, max_size=3),
    gate=st.one_of(st.just("always"), TOKEN_GATES),
    progressive=st.one_of(st.none(), PROBES),
    total=st.one_of(st.none(), st.integers(100, 900)),
    usd=st.one_of(st.none(), st.integers(1, 2_000_000)),
    on_cut=POLICIES,
    n=st.integers(1, 2),
    tries=st.integers(1, 2),
    leave_at=st.one_of(st.none(), st.integers(0, 40)),
)
@example(  # a reasoner that is being stopped writes on, and a probe of that would outlive the request
    reasoner_script=Script(
        "one one", reasoning="one " * 5, token_s=1e-9, tokens_per_chunk=3, token_ids=True, logprob=-0.01
    ),
    generator_scripts=[
        Script("one", token_s=1e-9, token_ids=True, logprob=-0.01),
        Script(reasoning="one", token_ids=True, logprob=-0.01),
    ],
    gate=Race(1.0, 1),
    progressive=Progressive(slice_tokens=1, threshold=0.0, probe_tokens=1, share=0.3, most_probes=1),
    total=None,
    usd=None,
    on_cut="keep",
    n=1,
    tries=1,
    leave_at=None,
)
@settings(max_examples=400, deadline=None)
def test_no_race_and_no_probe_gets_past_a_limit_or_leaves_a_call_open(
    reasoner_script, generator_scripts, gate, progressive, total, usd, on_cut, n, tries, leave_at
):
    reasoner, generator = Billing(reasoner_script, model="big"), Billing(*generator_scripts, model="small")
    prices = {"scripted/big": TokenPrice(1000, 5000), "scripted/small": TokenPrice(100, 400)}
    cost = None if usd is None else Decimal(usd) / 1_000_000
    budget = Budget(total_tokens=total, cost_usd=cost, signal_tokens=30, answer_tokens=50)
    events = []

    async def ask():
        pair = AsyncDuetClient(
            reasoner,
            generator,
            gate=gate,
            progressive=progressive,
            prices=prices,
            on_cut=on_cut,
            retry=Retry(attempts=tries, first_wait_s=0),
        )
        left = False
        async with pair as duet, duet.stream("why is it so?", budget=budget, n=n) as run:
            try:
                async for event in run:
                    events.append(event)
                    left = len(events) == leave_at
                    if left:
                        break
            except DuetError:
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return run.reply, left

    reply, left = asyncio.run(ask())
    attempts = reply.receipt.attempts
    assert reasoner.open_calls == generator.open_calls == 0
    assert total is None or reply.usage.total_tokens <= total
    assert cost is None or reply.cost.usd <= cost
    assert reply.signal.tokens <= 30
    assert sum(a.usage.output_tokens for a in attempts if a.kind == "answer") <= 50 * n * tries * 2
    # Every token that a script let go is in the receipt, whoever was stopped. What a call read is known from its first
    # piece; until then it is a guess, and a call that was refused before costs nothing.
    for backend, stage in ((reasoner, reply.usage.reasoner), (generator, reply.usage.generator)):
        assert stage.output_tokens == backend.written
        assert stage.estimated or stage.total_tokens <= backend.billed
    if not left:
        started = [(event.stage, event.attempt) for event in events if isinstance(event, AttemptStarted)]
        ended = [(event.stage, event.attempt) for event in events if isinstance(event, AttemptEnded)]
        assert sorted(started) == sorted(ended) == sorted((a.stage, a.attempt) for a in attempts)
        assert len(set(started)) == len(started)

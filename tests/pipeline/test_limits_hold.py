"""No script of a reasoner or generator gets a request past its limits."""

import asyncio
from dataclasses import replace
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk import AsyncDuetClient, Budget, BudgetExceeded
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConnectFailed, DuetError, StreamBroken
from duet_sdk.pricing import TokenPrice
from duet_sdk.types import Retry

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

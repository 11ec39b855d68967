"""Requests of every kind that metrics tell apart, on scripted models: whole, cut, retried, failed, refused."""

from __future__ import annotations

import contextlib
from decimal import Decimal

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import BudgetExceeded, ConnectFailed, RateLimited
from duet_sdk.policies import Retry
from duet_sdk.pricing import TokenPrice

PRICES = {"strong-1": TokenPrice("15", "75"), "light-1": TokenPrice("0.1", "0.4")}
QUESTION = "How many primes are below 60?"
SIGNAL = "There are seventeen of them, from two to fiftynine."
ANSWER = "There are 17 primes below 60."
DOWN = ConnectFailed("nobody listens", backend="scripted", model="strong-1")
BUSY = RateLimited("too many requests", backend="scripted", model="light-1")
AT_ONCE = Retry(attempts=2, first_wait_s=0)


async def ask_in_every_way() -> None:
    """Six requests: one goes well, one has a cut signal, the others are refused, retried, without reasoner, and fail."""
    async with _client(SIGNAL, ANSWER) as duet:
        await duet.chat(QUESTION, session="s-1", user="u-1", tenant="t-1")
        await duet.chat(QUESTION, budget=Budget(signal_tokens=3))
        with contextlib.suppress(BudgetExceeded):
            await duet.chat(QUESTION, budget=Budget(cost_usd=Decimal("0.000001")))
    async with _client(SIGNAL, Script(ANSWER, error=BUSY, fail_after=2), ANSWER) as duet:
        await duet.chat(QUESTION)
    async with _client(Script(error=DOWN), ANSWER) as duet:
        await duet.chat(QUESTION)
    async with _client(SIGNAL, Script(error=DOWN)) as duet:
        with contextlib.suppress(ConnectFailed):
            await duet.chat(QUESTION, mode="generator")


def _client(signal: str | Script, *answers: str | Script) -> AsyncDuetClient:
    strong, light = Scripted(signal, model="strong-1"), Scripted(*answers, model="light-1")
    return AsyncDuetClient(strong, light, prices=PRICES, retry=AT_ONCE)

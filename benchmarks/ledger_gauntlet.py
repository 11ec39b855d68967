"""Twelve scenarios in which budgets of gateways break, against `duet serve` and LiteLLM's proxy.

    python benchmarks/ledger_gauntlet.py                          # all of it, some fifteen minutes
    python benchmarks/ledger_gauntlet.py --only cancel --gateway duet --detail

The models are a scripted server (`gauntlet_upstream`) that writes down what it served: what that cost is the truth.
Both gateways keep their books in a Redis of their own; each scenario begins with a fresh gateway and an empty store.
When it is over, a client goes on to spend the rest, by requests of a hundredth of the budget, then of half as much
after each refusal, down to one token. Printed are

- overspend: what all requests cost, beyond the budget, USD;
- false refusals: requests that were refused although, when all others had ended, what was left held the most that they
  could have cost;
- spendable: the share of the budget that could be spent in the end;
- held: what the books keep back although nothing runs, USD; after a crash, once holds have expired.

LiteLLM's key comes from a hook, as its database's client does not start here: what it keeps in a database it does
not have. A cell is empty where a scenario asks for nothing that it could tell.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
from gateways import load_now
from gauntlet_gateways import CONTESTANTS, TIERED, UNPRICED, Contestant, Duet, Models, Stage
from gauntlet_upstream import WORD, Price, Script, Upstream, until

PRICES = {
    "m": Price(Decimal(5), Decimal(25)),
    "n": Price(Decimal(3), Decimal(15)),
    TIERED: Price(Decimal("2.5"), Decimal(15), 272_000, Decimal(5), Decimal("22.5")),
    UNPRICED: Price(Decimal(3), Decimal(15)),
}
STEP = Decimal("0.01")
"""Of the budget, which a request may cost at most that spends the rest."""
ENOUGH = 2
"""Times the budget: a client that has spent so much stops."""
EXPIRY_S = 75
NOTHING_USD = Decimal("1e-6")
"""Below it a counter of floats is empty."""
LEAST_SPENDABLE = 0.99
ROUTES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "/v1/completions": lambda model, text: {"model": model, "prompt": text, "max_tokens": 600},
    "/v1/responses": lambda model, text: {"model": model, "input": text, "max_output_tokens": 600},
    "/v1/messages": lambda model, text: {"model": model, "max_tokens": 600, "messages": chat(text)},
    "/engines/n/chat/completions": lambda model, text: {"model": model, "max_tokens": 600, "messages": chat(text)},
    "/openai/deployments/n/chat/completions": lambda model, text: {"max_tokens": 600, "messages": chat(text)},
    "/chat/completions": lambda model, text: {"model": model, "max_tokens": 600, "messages": chat(text)},
    "//v1/chat/completions": lambda model, text: {"model": model, "max_tokens": 600, "messages": chat(text)},
}
"""Ways to a model past the usual one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    verdict: str
    """``served``, ``refused`` for want of budget, ``failed``, or ``left`` by the client."""
    worst_usd: Decimal
    detail: str = ""


@dataclass
class Field:
    """Where a scenario runs: the gateway, the models, a client."""

    gateway: Contestant
    upstream: Upstream
    session: aiohttp.ClientSession
    outcomes: list[Outcome] = field(default_factory=list)

    async def ask(
        self,
        stage: Stage = "n",
        *,
        words: int = 200,
        most: int = 600,
        stream: bool = False,
        leave_after: int | None = None,
    ) -> Outcome:
        """One answer; where the gateway has one stage, by a call for each."""
        worst = worst_usd(stage, self.gateway.models, words, most)
        outcome = Outcome("failed", worst)
        for name in self.gateway.calls(stage):
            body = {"model": name, "max_tokens": most, "stream": stream, "messages": chat(f"{WORD} " * words)}
            outcome = await self.post("/v1/chat/completions", body, worst, leave_after=leave_after)
            if outcome.verdict != "served":
                break
        self.outcomes.append(outcome)
        return outcome

    async def post(self, path: str, body: dict[str, Any], worst: Decimal, *, leave_after: int | None = None) -> Outcome:
        headers = {"authorization": f"Bearer {self.gateway.key}"}
        read = ""
        try:
            async with self.session.post(self.gateway.url + path, json=body, headers=headers) as answer:
                async for piece in answer.content.iter_any():
                    read += piece.decode(errors="replace")
                    if leave_after is not None and read.count(WORD) >= leave_after:
                        return Outcome("left", worst)
                status = answer.status
        except aiohttp.ClientError as error:
            return Outcome("failed", worst, f"{type(error).__name__}")
        broken = '"error"' in read and '"error": null' not in read and '"error":null' not in read
        if status < 300 and not broken:
            return Outcome("served", worst)
        short = status == 402 or "budget" in read.lower()
        return Outcome("refused" if short else "failed", worst, f"{status} {read[-300:]}")

    async def together(self, count: int, **asked: Any) -> None:
        await asyncio.gather(*(self.ask(**asked) for _ in range(count)))


async def five_long_prompts(on: Field) -> None:
    await on.together(5, words=30_000, most=600)


async def large_caps(on: Field) -> None:
    await on.together(30, words=200, most=16_384)


async def price_tiers(on: Field) -> None:
    await on.together(5, words=280_000, most=200)


async def cancelled(on: Field) -> None:
    await on.together(10, words=200, most=2000, stream=True, leave_after=20)


async def dead_stream(on: Field) -> None:
    await on.together(10, words=200, most=2000, stream=True)


async def kill_9(on: Field) -> None:
    asked = asyncio.gather(*(on.ask(words=200, most=128, stream=True) for _ in range(8)))
    await until(lambda: on.upstream.running == 8 or asked.done())
    await asyncio.sleep(0.5)  # some tokens of each are written
    on.gateway.kill()
    await asked
    await asyncio.to_thread(on.gateway.start)


async def store_lost(on: Field) -> None:
    for _ in range(17):
        await on.ask(words=30_000, most=60)
    asked = asyncio.gather(*(on.ask(words=200, most=128, stream=True) for _ in range(4)))
    await until(lambda: on.upstream.running == 4 or asked.done())
    on.gateway.store.kill()
    await on.together(10, words=30_000, most=60)
    await asked
    await asyncio.to_thread(on.gateway.store.start)


async def odd_route(on: Field) -> None:
    worst = worst_usd("n", "own", 30_000, 600)
    name = on.gateway.calls("n")[0]
    asked = [on.post(path, body(name, f"{WORD} " * 30_000), worst) for path, body in ROUTES.items() for _ in range(2)]
    on.outcomes += await asyncio.gather(*asked)


async def retry_storm(on: Field) -> None:
    async def client() -> None:
        for _ in range(5):
            if (await on.ask(words=500, most=600, stream=True)).verdict == "served":
                return

    await asyncio.gather(*(client() for _ in range(16)))


async def hedge_loser(on: Field) -> None:
    async def hedged() -> None:
        both = [asyncio.ensure_future(on.ask(words=500, most=600, stream=True)) for _ in range(2)]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for loser in both:
            loser.cancel()
        await asyncio.gather(*both, return_exceptions=True)

    await asyncio.gather(*(hedged() for _ in range(8)))


async def both_stages(on: Field) -> None:
    await on.together(8, stage="pair", words=1000, most=512)


def storm(number: int) -> Script:
    """Of three requests one is refused, one breaks off, one succeeds."""
    return (Script(), Script(200, 0.002, breaks_after=20), Script(status=503))[number % 3]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens, and on which budget."""

    name: str
    budget_usd: Decimal
    run: Callable[[Field], Awaitable[None]]
    script: Callable[[int], Script] = lambda number: Script(50, 0.005)
    models: Models = "own"
    crash: bool = False
    """Whether holds may be left until they expire."""
    needs_database: bool = False
    """Whether LiteLLM would read its books from its database again; without one the outcome says nothing of it."""


SCENARIOS = (
    Scenario("five long prompts", Decimal("0.25"), five_long_prompts),
    Scenario("large caps", Decimal(1), large_caps),
    Scenario("unknown price", Decimal("0.25"), five_long_prompts, models="unpriced"),
    Scenario("price tiers", Decimal(3), price_tiers, models="tiered"),
    Scenario("cancel", Decimal("0.25"), cancelled, lambda number: Script(2000, 0.005)),
    Scenario("dead stream", Decimal("0.25"), dead_stream, lambda number: Script(2000, 0.002, breaks_after=30)),
    Scenario("kill -9", Decimal(2), kill_9, lambda number: Script(100, 0.02), crash=True),
    Scenario("store lost", Decimal(2), store_lost, lambda number: Script(50, 0.02), crash=True, needs_database=True),
    Scenario("odd route", Decimal("0.25"), odd_route),
    Scenario("retry storm", Decimal("0.05"), retry_storm, storm),
    Scenario("hedge loser", Decimal("0.25"), hedge_loser, lambda number: Script(300, 0.002 + 0.002 * (number % 2))),
    Scenario("both stages", Decimal("0.15"), both_stages, lambda number: Script(300, 0.001)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What a scenario showed."""

    overspend_usd: Decimal
    false_refusals: int
    spendable: float
    held_usd: Decimal
    note: str = ""


async def run(scenario: Scenario, kind: type[Contestant], *, detail: bool) -> Row:
    """One scenario on one gateway."""
    upstream = Upstream(PRICES)
    timeout = aiohttp.ClientTimeout(total=120)
    async with upstream.serving(), aiohttp.ClientSession(timeout=timeout) as session:
        gateway = kind(upstream.url, scenario.models, deadline=scenario.crash)
        with gateway.on():
            await gateway.open_budget(scenario.budget_usd)
            on = Field(gateway, upstream, session)
            upstream.script = scenario.script
            await scenario.run(on)
            await upstream.idle()
            held = await settled(on, EXPIRY_S if scenario.crash else 3)
            spent, asked = upstream.served_usd, on.outcomes
            refused = [one for one in asked if one.verdict == "refused"]
            false = sum(one.worst_usd <= scenario.budget_usd - spent for one in refused)
            upstream.script = lambda number: Script(1 << 20)
            on.outcomes = []
            await spend_rest(on, scenario.budget_usd)
            total = upstream.served_usd
            if detail:
                show(asked, spent, total, gateway.log())
    verdicts = {name: sum(one.verdict == name for one in asked) for name in ("served", "refused", "failed", "left")}
    note = ", ".join(f"{count} {name}" for name, count in verdicts.items() if count) + f"; {spent:.4f} USD by then"
    return Row(
        max(Decimal(0), total - scenario.budget_usd), false, float(min(1, total / scenario.budget_usd)), held, note
    )


async def settled(on: Field, within_s: float) -> Decimal:
    """What is held once nothing is, or when that time is over."""
    end = time.monotonic() + within_s
    while True:
        held = await on.gateway.held_usd(on.upstream.served_usd)
        if held <= NOTHING_USD:
            return Decimal(0)
        if time.monotonic() >= end:
            return held
        await asyncio.sleep(0.2)


async def spend_rest(on: Field, budget_usd: Decimal) -> None:
    """Ask until even one token is refused."""
    output_usd = PRICES[TIERED if on.gateway.models == "tiered" else "n"].output_usd / 1_000_000
    most, tries = max(1, int(budget_usd * STEP / output_usd)), 0
    while on.upstream.served_usd < ENOUGH * budget_usd:
        outcome = await on.ask(words=5, most=most)
        if outcome.verdict == "served":
            tries = 0
        elif tries < 2 and most > 1:  # books that are written after the answer may be late
            tries += 1
            await asyncio.sleep(0.1)
        elif most > 1:
            most, tries = most // 2, 0
        else:
            return


def worst_usd(stage: Stage, models: Models, words: int, most: int) -> Decimal:
    """The most that such a request can cost."""
    if stage == "pair":
        return worst_usd("m", models, words, most) + worst_usd("n", models, words + most, most)
    price = PRICES[{"own": stage, "tiered": TIERED, "unpriced": UNPRICED}[models]]
    input_tokens = words + 8
    input_usd, output_usd = price.rates(input_tokens)
    return input_tokens * input_usd + most * output_usd


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def show(outcomes: Sequence[Outcome], spent: Decimal, total: Decimal, log: str) -> None:
    for one in outcomes:
        print(f"    {one.verdict:8} worst {one.worst_usd:.4f}  {one.detail}")
    print(f"    spent {spent:.5f}, in the end {total:.5f}\n    log: {log[-1500:]}")


def main() -> int:
    given = parse()
    wrong = False
    print(f"{load_now()}\n\n{'scenario':20}{'gateway':18}{'overspend':>11}{'false':>7}{'spendable':>11}{'held':>10}")
    for scenario in SCENARIOS:
        for kind in CONTESTANTS:
            if given.only not in scenario.name or given.gateway not in kind.name:
                continue
            if scenario.needs_database and kind is not Duet:
                print(f"{scenario.name:20}{kind.name:18} its books would come from a database that is not here")
                continue
            try:
                row = asyncio.run(run(scenario, kind, detail=given.detail))
            except Exception as error:  # noqa: BLE001  # whatever kept it from running is what the table shows
                print(f"{scenario.name:20}{kind.name:18} did not run: {str(error)[-200:]}", flush=True)
                continue
            if given.json:
                print(json.dumps({"scenario": scenario.name, "gateway": kind.name, "row": str(row)}))
            knows_price = scenario.models != "unpriced"
            false = str(row.false_refusals) if knows_price else ""
            spendable = f"{row.spendable:.1%}" if knows_price else ""
            figures = f"{row.overspend_usd:11.5f}{false:>7}{spendable:>11}{row.held_usd:10.4f}"
            print(f"{scenario.name:20}{kind.name:18}{figures}   {row.note}", flush=True)
            if kind is Duet:
                wrong |= bool(row.overspend_usd or row.held_usd)
                wrong |= knows_price and bool(row.false_refusals or row.spendable < LEAST_SPENDABLE)
    print("\nwanted of duet serve: 0 overspend, 0 false, at least 99 % spendable, 0 held:", "MISS" if wrong else "pass")
    return int(wrong)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    parser.add_argument("--gateway", default="", help="part of a gateway's name")
    parser.add_argument("--detail", action="store_true", help="every request, and the end of the gateway's log")
    parser.add_argument("--json", action="store_true", help="a JSON line for each row, too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Whatever is held, settled, released, left behind or limited in whatever order: each ledger does as the plain model.

The model keeps every hold with what became of it, and works out the rest by going through all of them.
"""

import asyncio
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from support.redis_server import BINARY, WHY_NOT, RedisServer

from duet_sdk.budget import Limit, MemoryLedger, RedisLedger, SqliteLedger
from duet_sdk.budget.amount import amount_of
from duet_sdk.budget.window import window_of
from duet_sdk.errors import BudgetExceeded, HoldMisused

SCOPES = ("tenant:a", "user:b", "session:c")
START = 1_800_000_017.0

small = st.integers(0, 12)
units = st.tuples(st.integers(1, 12), small, small, st.integers(0, 1))
most = st.integers(0, 120)
limits = st.one_of(
    st.none(),
    st.tuples(most, st.one_of(st.none(), most), st.sampled_from([None, "minute", "rolling:1m"])),
)


@dataclass
class Model:
    """A hold, and what became of it."""

    hold: object
    scopes: tuple
    units: tuple
    made: int
    expires: int
    state: str = "open"  # open, expired, released, settled
    real: tuple = (0, 0, 0, 0)
    covered: tuple = (0, 0, 0, 0)


class LedgerMachine(RuleBasedStateMachine):
    """Steps over one store with two clients, either of which may die."""

    holds = Bundle("holds")

    def make(self):
        raise NotImplementedError

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = START
        self.seen = 0
        self.models = []
        self.limits = {}
        self.folder = Path(tempfile.mkdtemp())
        self.name = uuid.uuid4().hex
        self.clients = [self.make(), self.make()]

    def teardown(self):
        for client in self.clients:
            self.runner.run(client.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def run(self, awaitable):
        self.seen = max(self.seen, int(self.clock * 1e6))
        for model in self.models:
            if model.state == "open" and model.expires <= self.seen:
                model.state, model.real, model.covered = "expired", model.units, model.units
        return self.runner.run(awaitable)

    def standing(self, scope):
        """(spent, overrun, held) in the present window, from all holds there ever were."""
        limit = self.limits.get(scope)
        oldest = window_of(limit.window if limit else None).oldest(self.seen)
        window = window_of(limit.window if limit else None)
        total = [[0] * 4, [0] * 4, [0] * 4]
        for model in self.models:
            if scope in model.scopes and window.slice_of(model.made) >= oldest:
                for i in range(4):
                    total[0][i] += model.real[i]
                    total[1][i] += max(0, model.real[i] - model.covered[i])
                    total[2][i] += model.units[i] if model.state == "open" else 0
        return total

    @initialize()
    def begin(self):
        self.run(self.clients[0].limits())

    @rule(
        target=holds,
        scopes=st.lists(st.sampled_from(SCOPES), unique=True, min_size=1),
        asked=units,
        ttl_s=st.sampled_from([5.0, 600.0]),
        client=st.integers(0, 1),
    )
    def hold(self, scopes, asked, ttl_s, client):
        try:
            hold = self.run(self.clients[client].hold(scopes, amount_of(asked), ttl_s=ttl_s))
        except BudgetExceeded:
            assert not self.fits(scopes, asked)
            return multiple()
        assert self.fits(scopes, asked)
        self.models.append(Model(hold, tuple(scopes), asked, self.seen, self.seen + int(ttl_s * 1e6)))
        assert hold.made_us == self.seen
        return self.models[-1]

    def fits(self, scopes, asked):
        for scope in scopes:
            limit = self.limits.get(scope)
            if limit is None:
                continue
            spent, _, held = self.standing(scope)
            for i, most in enumerate(limit.units):
                if most is not None and asked[i] and spent[i] + held[i] + asked[i] > most:
                    return False
        return True

    @rule(model=holds, real=units, client=st.integers(0, 1))
    def settle(self, model, real, client):
        try:
            self.run(self.clients[client].settle(model.hold, amount_of(real)))
        except HoldMisused:
            assert model.state == "settled"
            assert model.real != real
            return
        if model.state != "settled":
            model.covered = (0, 0, 0, 0) if model.state == "released" else model.units
            model.state, model.real = "settled", real
        assert model.real == real

    @rule(model=holds, client=st.integers(0, 1))
    def release(self, model, client):
        self.run(self.clients[client].release(model.hold))
        if model.state == "open":
            model.state = "released"
        elif model.state == "expired":
            model.state, model.real = "settled", (0, 0, 0, 0)

    @rule(model=holds, real=units, client=st.integers(0, 1))
    def settle_late(self, model, real, client):
        """Its process was taken for dead, and comes back."""
        self.clock += 6.0
        self.settle(model, real, client)

    @precondition(lambda self: not isinstance(self.clients[0], MemoryLedger))
    @rule(client=st.integers(0, 1))
    def die(self, client):
        """A client is gone, and another one comes in its place; what the first held is left behind."""
        self.runner.run(self.clients[client].aclose())
        self.clients[client] = self.make()

    @rule(scope=st.sampled_from(SCOPES), limit=limits)
    def set_limit(self, scope, limit):
        made = None if limit is None else Limit(amount_of((limit[0], 0, 0, 0)).usd, limit[1], window=limit[2])
        self.run(self.clients[0].set_limit(scope, made))
        self.limits[scope] = made

    @rule(step_s=st.sampled_from([-90.0, -3.0, 0.5, 7.0, 43.0, 61.0]))
    def pass_time(self, step_s):
        self.clock += step_s

    @invariant()
    def balances_are_what_the_holds_come_to(self):
        for scope in SCOPES:
            balance = self.run(self.clients[1].balance(scope))
            spent, overrun, held = self.standing(scope)
            assert (balance.spent.units, balance.overrun.units, balance.held.units) == (
                tuple(spent),
                tuple(overrun),
                tuple(held),
            )

    @invariant()
    def no_booked_amount_is_lost_or_booked_twice(self):
        booked = {}
        for entry in self.run(self.clients[0].entries(most=10_000)):
            amount = booked.setdefault(entry.hold, [0] * 4)
            for i, value in enumerate((int(entry.usd * 10**9), entry.reasoner_tokens, entry.generator_tokens, entry.requests)):  # fmt: skip
                amount[i] += value
        expected = {model.hold.id: list(model.real) for model in self.models if model.state in ("expired", "settled")}
        assert booked == expected


class MemoryMachine(LedgerMachine):
    def make(self):
        self.one = getattr(self, "one", None) or MemoryLedger(clock=lambda: self.clock)
        return self.one


class SqliteMachine(LedgerMachine):
    def make(self):
        return SqliteLedger(self.folder / "ledger.db", clock=lambda: self.clock)


class RedisMachine(LedgerMachine):
    url = ""

    def make(self):
        return RedisLedger(self.url, name=self.name, clock=lambda: self.clock)


def steps(examples):
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def check(machine, examples):
    case = machine.TestCase
    case.settings = steps(examples)
    case("runTest").debug()


def test_a_ledger_in_memory_does_as_the_model():
    check(MemoryMachine, 60)


def test_a_ledger_in_a_file_does_as_the_model():
    check(SqliteMachine, 15)


def test_a_ledger_on_redis_does_as_the_model(tmp_path):
    if BINARY is None:
        pytest.skip(WHY_NOT)
    with RedisServer(tmp_path) as server:
        RedisMachine.url = server.url
        check(RedisMachine, 15)


def test_a_limit_that_was_never_lowered_is_never_passed_by_what_holds_cover():
    """The invariant in its own words: spent - overrun + held ≤ limit."""

    class Unlowered(MemoryMachine):
        @initialize()
        def limit(self):
            made = Limit(amount_of((60, 0, 0, 0)).usd, 60, window="minute")
            self.run(self.clients[0].set_limit("tenant:a", made))
            self.limits["tenant:a"] = made

        @rule(scope=st.just("user:b"), limit=limits)
        def set_limit(self, scope, limit):
            LedgerMachine.set_limit.hypothesis_stateful_rule.function(self, scope, limit)

        @invariant()
        def it_holds(self):
            balance = self.run(self.clients[0].balance("tenant:a"))
            for i in (0, 1):
                assert balance.spent.units[i] - balance.overrun.units[i] + balance.held.units[i] <= 60

    check(Unlowered, 40)

"""`duet.ledger` of both clients: the same calls, awaited by the one, waited for by the other, on every kind of ledger."""

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from support.redis_server import BINARY, WHY_NOT, RedisServer

import duet_sdk
from duet_sdk import (
    AsyncDuetClient,
    BudgetExceeded,
    ConfigError,
    DuetClient,
    HoldMisused,
    InvalidRequest,
    LedgerError,
    Limit,
    Settings,
    TokenPrice,
)
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import (
    Amount,
    BaseLedger,
    BlockingHold,
    BlockingLedger,
    EntryFacts,
    Hold,
    MemoryLedger,
    SqliteLedger,
)

PAIR = ("scripted/17", "scripted/There are 17.")
BY_DAY = Limit(requests=2, window="day")
ASYNC_ALONE = {"aclose": "close"}
"""Methods with another name where nothing is awaited."""


class OwnLedger(BaseLedger):
    """A ledger of a user's own: one in memory, which writes down what it was asked."""

    def __init__(self):
        self._inner = MemoryLedger()
        self.asked = []

    async def set_limit(self, scope, limit):
        self.asked.append(scope)
        await super().set_limit(scope, limit)

    async def release(self, hold):
        await self._inner.release(hold)

    async def limits(self):
        return await self._inner.limits()

    async def _make(self, asked):
        return await self._inner._make(asked)

    async def _settle(self, hold, settlement):
        await self._inner._settle(hold, settlement)

    async def _set_limit(self, scope, limit):
        await self._inner._set_limit(scope, limit)

    async def _balance(self, scope):
        return await self._inner._balance(scope)

    async def _entries(self, query):
        return await self._inner._entries(query)

    async def _prune(self, before_us):
        return await self._inner._prune(before_us)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    if BINARY is None:
        pytest.skip(WHY_NOT)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(params=["memory", "sqlite", "redis", "own"])
def given(request, tmp_path):
    """What a client is given as its ledger, none of them used before."""
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}#{tmp_path.name}"
    return {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/ledger.db", "own": OwnLedger()}[request.param]


@pytest.fixture
def duet(given):
    with DuetClient(*PAIR, ledger=given) as client:
        yield client


def test_a_limit_set_through_the_client_stops_its_next_request(duet):
    duet.ledger.set_limit("tenant:a", BY_DAY)
    assert [duet.chat("q", tenant="a").text for _ in range(2)] == ["There are 17."] * 2
    with pytest.raises(BudgetExceeded) as refused:
        duet.chat("q", tenant="a")
    assert (refused.value.scope, refused.value.limit, refused.value.spent) == ("tenant:a", 2, 2)
    assert duet.chat("q", tenant="b").text == "There are 17."


def test_what_was_spent_can_be_read(duet):
    duet.ledger.set_limit("tenant:a", BY_DAY)
    duet.chat("q", tenant="a", user="u")
    assert duet.ledger.limits() == {"tenant:a": BY_DAY}
    balance = duet.ledger.balance("tenant:a")
    assert (balance.spent.requests, balance.held.requests, balance.limit) == (1, 0, BY_DAY)
    assert balance.remaining == Limit(requests=1, window="day")
    assert duet.ledger.balance("user:u").remaining is None
    assert [(entry.facts.kind, entry.scopes) for entry in duet.ledger.entries(scope="user:u", most=1)] == [
        ("signal", ("tenant:a", "user:u"))
    ]
    rows = duet.ledger.report("stage", scope="tenant:a", until=datetime.now(UTC) + timedelta(hours=1))
    assert [(row.group, row.attempts) for row in rows] == [("generator", 1), ("reasoner", 1)]
    assert [row.group for row in duet.ledger.report("scope")] == ["tenant:a", "user:u"]
    assert duet.ledger.prune(datetime.now(UTC) + timedelta(hours=1)) == 2
    assert duet.ledger.report("model") == []


def test_work_of_ones_own_is_charged_to_the_same_limit(duet):
    duet.ledger.set_limit("tenant:a", {"usd": Decimal(1)})
    hold = duet.ledger.hold(["tenant:a"], Amount(usd=Decimal("0.75")), key="index-1")
    assert (hold.made.scopes, hold.made.amount) == (("tenant:a",), Amount(usd=Decimal("0.75")))
    with pytest.raises(BudgetExceeded):
        duet.ledger.hold(["tenant:a"], Amount(usd=Decimal("0.5")))
    hold.settle(Amount(usd=Decimal("0.25")), EntryFacts(model="own/index"))
    assert duet.ledger.balance("tenant:a").remaining.usd == Decimal("0.75")
    assert duet.ledger.entries()[0].facts.model == "own/index"
    with pytest.raises(HoldMisused):
        hold.settle(Amount(usd=Decimal("0.5")))


def test_holds_end_by_the_ledger_as_well(duet):
    first, second, third = (duet.ledger.hold(["tenant:a"], Amount(requests=1)) for _ in range(3))
    duet.ledger.settle(first, Amount(requests=1))
    duet.ledger.release(second)
    duet.ledger.release(third.made)
    balance = duet.ledger.balance("tenant:a")
    assert (balance.spent.requests, balance.held.requests) == (1, 0)
    fourth = duet.ledger.hold(["tenant:a"], Amount(requests=1))
    fourth.release()
    assert duet.ledger.balance("tenant:a") == balance


def test_the_asynchronous_client_has_the_ledger_itself(given):
    async def main():
        async with AsyncDuetClient(*PAIR, ledger=given) as duet:
            await duet.ledger.set_limit("tenant:a", BY_DAY)
            await duet.chat("q", tenant="a")
            remaining = (await duet.ledger.balance("tenant:a")).remaining
            return isinstance(duet.ledger, BaseLedger), remaining, await duet.ledger.report("kind")

    is_ledger, remaining, rows = asyncio.run(main())
    assert is_ledger
    assert remaining == Limit(requests=1, window="day")
    assert [row.group for row in rows] == ["answer", "signal"]


def test_many_threads_are_never_let_over_a_limit_together(given):
    generator = Scripted(lambda call: Script("There are 17.", token_s=0.001))
    with DuetClient("scripted/17", generator, ledger=given) as duet, ThreadPoolExecutor(12) as pool:
        duet.ledger.set_limit("tenant:a", Limit(requests=20))

        def ask(number):
            try:
                return duet.chat(f"q{number}", tenant="a").text
            except BudgetExceeded:
                return None

        answers = list(pool.map(ask, range(60)))
        assert len([answer for answer in answers if answer]) == 20
        assert duet.ledger.balance("tenant:a").remaining.requests == 0


def test_many_threads_set_limits_and_hold_at_the_same_time(duet):
    with ThreadPoolExecutor(12) as pool:

        def work(number):
            scope = f"tenant:{number % 4}"
            duet.ledger.set_limit(scope, Limit(requests=30))
            duet.ledger.hold([scope], Amount(requests=1)).settle(Amount(requests=1))
            return duet.ledger.balance(scope).spent.requests

        seen = list(pool.map(work, range(80)))
    assert max(seen) == 20
    assert [duet.ledger.balance(f"tenant:{number}").spent.requests for number in range(4)] == [20] * 4
    assert len(duet.ledger.entries()) == 80


def test_it_works_in_the_thread_of_a_running_event_loop(given):
    async def notebook():
        with DuetClient(*PAIR, ledger=given) as duet:
            duet.ledger.set_limit("tenant:a", BY_DAY)
            duet.chat("q", tenant="a")
            return duet.ledger.balance("tenant:a").spent.requests

    assert asyncio.run(notebook()) == 1


def test_asynchronous_code_shares_the_ledger_of_a_synchronous_face(given):
    client = AsyncDuetClient(*PAIR, ledger=given)
    with DuetClient.over(client) as duet:
        duet.ledger.set_limit("tenant:a", BY_DAY)
        assert asyncio.run(client.ledger.limits()) == {"tenant:a": BY_DAY}


def test_a_call_waits_for_room_that_others_hold(duet):
    duet.ledger.set_limit("tenant:a", Limit(requests=1))
    first = duet.ledger.hold(["tenant:a"], Amount(requests=1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(duet.ledger.hold, ["tenant:a"], Amount(requests=1), wait_s=30)
        first.release()
        waiting.result(timeout=30).release()


@pytest.mark.parametrize(
    "given",
    ["sqlite:///ledger.db", {"url": "sqlite:///ledger.db"}, SqliteLedger],
    ids=["url", "table", "object"],
)
def test_a_ledger_is_named_by_its_url_a_table_or_is_an_object(given):
    ledger = given("ledger.db") if given is SqliteLedger else given
    with DuetClient(*PAIR, ledger=ledger) as duet:
        duet.ledger.set_limit("tenant:a", BY_DAY)
        assert repr(duet.ledger) == "BlockingLedger(SqliteLedger)"
        duet.ledger.close()  # an object is its maker's: the client leaves it open
    with DuetClient(*PAIR, settings=Settings(ledger="sqlite:///ledger.db")) as again:
        assert again.ledger.limits() == {"tenant:a": BY_DAY}


def test_a_ledger_of_ones_own_is_asked_by_its_own_methods():
    own = OwnLedger()
    with DuetClient(*PAIR, ledger=own) as duet:
        duet.ledger.set_limit("tenant:a", BY_DAY)
    assert own.asked == ["tenant:a"]


@pytest.mark.parametrize("client", [DuetClient, AsyncDuetClient])
def test_a_client_without_a_ledger_says_how_to_get_one(client):
    with pytest.raises(ConfigError, match=r"DuetClient\(…, ledger='sqlite:///ledger.db'\).*duet.toml"):
        _ = client(*PAIR).ledger


def test_closing_the_client_ends_a_call_that_waits_for_room(given):
    duet = DuetClient(*PAIR, ledger=given)
    duet.ledger.set_limit("tenant:a", Limit(requests=1))
    duet.ledger.hold(["tenant:a"], Amount(requests=1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(duet.ledger.hold, ["tenant:a"], Amount(requests=1), wait_s=30)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.05)
        duet.close()
        with pytest.raises((ConfigError, LedgerError), match="closed"):  # the client's, or first its ledger's
            waiting.result(timeout=10)


def test_an_interrupt_ends_a_call_that_waits_and_leaves_nothing_held():
    code = """
        import os, signal, threading
        from duet_sdk import DuetClient
        from duet_sdk.budget import Amount

        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script runs this in its background
        with DuetClient("scripted/s", "scripted/a", ledger="memory:") as duet:
            duet.ledger.set_limit("tenant:a", {"requests": 1})
            first = duet.ledger.hold(["tenant:a"], Amount(requests=1))
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                duet.ledger.hold(["tenant:a"], Amount(requests=1), wait_s=30)
            except KeyboardInterrupt:
                first.release()
                print("interrupted", duet.ledger.balance("tenant:a").held.requests)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["interrupted", "0"]


def test_a_client_that_is_closed_says_so(given):
    duet = DuetClient(*PAIR, ledger=given)
    ledger = duet.ledger
    duet.close()
    for face in (ledger, duet.ledger):
        with pytest.raises(ConfigError, match="this client is closed"):
            face.limits()


def test_a_store_that_was_closed_says_so(tmp_path):
    with DuetClient(*PAIR, ledger=f"sqlite:///{tmp_path}/ledger.db") as duet:
        duet.ledger.close()
        duet.ledger.close()
        with pytest.raises(LedgerError, match="closed"):
            duet.ledger.limits()


def test_a_store_that_cannot_be_reached_is_a_ledger_error():
    with DuetClient(*PAIR, ledger="redis://127.0.0.1:1/0") as duet, pytest.raises(LedgerError, match="127.0.0.1:1"):
        duet.ledger.limits()


def test_its_own_callbacks_get_an_error_instead_of_a_deadlock():
    def ask(call):
        return str(duet.ledger.limits())

    with DuetClient(Scripted("s"), Scripted(ask), ledger="memory:", on_failure="raise") as duet:
        with pytest.raises(ConfigError, match="use AsyncDuetClient there"):
            duet.chat("q")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_a_fork_the_child_gets_an_error_instead_of_hanging():
    code = """
        import os, warnings
        warnings.simplefilter("ignore")
        from duet_sdk import DuetClient
        duet = DuetClient("scripted/s", "scripted/a", ledger="sqlite:///ledger.db")
        duet.ledger.set_limit("tenant:a", {"requests": 5})
        if os.fork() == 0:
            try:
                duet.ledger.limits()
            except Exception as error:
                print(type(error).__name__, "forked" in str(error), flush=True)
            os._exit(0)
        os.wait()
        print(duet.ledger.limits()["tenant:a"].requests)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["ConfigError", "True", "5"]


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (5, r"such as Limit\(usd=Decimal\(5\), window='day'\), or a dict with its fields, got int"),
        ("5 USD", "a dict with its fields, got str"),
        ({"windw": "day"}, "no field 'windw'; did you mean 'window'"),
        ({"per": "day"}, "its fields are usd, reasoner_tokens"),
        ({"usd": -1}, "at least 0, got -1"),
        ({}, "must limit at least one of"),
    ],
)
def test_what_is_not_a_limit_is_said(limit, words):
    with DuetClient(*PAIR, ledger="memory:") as duet, pytest.raises(ConfigError, match=words):
        duet.ledger.set_limit("tenant:a", limit)


def test_an_unknown_grouping_is_said():
    with DuetClient(*PAIR, ledger="memory:") as duet, pytest.raises(InvalidRequest, match="known: scope, model"):
        duet.ledger.report("tenant")


def test_what_remains_is_told_in_every_unit_and_never_below_zero():
    prices = {"scripted/17": TokenPrice(Decimal(1000), Decimal(1000))}
    with DuetClient(*PAIR, ledger="memory:", prices=prices) as duet:
        duet.chat("q", tenant="a")
        duet.ledger.set_limit("tenant:a", Limit(Decimal(1), 10, 5000, 0, window="month"))
        remaining = duet.ledger.balance("tenant:a").remaining
        spent = duet.ledger.balance("tenant:a").spent
    assert (remaining.reasoner_tokens, remaining.requests, remaining.window) == (0, 0, "month")
    assert remaining.usd == 1 - spent.usd
    assert remaining.generator_tokens == 5000 - spent.generator_tokens


def test_exactly_what_remains_can_be_held(duet):
    duet.ledger.set_limit("tenant:a", Limit(Decimal("1.5"), 100, 200, 10, window="hour"))
    duet.ledger.hold(["tenant:a"], Amount(Decimal("0.25"), 10, 20, 1)).settle(Amount(Decimal("0.5"), 15, 5, 1))
    duet.ledger.hold(["tenant:a"], Amount(Decimal("0.125"), 5, 5, 1))
    left = duet.ledger.balance("tenant:a").remaining
    assert left == Limit(Decimal("0.875"), 80, 190, 8, window="hour")
    duet.ledger.hold(["tenant:a"], Amount(left.usd, left.reasoner_tokens, left.generator_tokens, left.requests))
    assert duet.ledger.balance("tenant:a").remaining == Limit(Decimal(0), 0, 0, 0, window="hour")
    for more in (Amount(usd=Decimal("1E-9")), Amount(reasoner_tokens=1), Amount(requests=1)):
        with pytest.raises(BudgetExceeded):
            duet.ledger.hold(["tenant:a"], more)


def public(kind):
    return {name: call for name, call in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def parameters(call):
    return [(one.name, one.kind, one.default) for one in inspect.signature(call).parameters.values()]


def test_every_call_of_a_ledger_has_a_blocking_one_with_its_signature_and_docstring():
    ours, theirs = public(BlockingLedger), public(BaseLedger)
    assert set(ours) == {ASYNC_ALONE.get(name, name) for name in theirs}
    for name, call in theirs.items():
        blocking = ours[ASYNC_ALONE.get(name, name)]
        assert parameters(blocking) == parameters(call)
        assert blocking.__doc__ == call.__doc__
        assert not inspect.iscoroutinefunction(blocking)


def test_a_type_checker_sees_parameters_and_results(tmp_path):
    pytest.importorskip("mypy")
    code = """
        from collections.abc import Mapping, Sequence
        from typing import assert_type

        from duet_sdk import DuetClient, Limit
        from duet_sdk.budget import Amount, Balance, BlockingHold, BlockingLedger, Entry
        from duet_sdk.budget.report import ReportRow

        def of(duet: DuetClient) -> None:
            ledger = duet.ledger
            assert_type(ledger, BlockingLedger)
            ledger.set_limit("tenant:a", {"requests": 1})
            ledger.set_limit(scope="tenant:a", limit=None)
            assert_type(ledger.limits(), Mapping[str, Limit])
            assert_type(ledger.balance("tenant:a"), Balance)
            assert_type(ledger.report("model", scope="tenant:a"), list[ReportRow])
            assert_type(ledger.entries(most=3), Sequence[Entry])
            hold = ledger.hold(["tenant:a"], Amount(), wait_s=1)
            assert_type(hold, BlockingHold)
            ledger.settle(hold, Amount())
            ledger.release(hold.made)
            ledger.set_limit("tenant:a")  # type: ignore[call-arg]
            ledger.set_limit("tenant:a", 5)  # type: ignore[arg-type]
            ledger.report("tenant")  # type: ignore[arg-type]
            ledger.hold(["tenant:a"], Amount(), wait=1)  # type: ignore[call-arg]
    """
    (tmp_path / "typed.py").write_text(textwrap.dedent(code))
    options = ["--strict", "--config-file=", f"--cache-dir={tmp_path}/cache", "--follow-imports=silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "typed.py"],
        env={**os.environ, "MYPYPATH": str(Path(duet_sdk.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == "Success: no issues found in 1 source file\n"


def test_a_blocking_hold_has_the_calls_of_a_hold():
    assert {name: parameters(call) for name, call in public(BlockingHold).items()} == {
        name: parameters(call) for name, call in public(Hold).items()
    }

"""Whose price counts, which prices are refused, and that an answer is paid and kept whatever its server reports."""

import logging
from decimal import Decimal

import pytest
from support.raw_server import answering, piece, used, whole

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Amount, EntryFacts, Limit, MemoryLedger, SqliteLedger
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import BudgetExceeded, ConfigError, DegradedWarning, LedgerError
from duet_sdk.pricing import TokenPrice
from duet_sdk.settings import Settings

PRICE = TokenPrice("10", "40")  # 0.05 USD for a thousand of each
COST = Decimal("0.05")
ABSURD_COSTS = [0, -1, "0", "-0.0", 1e300, "1e999999", "NaN", "sNaN", "Infinity", "-Infinity", True, "free", [], {}]


def saying(cost, *, stream=False):
    """1,000 tokens each way, and what the server says they cost."""

    def answer(body):
        usage = {"prompt_tokens": 1000, "completion_tokens": 1000, "cost": cost}
        if body.get("stream"):
            return [piece("hello", "stop"), {"choices": [], "usage": usage}]
        return whole("hello", usage=usage)

    return answer


async def ask(duet, *, stream, **options):
    if not stream:
        return await duet.chat("q", **options)
    async with duet.stream("q", **options) as run:
        async for _ in run:
            pass
    return run.reply


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cost", ABSURD_COSTS)
async def test_the_price_of_an_endpoint_goes_before_whatever_its_server_says(cost, stream):
    async with answering(saying(cost)) as url:
        model = Endpoint(model="vllm/m", base_url=url, price=PRICE)
        async with AsyncDuetClient("scripted/17", model) as duet:
            reply = await ask(duet, stream=stream)
    assert (reply.text, reply.cost.usd) == ("hello", COST)


@pytest.mark.parametrize("cost", ABSURD_COSTS)
async def test_the_price_of_the_client_goes_before_all_others(cost):
    async with answering(saying(cost)) as url:
        model = Endpoint(model="vllm/m", base_url=url, price=TokenPrice(1, 1))
        async with AsyncDuetClient("scripted/17", model, prices={"m": PRICE}) as duet:
            assert (await duet.chat("q")).cost.usd == COST


async def test_the_price_of_settings_goes_before_what_the_server_says():
    async with answering(saying(0)) as url:
        table = {"input_usd": "10", "output_usd": "40"}
        settings = Settings(reasoner="scripted/17", generator=f"vllm/m@{url}", prices={"vllm/m": table})
        async with AsyncDuetClient(settings=settings) as duet:
            assert (await duet.chat("q")).cost.usd == COST
        named = {"model": "vllm/m", "base_url": url, "price": table}
        async with AsyncDuetClient(settings=Settings(reasoner="scripted/17", generator=named)) as duet:
            assert (await duet.chat("q")).cost.usd == COST


async def test_a_limit_in_money_holds_against_a_server_that_claims_to_be_free():
    ledger = MemoryLedger()
    await ledger.set_limit("tenant:a", Limit(usd=Decimal("0.2")))
    async with answering(saying(0)) as url:
        model = Endpoint(model="vllm/m", base_url=url, price=PRICE)
        async with AsyncDuetClient("scripted/17", model, ledger=ledger) as duet:
            for _ in range(4):
                await duet.chat("q", tenant="a", budget=Budget(answer_tokens=1000))
            with pytest.raises(BudgetExceeded):
                await duet.chat("q", tenant="a", budget=Budget(answer_tokens=1000))


async def test_without_a_price_of_ones_own_the_servers_word_counts():
    async with answering(saying("0.03")) as url, AsyncDuetClient("scripted/17", f"vllm/m@{url}") as duet:
        assert (await duet.chat("q")).cost.usd == Decimal("0.03")


# Names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("scripted/bgi", "did you mean 'scripted/big'"),
        ("bigg", "did you mean 'big'"),
        ("SCRIPTED/Big", "did you mean 'scripted/big'"),
        ("vllm/big", "did you mean '(scripted/)?big'"),
        ("openai/gpt-4o-mini", "its models are scripted/big, scripted/small"),
    ],
)
def test_a_price_of_no_model_of_the_client_is_refused_with_what_was_meant(name, hint):
    with pytest.raises(ConfigError, match=f"prices has '{name}', which is no model of this client; {hint}"):
        AsyncDuetClient(Scripted(model="big"), Scripted(model="small"), prices={name: PRICE})


def test_a_price_may_be_that_of_any_model_of_a_chain_or_of_the_pair_behind_it():
    from duet_sdk.policies import FailurePolicy

    chain = [Scripted(model="small"), Scripted(model="tiny")]
    behind = FailurePolicy(fallback_pair=("scripted/a", "scripted/b"))
    prices = dict.fromkeys(("scripted/big", "tiny", "scripted/b"), PRICE)
    AsyncDuetClient(Scripted(model="big"), chain, prices=prices, on_failure=behind)


def test_prices_of_settings_whose_models_are_replaced_are_left_aside():
    settings = Settings(reasoner="scripted/a", generator="scripted/b", prices={"scripted/a": PRICE, "b": PRICE})
    AsyncDuetClient("scripted/c", settings=settings)
    AsyncDuetClient("scripted/c", "scripted/d", settings=settings)
    wrong = Settings(reasoner="scripted/a", generator="scripted/b", prices={"scripted/aa": PRICE})
    with pytest.raises(ConfigError, match="did you mean 'scripted/a'"):
        AsyncDuetClient(settings=wrong)


# A limit that nothing reaches


def warnings_of(caplog):
    return [record.message for record in caplog.records if "every model of this client is free" in record.message]


async def test_a_limit_in_money_over_free_models_is_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING):
        async with AsyncDuetClient("scripted/a", "scripted/b", budget=Budget(cost_usd=Decimal(1))) as duet:
            await duet.chat("q")
            await duet.chat("q")
    assert len(warnings_of(caplog)) == 1


def test_a_limit_in_money_over_free_servers_is_a_warning_where_the_client_is_made():
    models = ("vllm/r@http://127.0.0.1:9/v1", "vllm/g@http://127.0.0.1:9/v1")
    with pytest.warns(DegradedWarning, match="the limit is never reached: give their prices") as told:
        AsyncDuetClient(*models, budget=Budget(cost_usd=Decimal(1)))
    assert told[0].filename == __file__


async def test_a_limit_in_money_of_a_request_is_warned_of_too(caplog):
    with caplog.at_level(logging.WARNING):
        async with AsyncDuetClient("scripted/a", "scripted/b") as duet:
            await duet.chat("q")
            for _ in range(2):
                await duet.chat("q", budget=Budget(cost_usd=Decimal(1)))
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"prices": {"scripted/a": PRICE}, "budget": Budget(cost_usd=Decimal(1))},
        {"budget": Budget(total_tokens=10_000)},
    ],
)
async def test_a_limit_that_can_be_reached_is_not_warned_of(caplog, options):
    with caplog.at_level(logging.WARNING):
        async with AsyncDuetClient("scripted/a", "scripted/b", **options) as duet:
            await duet.chat("q")
    assert warnings_of(caplog) == []


# Whatever a server reports


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request, tmp_path):
    made = MemoryLedger() if request.param == "memory" else SqliteLedger(tmp_path / "ledger.db")
    async with made:
        yield made


ABSURD = [
    {"prompt_tokens": 10, "completion_tokens": 10**18},
    {"prompt_tokens": 10**18, "completion_tokens": 1},
    {"prompt_tokens": 10**30, "completion_tokens": 10**30},
    {"prompt_tokens": 10, "completion_tokens": 2**53},
    {"prompt_tokens": 10, "completion_tokens": 2, "cost": "10000000"},
    {"prompt_tokens": 10, "completion_tokens": 2, "cost": 1e300},
    {"prompt_tokens": 10, "completion_tokens": 2, "cost": "9e999999"},
    {"prompt_tokens": 10, "completion_tokens": 2, "cost": "Infinity"},
    {"prompt_tokens": -10, "completion_tokens": -2, "cost": -1},
    {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 10**30}},
    {"prompt_tokens": 10, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 10**30}},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("price", [None, PRICE])
@pytest.mark.parametrize("usage", ABSURD)
async def test_an_answer_comes_back_and_its_hold_is_settled_whatever_is_reported(ledger, usage, price, stream):
    def answer(body):
        if body.get("stream"):
            return [piece("hello", "stop"), {"choices": [], "usage": usage}]
        return whole("hello", usage=usage)

    async with answering(answer) as url:
        model = Endpoint(model="vllm/m", base_url=url, price=price)
        async with AsyncDuetClient("scripted/17", model, ledger=ledger) as duet:
            for _ in range(2):
                assert (await ask(duet, stream=stream, tenant="a")).text == "hello"
    balance = await ledger.balance("tenant:a")
    assert balance.held == Amount()
    assert balance.spent.requests == 2
    assert [entry.status for entry in await ledger.entries()].count("expired") == 0


async def test_the_sums_of_a_scope_bear_any_number_of_absurd_bills(ledger):
    generator = Scripted(Script("a", billed=10**18))
    async with AsyncDuetClient("scripted/17", generator, ledger=ledger) as duet:
        for _ in range(3):
            await duet.chat("q", tenant="a")
    hold = await ledger.hold(["tenant:a"], Amount(generator_tokens=1))
    for _ in range(1100):  # 2^63 is a good thousand times the most that one amount can be
        other = await ledger.hold(["tenant:a"], Amount())
        await other.settle(Amount(generator_tokens=9 * 10**15))
    await hold.settle(Amount(generator_tokens=1))
    balance = await ledger.balance("tenant:a")
    assert balance.held == Amount()
    assert balance.spent.generator_tokens > 9 * 10**15


async def test_running_totals_beyond_reason_do_not_cut_an_answer():
    def answer(body):
        return [
            {**piece("one "), "usage": {"prompt_tokens": 1, "completion_tokens": 10**30}},
            piece("two", "stop"),
            used(2),
        ]

    async with answering(answer) as url, AsyncDuetClient("scripted/17", f"vllm/m@{url}") as duet:
        assert (await ask(duet, stream=True)).text == "one two"


# Parts of a usage


@pytest.mark.parametrize(
    ("price", "usage", "usd"),
    [
        (TokenPrice(1, 2, "0.1", "1.25"), (1000, 100, 400, 300), "0.000915"),  # 300 · 1 + 400 · 0.1 + 300 · 1.25 + 200
        (TokenPrice(1, 2, "0.1"), (1000, 100, 400, 300), "0.00084"),  # written at the price of input
        (TokenPrice(1, 2), (1000, 100, 400, 300), "0.0012"),
        (TokenPrice(1, 2, "0.1", "1.25"), (1000, 100, None, None), "0.0012"),
        (TokenPrice(1, 2, "0.1", "1.25"), (1000, 100, 900, 900), "0.000415"),  # 900 cached leave 100 to be written
    ],
)
def test_cached_and_written_tokens_cost_what_their_price_says(price, usage, usd):
    from duet_sdk.pricing import PriceBook
    from duet_sdk.reply import StageUsage

    prompt, output, cached, written = usage
    for reasoning in (None, 60, 10**9):  # a part of the output, which is paid once
        told = StageUsage(prompt, output, cached, cache_write_tokens=written, reasoning_tokens=reasoning)
        assert PriceBook({"x/m": price}).cost("x/m", told, seconds=1) == Decimal(usd)


async def test_an_answer_comes_back_whatever_error_of_ours_its_settle_ends_in():
    class Replaced(MemoryLedger):
        async def _settle(self, hold, settlement):
            raise ConfigError("the ledger was written by a newer DUET")

    async with AsyncDuetClient("scripted/17", "scripted/ok", ledger=Replaced()) as duet:
        assert (await duet.chat("q", tenant="a")).text == "ok"


async def test_one_settle_that_no_column_holds_fails_alone(tmp_path):
    async with SqliteLedger(tmp_path / "ledger.db") as ledger:
        hold = await ledger.hold(["tenant:a"], Amount(requests=1))
        with pytest.raises(LedgerError):
            await ledger.hold(["tenant:a"], Amount(), facts=EntryFacts(model="\ud800"))
        await hold.settle(Amount(requests=1))
        assert (await ledger.balance("tenant:a")).spent == Amount(requests=1)


def test_the_price_of_an_endpoint_goes_before_what_another_packages_backend_knows(monkeypatch):
    from importlib.metadata import EntryPoint

    from duet_sdk.backends import connect as connecting

    point = EntryPoint("billed", f"{__name__}:billed", connecting.GROUP)
    monkeypatch.setattr(connecting, "entry_points", lambda group: [point])
    _, backend = connecting.connect(Endpoint(model="billed/x", price=PRICE))
    assert backend.price == backend.own_price == PRICE


def billed(model, options):
    return Scripted(Script("a", cost_usd=Decimal(0)), model=model, price=TokenPrice(1, 1))

"""Retries, chains of models, the pair behind the pair, and the boundary that a request never crosses."""

import asyncio

import pytest
from support import templates

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import (
    Authentication,
    BoundaryRefused,
    ConfigError,
    ConnectFailed,
    ContentFiltered,
    DeadlineExceeded,
    EndpointResting,
    QuotaExceeded,
    RateLimited,
    Rejected,
    StreamBroken,
)
from duet_sdk.events import AnswerDelta, AttemptEnded, AttemptStarted, FellBack, Retried, SignalDelta, SignalDone
from duet_sdk.policies import BreakerPolicy, FailurePolicy, Ladder, Retry
from duet_sdk.rendering import Renderer
from duet_sdk.settings import Settings

AT_ONCE = Retry(first_wait_s=0)


def failing(kind=ConnectFailed, **facts):
    return Script(error=kind("no", backend="scripted", model="lines", **facts))


def breaking(text, after):
    return Script(text, error=StreamBroken("cut", backend="scripted", model="lines"), fail_after=after)


async def events_of(client, **options):
    async with client.stream("q", **options) as run:
        return [event async for event in run], run.reply


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
async def test_a_model_that_fails_is_called_again_and_each_attempt_is_told(stage):
    scripts = {"reasoner": ["sketch"], "generator": ["answer"]}
    scripts[stage] = [failing(), failing(RateLimited), *scripts[stage]]
    duet = AsyncDuetClient(Scripted(*scripts["reasoner"]), Scripted(*scripts["generator"]), retry=AT_ONCE)
    events, reply = await events_of(duet)
    assert (reply.text, reply.signal.text, reply.served_by) == ("answer", "sketch", "pair")
    of_stage = [event for event in events if getattr(event, "stage", None) == stage]
    assert [type(event) for event in of_stage] == [AttemptStarted, AttemptEnded, Retried] * 2 + [
        AttemptStarted,
        AttemptEnded,
    ]
    assert [event.attempt for event in of_stage if isinstance(event, AttemptStarted)] == [1, 2, 3]
    assert [a.error_type for a in reply.receipt.attempts if a.stage == stage] == ["ConnectFailed", "RateLimited", None]


async def test_retries_end_with_the_deadline():
    duet = AsyncDuetClient(Scripted("s"), Scripted(failing(RateLimited, retry_after=60)), on_failure="raise")
    with pytest.raises(RateLimited):
        await duet.chat("q", budget=Budget(deadline_s=5))


async def test_a_wait_before_a_retry_ends_when_the_task_is_cancelled():
    generator = Scripted(failing(RateLimited, retry_after=60))
    task = asyncio.create_task(AsyncDuetClient(Scripted("s"), generator).chat("q"))
    while not generator.calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_next_model_of_a_chain_takes_over():
    first, second = Scripted(failing(), model="one"), Scripted("sketch", model="two")
    third, fourth = Scripted(failing(Authentication), model="three"), Scripted("answer", model="four")
    duet = AsyncDuetClient([first, second], [third, fourth], retry=AT_ONCE)
    events, reply = await events_of(duet)
    assert (reply.text, reply.signal.text, reply.served_by) == ("answer", "sketch", "pair")
    assert [event for event in events if isinstance(event, FellBack)] == [
        FellBack("reasoner", "pair", "ConnectFailed", discard=True, model="scripted/two"),
        FellBack("generator", "pair", "Authentication", discard=False, model="scripted/four"),
    ]
    assert (len(first.calls), len(second.calls), len(third.calls), len(fourth.calls)) == (3, 1, 1, 1)


async def test_a_chain_passes_over_a_model_that_cannot_be_reached():
    down = ConnectFailed("down", backend="scripted", model="one")
    first, second = Scripted(connect_error=down, model="one"), Scripted("answer", model="two")
    reply = await AsyncDuetClient(Scripted("sketch"), [first, second], retry=AT_ONCE).chat("q")
    assert (reply.text, reply.served_by) == ("answer", "pair")


async def test_after_the_last_generator_the_reasoner_answers():
    generators = [Scripted(failing(), model="one"), Scripted(failing(), model="two")]
    reply = await AsyncDuetClient(Scripted("sketch", "whole"), generators, retry=AT_ONCE).chat("q")
    assert (reply.text, reply.served_by) == ("whole", "reasoner_fallback")


async def test_a_broken_signal_is_asked_for_again_and_both_attempts_are_charged():
    reasoner = Scripted(breaking("one two three", 2), "whole sketch")
    events, reply = await events_of(AsyncDuetClient(reasoner, Scripted("a"), retry=AT_ONCE))
    assert Retried("reasoner", discard=True) in events
    assert (reply.signal.text, reply.signal.tokens) == ("whole sketch", 2)
    assert reply.usage.reasoner.output_tokens == 4


async def test_a_broken_signal_can_be_kept_as_a_cut_one():
    reasoner = Scripted(breaking("One two. Three four", 3))
    duet = AsyncDuetClient(reasoner, Scripted("a"), retry=AT_ONCE, on_failure=FailurePolicy(signal_broken="keep"))
    reply = await duet.chat("q")
    assert (reply.signal.text, reply.signal.truncated, reply.served_by) == ("One two.", True, "pair_cut")
    assert len(reasoner.calls) == 1


async def test_a_broken_signal_can_end_the_stage_at_once():
    reasoner = Scripted(breaking("One two. Three four", 3))
    reply = await AsyncDuetClient(
        reasoner, Scripted("a"), retry=AT_ONCE, on_failure=FailurePolicy(signal_broken="error")
    ).chat("q")
    assert (reply.served_by, len(reasoner.calls)) == ("generator_fallback", 1)


async def test_a_broken_thought_goes_on_where_it_stopped():
    files = templates.files("qwen3")
    reasoner = Scripted(breaking("<think>one two three four", 3), " three four</think>", files=files)
    duet = AsyncDuetClient(
        reasoner,
        Scripted("a", files=files),
        handoff="think",
        retry=AT_ONCE,
        on_failure=FailurePolicy(signal_broken="continue"),
    )
    events, reply = await events_of(duet, budget=Budget(signal_tokens=20))
    assert Retried("reasoner", discard=False) in events
    assert Renderer(files).decode(reasoner.calls[1].prompt_ids).endswith("<think>\none two three")
    assert [call.max_tokens for call in reasoner.calls] == [20, 17]
    assert (reply.signal.text, reply.signal.truncated, reply.signal.tokens) == ("one two three three four", False, 5)


async def test_a_broken_answer_is_an_error_with_its_text_for_a_stream():
    with pytest.raises(StreamBroken) as broken:
        await events_of(AsyncDuetClient(Scripted("s"), Scripted(breaking("one two", 1), "whole"), retry=AT_ONCE))
    assert broken.value.partial == "one"


async def test_a_broken_answer_starts_over_where_the_policy_says_so_and_is_told():
    duet = AsyncDuetClient(
        Scripted("s"),
        Scripted(breaking("one two", 1), "whole"),
        retry=AT_ONCE,
        on_failure=FailurePolicy(answer_broken="restart"),
    )
    events, reply = await events_of(duet)
    told = [event for event in events if isinstance(event, AnswerDelta | Retried)]
    assert told == [AnswerDelta("one"), Retried("generator", discard=True), AnswerDelta("whole")]
    assert reply.text == "whole"


async def test_chat_starts_a_broken_answer_over_as_nothing_was_handed_on():
    generator = Scripted(breaking("one two", 1), "whole")
    reply = await AsyncDuetClient(Scripted("s"), generator, retry=AT_ONCE).chat("q")
    assert (reply.text, reply.served_by) == ("whole", "pair")
    assert reply.usage.generator.output_tokens == 2


async def test_a_mistake_in_the_request_is_not_sent_again():
    generator = Scripted(failing(Rejected))
    with pytest.raises(Rejected):
        await AsyncDuetClient(Scripted("s"), generator, retry=AT_ONCE, on_failure="raise").chat("q")
    assert len(generator.calls) == 1


@pytest.mark.parametrize("broken", ["reasoner", "generator"])
async def test_the_pair_behind_the_pair_takes_over_whole(broken):
    pair = {"reasoner": Scripted("old sketch"), "generator": Scripted("old answer")}
    pair[broken] = Scripted(failing())
    other = (Scripted("new sketch", model="big"), Scripted("new answer", model="small"))
    events, reply = await events_of(
        AsyncDuetClient(**pair, on_failure=FailurePolicy(fallback_pair=other), retry=AT_ONCE)
    )
    assert (reply.text, reply.signal.text, reply.served_by) == ("new answer", "new sketch", "fallback_pair")
    assert FellBack("generator", "fallback_pair", "ConnectFailed", False, "scripted/big with scripted/small") in events
    assert "old" not in "".join(message.text for message in other[1].calls[0].messages)


async def test_a_pair_behind_the_pair_that_fails_raises():
    other = (Scripted(failing()), Scripted(failing()))
    with pytest.raises(ConnectFailed):
        await AsyncDuetClient(
            Scripted("s"), Scripted(failing()), on_failure=FailurePolicy(fallback_pair=other), retry=AT_ONCE
        ).chat("q")


async def test_a_request_never_leaves_its_boundary_whatever_fails():
    near, far = Scripted(failing(), model="near"), Scripted("answer", model="far", boundary="any")
    duet = AsyncDuetClient(Scripted("sketch"), [near, far], retry=AT_ONCE, on_failure="raise")
    with pytest.raises(ConnectFailed):
        await duet.chat("q")
    assert far.calls == []
    assert (await duet.chat("q", boundary="any")).text == "answer"


async def test_regions_are_crossed_only_by_name():
    eu, us = Scripted("sketch", model="eu", boundary="eu"), Scripted("answer", model="us", boundary="us")
    assert (await AsyncDuetClient(eu, us).chat("q")).text == "answer"
    assert (await AsyncDuetClient(eu, us).chat("q", boundary=["eu", "us"])).text == "answer"
    with pytest.raises(BoundaryRefused, match="scripted/us is at 'us', and this request may go to eu only") as refused:
        await AsyncDuetClient(eu, us).chat("q", boundary="eu")
    assert (refused.value.model, refused.value.boundary, refused.value.allowed) == (
        "scripted/us",
        "us",
        frozenset({"eu"}),
    )


@pytest.mark.parametrize("stage", [0, 1])
async def test_not_even_a_probe_crosses_the_boundary(stage):
    class Watched(Scripted):
        probed = 0

        async def connect(self):
            self.probed += 1
            return await super().connect()

    far = Watched("x", model="far", boundary="any")
    near = Scripted("x", model="near")
    with pytest.raises(BoundaryRefused):
        await AsyncDuetClient(*((far, near) if stage == 0 else (near, far))).chat("q", boundary="local")
    assert (far.probed, far.calls, near.calls) == (0, [], [])


async def test_the_pair_behind_the_pair_keeps_the_boundary_of_the_first():
    other = (Scripted("s", boundary="any"), Scripted("a", boundary="any"))
    duet = AsyncDuetClient(
        Scripted("s"), Scripted(failing()), on_failure=FailurePolicy(fallback_pair=other), retry=AT_ONCE
    )
    with pytest.raises(BoundaryRefused):
        await duet.chat("q")
    assert other[0].calls == other[1].calls == []


async def test_a_trained_signal_reaches_another_model_by_the_instruct_handoff():
    files = templates.files("qwen3")
    trained, other = Scripted(failing(), files=files, model="trained"), Scripted("answer", files=files, model="other")
    duet = AsyncDuetClient(
        Scripted("<think>plan</think>", files=files), [trained, other], handoff="think", retry=AT_ONCE
    )
    reply = await duet.chat("q")
    assert trained.calls[0].prompt_ids
    assert other.calls[0].messages[-1].text == "q\n\n<notes>\nplan\n</notes>"
    assert reply.handoff == "instruct"


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
async def test_with_tools_a_trained_pair_uses_the_instruct_handoff_and_says_so():
    files = templates.files("qwen3")
    generator = Scripted("answer", files=files)
    tool = {"type": "function", "function": {"name": "t"}}
    duet = AsyncDuetClient(Scripted("plan", files=files), generator, handoff="think")
    reply = await duet.chat("q", tools=[tool])
    assert (reply.handoff, generator.calls[0].tools) == ("instruct", (tool,))


async def test_an_endpoint_that_keeps_failing_is_left_alone_by_the_client():
    reasoner = Scripted(failing())
    duet = AsyncDuetClient(reasoner, Scripted("alone"), retry=Retry(attempts=1))
    for _ in range(8):
        assert (await duet.chat("q")).served_by == "generator_fallback"
    assert len(reasoner.calls) == 5


async def test_an_endpoint_that_rests_is_passed_over_without_waiting():
    first, second = Scripted(failing(), model="one"), Scripted("answer", model="two")
    duet = AsyncDuetClient(Scripted("s"), [first, second], retry=AT_ONCE)
    async with asyncio.timeout(5):
        assert [(await duet.chat("q")).text for _ in range(4)] == ["answer"] * 4
    assert len(first.calls) == 5


async def test_no_boundary_at_all_keeps_a_request_in_this_place():
    with pytest.raises(BoundaryRefused):
        await AsyncDuetClient(Scripted("s", boundary="any"), Scripted("a")).chat("q", boundary=[])


def test_an_empty_chain_is_refused():
    with pytest.raises(ConfigError, match="the generator's list of models is empty"):
        AsyncDuetClient("scripted/a", [])


async def test_the_signals_deadline_holds_over_retries():
    reasoner = Scripted(failing(), Script("One. Two three", stall_after=2))
    events, reply = await events_of(
        AsyncDuetClient(reasoner, Scripted("a"), retry=AT_ONCE), budget=Budget(signal_deadline_s=0.2)
    )
    assert (reply.signal.text, reply.served_by) == ("One.", "pair_cut")
    assert [type(event) for event in events if isinstance(event, SignalDelta | SignalDone)][-1] is SignalDone


async def test_a_deadline_during_the_wait_for_a_model_is_a_deadline():
    class Slow(Scripted):
        async def connect(self):
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await AsyncDuetClient(Scripted("s"), Slow("a")).chat("q", mode="generator", budget=Budget(deadline_s=0.05))


def wrong_key():
    return Script(error=Authentication("no such key", backend="scripted", model="a", status=401))


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
async def test_a_chain_may_be_for_outages_alone(stage):
    policy = FailurePolicy(retry=AT_ONCE, chain="outage", ladder=Ladder("raise", "raise", "raise"))

    def client(first, second):
        chain = [first, second]
        reasoner, generator = (chain, Scripted("a")) if stage == "reasoner" else (Scripted("s"), chain)
        return AsyncDuetClient(reasoner, generator, on_failure=policy)

    second = Scripted("second")
    with pytest.raises(Authentication):
        await client(Scripted(wrong_key()), second).chat("q")
    assert second.calls == []
    reply = await client(Scripted(*[failing()] * 9), second).chat("q")
    assert "second" in (reply.text, reply.signal.text)


async def test_a_wrong_key_found_on_connecting_is_not_hidden_where_a_chain_is_for_outages_alone():
    class Locked(Scripted):
        async def connect(self):
            raise Authentication("no such key", backend="scripted", model="a", status=401)

    reasoner = Scripted("s")
    policy = FailurePolicy(retry=AT_ONCE, chain="outage")
    with pytest.raises(Authentication):
        await AsyncDuetClient(reasoner, [Locked("a"), Scripted("b")], on_failure=policy).chat("q")
    assert reasoner.calls == []
    assert (await AsyncDuetClient(reasoner, [Locked("a"), Scripted("b")], retry=AT_ONCE).chat("q")).text == "b"


@pytest.mark.parametrize(("breaker", "calls"), [(BreakerPolicy(failures=2), 2), (None, 4)])
async def test_the_policy_says_when_a_model_is_left_alone(breaker, calls):
    generator = Scripted(*[failing()] * 9)
    policy = FailurePolicy(retry=Retry(attempts=1), breaker=breaker, ladder=Ladder(generator="raise"))
    duet = AsyncDuetClient(Scripted(*["s"] * 4), generator, on_failure=policy)
    for _ in range(4):
        with pytest.raises(ConnectFailed):
            await duet.chat("q")
    assert len(generator.calls) == calls


def resting(*after, rest_s=0.1, **options):
    """A generator whose breaker opens at its first failure, then what it writes."""
    policy = {"ladder": Ladder(generator="raise"), "breaker": BreakerPolicy(failures=1, rest_s=rest_s)} | options
    return Scripted(failing(), *after, model="hurt"), FailurePolicy(**{"retry": Retry(1, 0), **policy})


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
async def test_a_rest_is_waited_for_where_nobody_else_begins(stage):
    hurt, policy = resting("up again", retry=Retry(3, 0), ladder=Ladder(reasoner="raise", generator="raise"))
    well = Scripted(*["fine"] * 3)
    pair = (hurt, well) if stage == "reasoner" else (well, hurt)
    duet = AsyncDuetClient(*pair, on_failure=policy)
    reply = await duet.chat("q")
    assert (reply.signal.text, reply.text) == (("up again", "fine") if stage == "reasoner" else ("fine", "up again"))
    assert reply.served_by == "pair"


async def test_a_generators_rest_is_waited_for_before_a_signal_is_bought():
    hurt, policy = resting("up again", breaker=BreakerPolicy(failures=2, rest_s=0.1), retry=Retry(2, 0))
    hurt = Scripted(failing(), failing(), "up again")
    duet = AsyncDuetClient(Scripted(*["s"] * 2), hurt, on_failure=policy)
    with pytest.raises(ConnectFailed):
        await duet.chat("q")
    reply = await duet.chat("q")
    assert (reply.signal.text, reply.text, reply.served_by) == ("s", "up again", "pair")


async def test_a_rest_is_waited_for_once_in_a_request():
    hurt, policy = resting(*[failing()] * 9, retry=Retry(9, 0), ladder=Ladder())
    reply = await AsyncDuetClient(Scripted(*["from the reasoner"] * 2), hurt, on_failure=policy).chat("q")
    assert (reply.text, reply.served_by) == ("from the reasoner", "reasoner_fallback")
    assert len(hurt.calls) == 2


@pytest.mark.parametrize("longest", [0.0, 59.9])
async def test_a_rest_beyond_the_bound_is_not_waited_for(longest):
    hurt, policy = resting(rest_s=60, retry=Retry(3, 0, longest_retry_after_s=longest))
    with pytest.raises(EndpointResting, match="another 60.0 s"):
        await AsyncDuetClient(Scripted("s"), hurt, on_failure=policy).chat("q")


async def test_the_next_model_of_a_chain_does_not_wait_for_one_that_rests():
    hurt, policy = resting(rest_s=60, retry=Retry(3, 0))
    duet = AsyncDuetClient(Scripted(*["s"] * 2), [hurt, Scripted("one", "two")], on_failure=policy)
    assert [(await duet.chat("q")).text for _ in range(2)] == ["one", "two"]
    assert len(hurt.calls) == 1


@pytest.mark.parametrize("asked", [60.1, 900, 86_400, 999_999_999])
@pytest.mark.parametrize("stage", ["reasoner", "generator"])
@pytest.mark.parametrize("chain", [True, False])
async def test_a_wait_beyond_the_bound_is_left_to_the_next_model_or_the_ladder(stage, chain, asked):
    hurt, well = Scripted(failing(RateLimited, retry_after=asked), model="hurt"), Scripted("fine", "fine", "fine")
    models = [hurt, well] if chain else hurt
    pair = (models, well) if stage == "reasoner" else (well, models)
    reply = await AsyncDuetClient(*pair).chat("q")
    alone = {"reasoner": "generator_fallback", "generator": "reasoner_fallback"}[stage]
    assert (reply.text, reply.served_by) == ("fine", "pair" if chain else alone)
    assert len(hurt.calls) == 1


@pytest.mark.parametrize("kind", [QuotaExceeded, ContentFiltered])
@pytest.mark.parametrize("stage", ["reasoner", "generator"])
@pytest.mark.parametrize(("chain", "which"), [(True, "any"), (True, "outage"), (False, "any")])
async def test_an_empty_account_or_a_filter_lets_another_model_answer_at_once(kind, stage, chain, which):
    hurt, well = Scripted(failing(kind), model="hurt"), Scripted("fine", "fine", "fine")
    models = [hurt, well] if chain else hurt
    pair = (models, well) if stage == "reasoner" else (well, models)
    reply = await AsyncDuetClient(*pair, on_failure=FailurePolicy(chain=which)).chat("q")
    alone = {"reasoner": "generator_fallback", "generator": "reasoner_fallback"}[stage]
    assert (reply.text, reply.served_by) == ("fine", "pair" if chain else alone)
    assert len(hurt.calls) == 1


async def test_retry_may_be_said_in_one_place_only():
    once = Retry(attempts=1)
    with pytest.raises(ConfigError, match="retry is given twice"):
        AsyncDuetClient("scripted/s", "scripted/a", retry=once, on_failure=FailurePolicy(retry=Retry(attempts=2)))
    generator = Scripted(failing(), "a")
    policy = FailurePolicy(ladder=Ladder(generator="raise"))
    with pytest.raises(ConnectFailed):
        await AsyncDuetClient(Scripted("s"), generator, retry=once, on_failure=policy).chat("q")


@pytest.mark.parametrize(
    ("settings", "options", "calls"),
    [
        ({"retry": Retry(4, 0)}, {"on_failure": FailurePolicy(retry=Retry(2, 0))}, 2),
        ({"on_failure": FailurePolicy(retry=Retry(4, 0))}, {"retry": Retry(2, 0)}, 2),
        ({"retry": Retry(4, 0)}, {"on_failure": FailurePolicy(answer_broken="restart")}, 4),
    ],
)
async def test_the_nearer_retry_counts(settings, options, calls):
    reasoner = Scripted(*[failing()] * 9)
    duet = AsyncDuetClient(reasoner, Scripted("a"), settings=Settings(**settings), **options)
    assert (await duet.chat("q")).served_by == "generator_fallback"
    assert len(reasoner.calls) == calls


@pytest.mark.parametrize("options", [{}, {"retry": Retry(3, 0)}])
async def test_a_word_replaces_the_ladder_alone(options):
    reasoner = Scripted(*[failing()] * 9)
    settings = Settings(on_failure={"retry": {"attempts": 2, "first_wait_s": 0}, "answer_broken": "restart"})
    duet = AsyncDuetClient(reasoner, Scripted("a"), settings=settings, on_failure="raise", **options)
    with pytest.raises(ConnectFailed):
        await duet.chat("q")
    assert len(reasoner.calls) == (3 if options else 2)


@pytest.mark.parametrize("name", ["on_break", "fallback_pair", "retri"])
def test_an_option_that_does_not_exist_is_refused(name):
    with pytest.raises(TypeError, match=f"'{name}' is not an option here"):
        AsyncDuetClient("scripted/s", "scripted/a", **{name: None})


@pytest.mark.parametrize(
    "values",
    [
        {"chain": "never"},
        {"signal_broken": "resume"},
        {"answer_broken": "keep"},
        {"retry": 3},
        {"ladder": "raise"},
        {"breaker": 5},
        {"fallback_pair": ("a/b",)},
        {"fallback_pair": "a/b"},
    ],
)
def test_a_failure_policy_refuses_what_it_does_not_know(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        FailurePolicy(**values)

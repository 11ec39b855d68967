"""What an endpoint adds to calls in vLLM's own names: thinking budget, priority, cache salt."""

import hashlib
import hmac

import pytest
from support import templates
from support.fault_server import Answer, FaultServer
from support.fault_server.words import is_probe
from support.served import BY_HAND, QUESTION, TOOL, chunks_of, served

from duet_sdk import AsyncDuetClient, Budget, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.scripted import Scripted
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.backends.server.fields import rank_headers
from duet_sdk.errors import ConfigError, InvalidRequest, Rejected
from duet_sdk.rendering import Renderer

THINK = Call(max_tokens=9, messages=QUESTION, thinking=True)


async def budget_sent(call, **options):
    """The thinking budget that reached the server, None where none did."""
    async with served(**options) as (server, backend):
        await chunks_of(backend, call)
    (body,) = server.calls
    return body.get("thinking_token_budget")


async def test_a_server_that_was_started_for_it_holds_the_limit_on_thinking_too():
    assert await budget_sent(THINK, thinking=True) == 10


@pytest.mark.parametrize(
    "options", [{}, {"vllm": False}, {"thinking": True, "capabilities": {"thinking_budget": False}}]
)
async def test_no_budget_is_sent_where_the_server_is_not_known_to_take_it(options):
    assert await budget_sent(THINK, **options) is None


async def test_finding_it_out_costs_no_tokens():
    async with served(thinking=True) as (server, backend):
        await backend.connect()
        assert [seen.body["prompt"] for seen in server.seen if seen.path == "/v1/completions"] == [[2**31 - 1]] * 5
        assert (server.calls, server.open) == ([], 0)


async def test_said_by_hand_it_is_not_asked_for():
    options = {"context_tokens": 99, "capabilities": {**BY_HAND, "thinking_budget": True}}
    async with served(thinking=True, **options) as (server, backend):
        await chunks_of(backend, THINK)
    assert [seen.path for seen in server.seen] == ["/v1/chat/completions"]
    assert server.calls[0]["thinking_token_budget"] == 10


async def test_thinking_that_the_prompt_already_holds_is_not_taken_from_it(tmp_path):
    files = templates.files("qwen3")
    (tmp_path / "tokenizer.json").write_text(files.tokenizer_json, "utf-8")
    (tmp_path / "chat_template.jinja").write_text(files.chat_template, "utf-8")
    renderer = Renderer(files)
    thought = renderer.think_ids(QUESTION, "two, three, five", closed=False)
    opened = len(thought) - thought.index(renderer.encode("<think>")[0]) - 1
    options = {"thinking": True, "files": files, "tokenizer": str(tmp_path)}
    assert opened > 4
    assert await budget_sent(Call(max_tokens=9, prompt_ids=thought, thinking=True), **options) == 9 + 1 + opened
    closed = renderer.think_ids(QUESTION, "two, three, five")
    assert await budget_sent(Call(max_tokens=9, prompt_ids=closed, thinking=True), **options) == 10


WITH_GRAMMAR = [
    Call(max_tokens=9, messages=QUESTION, thinking=True, response_format={"type": "json_object"}),
    Call(max_tokens=9, messages=QUESTION, thinking=True, tools=(TOOL,)),
    Call(max_tokens=9, messages=QUESTION, thinking=True, sampling=Sampling(extra_body={"structured_outputs": {}})),
]


@pytest.mark.parametrize("call", WITH_GRAMMAR)
async def test_beside_tools_and_grammars_it_is_sent_unless_these_hold_for_thinking_too(call):
    assert await budget_sent(call, thinking=True) == 10
    assert await budget_sent(call, thinking=True, capabilities={"grammar_in_thinking": True}) is None


async def test_an_answer_by_a_grammar_is_reached_where_no_switch_ends_thinking():
    call = Call(max_tokens=9, messages=QUESTION, thinking=False, response_format={"type": "json_object"})
    assert await budget_sent(call, thinking=True, capabilities={"switch_thinking": False}) == 0


@pytest.mark.parametrize(
    "call",
    [
        Call(max_tokens=9, messages=QUESTION),
        Call(max_tokens=9, messages=QUESTION, thinking=False),  # the template's own switch does it
    ],
)
async def test_it_is_left_out_where_it_would_harm_or_is_not_needed(call):
    assert await budget_sent(call, thinking=True) is None


async def test_where_the_template_has_no_switch_unwanted_thinking_is_ended_by_it():
    call = Call(max_tokens=9, messages=QUESTION, thinking=False)
    assert await budget_sent(call, thinking=True, capabilities={"switch_thinking": False}) == 0


async def test_the_callers_own_value_goes_over_it():
    own = Sampling(extra_body={"thinking_token_budget": 3})
    assert await budget_sent(Call(max_tokens=9, messages=QUESTION, thinking=True, sampling=own), thinking=True) == 3


async def test_a_value_of_the_callers_is_refused_where_the_server_was_not_started_for_it():
    call = Call(max_tokens=9, messages=QUESTION, sampling=Sampling(extra_body={"thinking_token_budget": 8}))
    async with served() as (server, backend):
        with pytest.raises(Rejected, match="thinking_token_budget"):
            await chunks_of(backend, call)
    assert server.calls == []


async def test_the_reasoner_of_a_think_handoff_carries_it():
    async with FaultServer(Answer("", reasoning="by sieve"), thinking=True) as server:
        reasoner, generator = VllmBackend("m", base_url=server.url), Scripted("17", files=templates.files("qwen3"))
        async with AsyncDuetClient(reasoner, generator, handoff="think") as duet:
            reply = await duet.chat("How many?", budget=Budget(signal_tokens=40))
    assert reply.handoff == "think"
    assert (server.calls[0]["max_tokens"], server.calls[0]["thinking_token_budget"]) == (40, 41)


async def test_priority_and_salt_are_sent_with_every_call():
    async with served(priority=-2, cache_salt="blue") as (server, backend):
        await chunks_of(backend)
        await chunks_of(backend, Call(max_tokens=9, prompt_ids=(1, 2)))
    assert [(body["priority"], body["cache_salt"]) for body in server.calls] == [(-2, "blue")] * 2


async def test_neither_is_sent_unless_asked_for():
    async with served() as (server, backend):
        await chunks_of(backend)
    assert not {"priority", "cache_salt", "thinking_token_budget"} & server.calls[0].keys()


async def test_tenants_do_not_share_a_prefix_cache():
    async with FaultServer() as server:
        models = [VllmBackend("m", base_url=server.url, cache_salt="prod-{tenant}") for _ in range(2)]
        async with AsyncDuetClient(*models) as duet:
            for tenant in ("acme", "globex", "acme", None):
                await duet.chat("How many?", tenant=tenant)
    salts = [body["cache_salt"] for body in server.calls]
    acme, globex, nobody = (f"prod-{hashlib.sha256(name).hexdigest()}" for name in (b"acme", b"globex", b""))
    assert salts == [acme] * 2 + [globex] * 2 + [acme] * 2 + [nobody] * 2


async def test_a_gateways_secret_keeps_tenants_apart_where_no_salt_was_configured():
    async with FaultServer() as server:
        models = VllmBackend("m", base_url=server.url), VllmBackend("m", base_url=server.url, cache_salt="blue")
        async with AsyncDuetClient(*models) as duet:
            duet.keep_tenants_apart(b"secret")
            for tenant in ("acme", "globex", "acme", None):
                await duet.chat("How many?", tenant=tenant)
    salts = [body.get("cache_salt") for body in server.calls]
    acme, globex = (hmac.new(b"secret", name, hashlib.sha256).hexdigest() for name in (b"acme", b"globex"))
    assert salts[::2] == [acme, globex, acme, None]
    assert salts[1::2] == ["blue"] * 4


async def test_a_server_that_is_not_vllm_gets_no_salt():
    async with FaultServer(vllm=False) as server, AsyncDuetClient(*[VllmBackend("m", base_url=server.url)] * 2) as duet:
        duet.keep_tenants_apart(b"secret")
        await duet.chat("How many?", tenant="acme")
    assert [body.get("cache_salt") for body in server.calls] == [None, None]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"cache_salt": ""}, "1 to 512 characters"), ({"cache_salt": "x" * 513}, "got 513")],
)
def test_a_salt_that_vllm_refuses_is_refused_here(options, words):
    with pytest.raises(ConfigError, match=words):
        VllmBackend("m", **options)


def rank_of(call, ranks):
    return int((rank_headers(call, ranks) or {"X-data-parallel-rank": "-1"})["X-data-parallel-rank"])


def test_a_session_goes_to_one_rank_and_sessions_are_spread():
    calls = [Call(max_tokens=9, tenant="acme", session=str(at)) for at in range(400)]
    ranks = [rank_of(call, 4) for call in calls]
    assert ranks == [rank_of(call, 4) for call in calls]
    assert all(60 < ranks.count(rank) < 140 for rank in range(4))


def test_the_rank_is_the_same_in_every_process():
    assert [rank_of(Call(max_tokens=9, session=name), 8) for name in ("a", "b", "ü")] == [5, 7, 7]


def test_two_tenants_with_sessions_of_one_name_are_told_apart():
    ranks = [[rank_of(Call(max_tokens=9, tenant=who, session=str(at)), 8) for at in range(9)] for who in ("a", "b")]
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize(
    ("call", "ranks"), [(Call(max_tokens=9, session="a"), 1), (Call(max_tokens=9), 4), (Call(9, tenant="a"), 4)]
)
def test_without_a_session_or_a_choice_the_server_balances(call, ranks):
    assert rank_headers(call, ranks) is None


def ranks_seen(server):
    seen = [one for one in server.seen if one.path.endswith("completions") and not is_probe(one.body)]
    return [one.headers.get("X-data-parallel-rank") for one in seen]


@pytest.mark.parametrize("whole", [False, True])
async def test_both_stages_and_all_turns_of_a_session_go_to_the_rank_that_has_them_cached(whole):
    async with FaultServer(ranks=4) as server:
        models = [VllmBackend("m", base_url=server.url) for _ in range(2)]
        async with AsyncDuetClient(*models) as duet:
            for _ in range(2):
                if whole:
                    await duet.chat("How many?", session="s1")
                else:
                    async with duet.stream("How many?", session="s1") as run:
                        _ = [event async for event in run]
            await duet.chat("How many?")
    first, *others = ranks_seen(server)
    assert first in ("0", "1", "2", "3")
    assert others == [first] * 3 + [None] * 2


async def test_the_option_says_how_many_ranks_there_are_and_one_sends_none():
    call = Call(max_tokens=9, messages=QUESTION, session="a")
    for option, sent in ((8, "5"), (1, None)):
        async with served(ranks=8, data_parallel_ranks=option) as (server, backend):
            await chunks_of(backend, call)
        assert ranks_seen(server) == [sent]


async def test_a_server_that_is_not_vllm_gets_no_rank():
    async with served(vllm=False) as (server, backend):
        await chunks_of(backend, Call(max_tokens=9, messages=QUESTION, session="a"))
    assert ranks_seen(server) == [None]


@pytest.mark.parametrize("stage", ["reasoner", "generator"])
@pytest.mark.parametrize(
    ("options", "sampling", "words"),
    [
        ({"drafts": True}, Sampling(min_p=0.1), "refuses min_p, as a draft model writes ahead"),
        ({"drafts": True}, Sampling(extra_body={"logit_bias": {"5": 3}}), "refuses logit_bias"),
        ({"drafts": True}, Sampling(extra_body={"min_p": 0.1}), "refuses min_p"),
        ({}, Sampling(stop=tuple("abcde")), "at most 4 stop texts, and this call has 5"),
        ({}, Sampling(extra_body={"stop": list("abcde")}), "at most 4 stop texts"),
        ({"stop_texts": 2}, Sampling(stop=tuple("abc")), "at most 2 stop texts"),
    ],
)
async def test_sampling_that_a_server_refuses_is_known_before_the_signal_is_paid(stage, options, sampling, words):
    async with FaultServer(**options) as server:
        models = [VllmBackend("m", base_url=server.url) for _ in range(2)]
        async with AsyncDuetClient(*models, **{f"{stage}_params": sampling}) as duet:
            with pytest.raises(InvalidRequest, match=words):
                await duet.chat("How many?")
    assert server.calls == []


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"drafts": True}, Sampling(min_p=0)),
        ({"drafts": True}, Sampling(temperature=1, extra_body={"logit_bias": {}})),
        ({}, Sampling(min_p=0.1, extra_body={"logit_bias": {"5": 3}})),
        ({}, Sampling(stop=tuple("abcd"))),
        ({"stop_texts": 9}, Sampling(stop=tuple("abcdefghi"))),
        ({"stop_texts": 1000}, Sampling(stop=tuple("abcdefghi"))),
        ({"vllm": False}, Sampling(stop=tuple("abcdefghi"))),
    ],
)
async def test_sampling_that_a_server_takes_is_sent(options, sampling):
    async with FaultServer(**options) as server:
        models = [VllmBackend("m", base_url=server.url) for _ in range(2)]
        async with AsyncDuetClient(*models, reasoner_params=sampling, generator_params=sampling) as duet:
            await duet.chat("How many?")
    assert len(server.calls) == 2


async def test_the_stop_text_of_the_think_handoff_counts():
    async with FaultServer(Answer("", reasoning="by sieve")) as server:
        reasoner, generator = VllmBackend("m", base_url=server.url), Scripted("17", files=templates.files("qwen3"))
        options = {"handoff": "think", "reasoner_params": Sampling(stop=tuple("abcd"))}
        async with AsyncDuetClient(reasoner, generator, **options) as duet:
            with pytest.raises(InvalidRequest, match="has 5"):
                await duet.chat("How many?")
    assert server.calls == []

"""What an endpoint adds to calls in vLLM's own names: thinking budget, priority, cache salt."""

import hashlib

import pytest
from support import templates
from support.fault_server import Answer, FaultServer
from support.served import BY_HAND, QUESTION, TOOL, chunks_of, served

from duet_sdk import AsyncDuetClient, Budget, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.scripted import Scripted
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import ConfigError, Rejected
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
        assert [seen.body["prompt"] for seen in server.seen if seen.path == "/v1/completions"] == [[2**31 - 1]] * 2
        assert (server.calls, server.open) == ([], 0)


async def test_said_by_hand_it_is_not_asked_for():
    options = {"context_tokens": 99, "capabilities": {**BY_HAND, "thinking_budget": True}}
    async with served(**options) as (server, backend):
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


@pytest.mark.parametrize(
    "call",
    [
        Call(max_tokens=9, messages=QUESTION, thinking=True, response_format={"type": "json_object"}),
        Call(max_tokens=9, messages=QUESTION, thinking=True, tools=(TOOL,)),
        Call(max_tokens=9, messages=QUESTION, thinking=True, sampling=Sampling(extra_body={"structured_outputs": {}})),
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


@pytest.mark.parametrize(
    ("options", "words"),
    [({"cache_salt": ""}, "1 to 512 characters"), ({"cache_salt": "x" * 513}, "got 513")],
)
def test_a_salt_that_vllm_refuses_is_refused_here(options, words):
    with pytest.raises(ConfigError, match=words):
        VllmBackend("m", **options)

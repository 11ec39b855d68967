"""vLLM's own fields on real servers: what the thinking budget ends, whose prefix cache is whose."""

from contextlib import aclosing

import cues
import pytest
import tap

from duet_sdk import AsyncDuetClient, Budget, Message
from duet_sdk.backends import Call
from duet_sdk.backends.connect import connect
from duet_sdk.backends.server.backend import VllmBackend

pytestmark = pytest.mark.vllm

QUESTION = (Message("user", "What is the capital of France?"),)
LIMIT = 6


async def ids_of(model, call):
    """Token ids that the model writes, and why it ends."""
    _, backend = connect(model)
    async with aclosing(backend), aclosing(backend.stream(call)) as stream:
        chunks = [chunk async for chunk in stream]
    return [at for chunk in chunks for at in chunk.token_ids], [c.finish_reason for c in chunks if c.finish_reason]


async def test_whether_a_server_takes_a_thinking_budget_is_found_out_without_a_token(plain, thinker):
    before = [server.generated() for server in (plain, thinker)]
    sent = {}
    for server in (plain, thinker):
        async with tap.Tap(server) as wire:
            _, backend = connect(wire.bare)
            async with aclosing(backend):
                await backend.connect()
                assert wire.bodies == []
                call = Call(max_tokens=1, messages=QUESTION, thinking=True)
                async with aclosing(backend.stream(call)) as stream:
                    _ = [chunk async for chunk in stream]
        sent[server.name] = wire.bodies[0].get("thinking_token_budget")
    assert sent == {"plain": None, "thinker": 2}
    assert [server.generated() - old for server, old in zip((plain, thinker), before, strict=True)] == [1, 1]


async def test_the_budget_does_not_close_a_thought_that_the_limit_cuts(thinker, renderer):
    closing = renderer.encode("</think>")[0]
    thought = renderer.think_ids(QUESTION, cues.THOUGHT, closed=False)
    call = Call(max_tokens=LIMIT, prompt_ids=thought, thinking=True, sampling=cues.never_ends())
    async with tap.Tap(thinker) as wire:
        ids, reasons = await ids_of(wire.model, call)
    assert (len(ids), closing in ids, reasons) == (LIMIT, False, ["length"])
    # Two less, and the server closes the block with the last token that is left.
    held = wire.bodies[0]["thinking_token_budget"]
    tighter = cues.never_ends({"thinking_token_budget": held - 2})
    ids, _ = await ids_of(thinker.endpoint(), Call(max_tokens=LIMIT, prompt_ids=thought, sampling=tighter))
    assert ids.index(closing) == LIMIT - 1


async def test_a_budget_of_nothing_ends_thinking_where_no_switch_does(thinker, renderer):
    opened = (*renderer.chat_ids(QUESTION), *renderer.encode("<think>\n"))
    capabilities = {"switch_thinking": False}
    async with aclosing(VllmBackend("thinker", base_url=f"{thinker.root}/v1", capabilities=capabilities)) as backend:
        call = Call(max_tokens=4, prompt_ids=opened, thinking=False, sampling=cues.never_ends())
        async with aclosing(backend.stream(call)) as stream:
            ids = [at async for chunk in stream for at in chunk.token_ids]
    assert ids[0] == renderer.encode("</think>")[0]


async def test_a_pair_with_the_budget_keeps_its_signal_limit(thinker):
    async with tap.Tap(thinker) as wire:
        pair = AsyncDuetClient(wire.model, wire.model, handoff="think", reasoner_params=cues.never_ends())
        async with pair as duet:
            reply = await duet.chat("Why?", budget=Budget(signal_tokens=12, answer_tokens=2))
    assert wire.bodies[0]["thinking_token_budget"] == 13
    assert (reply.signal.tokens, reply.signal.truncated, reply.signal.honoured) == (12, True, True)


async def test_tenants_have_prefix_caches_of_their_own(plain):
    model = VllmBackend("plain", base_url=f"{plain.root}/v1", cache_salt="{tenant}", priority=1)
    cached = []
    # An answer that says nothing would be asked for once more.
    async with AsyncDuetClient(model, model, generator_params=cues.never_ends()) as duet:
        for tenant in ("acme", "acme", "globex", "globex", None):
            budget = Budget(answer_tokens=8)
            reply = await duet.chat("word " * 200, mode="generator", tenant=tenant, budget=budget)
            cached.append(reply.usage.generator.cached_tokens)
    assert cached[0] == cached[2] == cached[4] == 0
    assert cached[1] == cached[3] >= 128

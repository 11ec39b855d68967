"""What real servers take, found out before anything is paid: windows of adapters, stop texts, drafts, grammars, ranks."""

import json
from contextlib import aclosing, asynccontextmanager

import cues
import pytest
from support import vllm_servers

from duet_sdk import AsyncDuetClient, Budget, Message, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import ContextOverflow, InvalidRequest

pytestmark = pytest.mark.vllm

QUESTION = (Message("user", "What is the capital of France?"),)
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
SHAPED = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@asynccontextmanager
async def backend_for(server, name=None, **options):
    async with aclosing(VllmBackend(name or server.name, base_url=f"{server.root}/v1", **options)) as backend:
        yield backend


async def text_of(backend, call):
    async with aclosing(backend.stream(call)) as stream:
        return "".join([chunk.text async for chunk in stream])


async def test_an_adapter_has_the_window_of_its_base_and_a_pair_of_them_is_refused_before_it_is_paid(drafted):
    before = drafted.generated()
    async with backend_for(drafted, vllm_servers.ADAPTER) as reasoner:
        async with backend_for(drafted, vllm_servers.ADAPTER) as generator:
            assert (await generator.connect()).context_tokens == vllm_servers.CONTEXT_TOKENS
            async with AsyncDuetClient(reasoner, generator) as duet:
                with pytest.raises(ContextOverflow, match="2048"):
                    await duet.chat("word " * 1990, budget=Budget(signal_tokens=16, answer_tokens=200))
    assert drafted.generated() == before


@pytest.mark.parametrize(("length", "limit", "needed"), [(2048, 1, 2049), (2048, 10, 2058), (5000, 10, 5010)])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_window_that_the_prompt_fills_is_an_overflow_with_its_numbers(drafted, length, limit, needed, whole):
    async with backend_for(drafted, context_tokens=10**6) as backend:
        call = Call(max_tokens=limit, prompt_ids=(100,) * length, whole=whole)
        with pytest.raises(ContextOverflow) as failed:
            await text_of(backend, call)
    assert failed.value.needed_tokens == needed


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(min_p=0.1), "refuses min_p"),
        (Sampling(extra_body={"logit_bias": {"5": 1}}), "refuses logit_bias"),
        (Sampling(stop=tuple("abcde")), "at most 4 stop texts"),
    ],
)
async def test_what_the_generators_server_refuses_is_known_before_the_signal_is_paid(drafted, plain, sampling, words):
    before = [server.generated() for server in (drafted, plain)]
    async with backend_for(plain) as reasoner, backend_for(drafted) as generator:
        async with AsyncDuetClient(reasoner, generator, generator_params=sampling) as duet:
            with pytest.raises(InvalidRequest, match=words):
                await duet.chat("Why?")
    assert [server.generated() for server in (drafted, plain)] == before


async def test_a_server_without_a_draft_takes_what_the_other_refuses(plain):
    sampling = Sampling(temperature=0, min_p=0.1, stop=tuple("abcd"), extra_body={"logit_bias": {"5": 1}})
    async with backend_for(plain) as backend:
        assert (await backend.connect()).refused == ()
        await text_of(backend, Call(max_tokens=2, messages=QUESTION, sampling=sampling))


async def test_a_budget_of_nothing_leads_to_the_answer_that_a_grammar_wants(drafted, renderer):
    opened = (*renderer.chat_ids(QUESTION), *renderer.encode("<think>\n"))
    call = Call(24, prompt_ids=opened, thinking=False, sampling=Sampling(temperature=0), response_format=SHAPED)
    async with backend_for(drafted, capabilities={"switch_thinking": False}) as backend:
        answer = await text_of(backend, call)
    assert json.loads(answer.rpartition("</think>")[2])["city"] in ("Paris", "Rome")
    without = {"switch_thinking": False, "thinking_budget": False}
    async with backend_for(drafted, capabilities=without) as backend:
        assert not (await text_of(backend, call)).rpartition("</think>")[2].strip().startswith("{")


@pytest.mark.parametrize("whole", [False, True])
async def test_an_answer_that_a_grammar_keeps_in_the_thinking_is_the_answer(thinker, whole):
    said = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["yes", "no"]}}}
    before = thinker.generated()
    async with backend_for(thinker) as model, AsyncDuetClient(model, model) as duet:
        options = {"mode": "reasoner", "response_format": said, "budget": Budget(answer_tokens=16)}
        if whole:
            reply = await duet.chat("Is Paris in France?", **options)
        else:
            async with duet.stream("Is Paris in France?", **options) as run:
                _ = [event async for event in run]
            reply = run.reply
    assert json.loads(reply.text) in ("yes", "no")
    assert (len(reply.receipt.attempts), reply.finish_reason) == (1, "stop")
    assert thinker.generated() - before == reply.usage.reasoner.output_tokens


@pytest.mark.parametrize("whole", [False, True])
async def test_a_budget_stands_next_to_tools(thinker, whole):
    async with backend_for(thinker, capabilities={"switch_thinking": False}) as backend:
        call = Call(32, messages=QUESTION, tools=(cues.WEATHER,), thinking=False, whole=whole)
        async with aclosing(backend.stream(call)) as stream:
            chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None or any(chunk.finish_reason for chunk in chunks)


async def test_the_turns_of_a_session_are_found_in_the_prefix_cache_of_one_engine(drafted):
    cached = {}
    async with backend_for(drafted) as model, AsyncDuetClient(model, model, generator_params=cues.never_ends()) as duet:
        for turn in range(2):
            for session in "abcdef":
                question = f"{session} " * 400
                reply = await duet.chat(
                    question, mode="generator", session=session, budget=Budget(answer_tokens=7 + turn)
                )
                cached.setdefault(session, []).append(reply.usage.generator.cached_tokens)
    assert all(first == 0 < again for first, again in cached.values()), cached

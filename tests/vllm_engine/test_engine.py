"""vLLM's engine in this process: what every backend owes the pipeline, and what is the engine's own.

Runs in the environment that has vLLM (`make test-vllm`). An engine takes half a minute to start, so the tests share
one, and with it one event loop.
"""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import pytest_asyncio

# The contract's own tests; the one that makes a loop, and so an engine, for every example has its kin below.
from contracts.test_backend import (
    QUESTION,
    WORDS,
    outputs,
    test_a_stop_text_ends_the_output_and_is_not_part_of_it,
    test_an_output_ends_with_one_reason_and_its_usage,
    test_calls_at_the_same_time_do_not_mix,
    test_closing_the_stream_early_leaves_the_backend_ready,
    test_it_is_a_backend,
    test_logprobs_come_with_their_tokens,
    test_max_tokens_is_never_exceeded,
    test_n_outputs_are_told_apart,
)
from support import tiny_model

from duet_sdk import AsyncDuetClient, Budget, Message, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.connect import connect
from duet_sdk.backends.local.vllm_engine import VllmEngine
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import BackendError, ConfigError, ContextOverflow, ModelNotFound, Rejected, StreamBroken

__all__ = [
    "test_a_stop_text_ends_the_output_and_is_not_part_of_it",
    "test_an_output_ends_with_one_reason_and_its_usage",
    "test_calls_at_the_same_time_do_not_mix",
    "test_closing_the_stream_early_leaves_the_backend_ready",
    "test_it_is_a_backend",
    "test_logprobs_come_with_their_tokens",
    "test_max_tokens_is_never_exceeded",
    "test_n_outputs_are_told_apart",
]

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

SMALL = {"enforce_eager": True, "max_num_seqs": 8}
ENDLESS = Call(max_tokens=1000, messages=QUESTION, sampling=Sampling(extra_body={"ignore_eos": True}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.recite(tmp_path_factory.mktemp("models") / "counts", WORDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder) -> AsyncIterator[VllmEngine]:
    _, made = connect(Endpoint(model=f"vllm-engine/{folder}", options={"engine_args": SMALL}))
    assert isinstance(made, VllmEngine)
    await made.connect()
    yield made
    await made.aclose()


@pytest.fixture
def backend(engine) -> VllmEngine:
    return engine


async def test_what_the_engine_can_do_is_told_at_connect(engine):
    can = await engine.connect()
    assert (can.context_tokens, can.prompt_ids, can.logprobs, can.response_format) == (4096, True, True, True)
    assert (can.tools, can.images, can.switch_thinking) == (False, False, True)


async def test_each_chunk_has_its_token_ids_and_the_usage_so_far(engine):
    chunks, _ = await outputs(engine, Call(max_tokens=4, messages=QUESTION))
    counted = itertools.accumulate(len(chunk.token_ids) for chunk in chunks)
    assert [chunk.usage.output_tokens for chunk in chunks] == list(counted)
    assert chunks[-1].usage.output_tokens == 4


async def test_a_prompt_of_token_ids_is_continued(engine):
    chunks, _ = await outputs(engine, Call(max_tokens=2, messages=QUESTION))
    prompt = chunks[0].token_ids[:1]
    chunks, texts = await outputs(engine, Call(max_tokens=2, prompt_ids=prompt))
    assert (texts, chunks[-1].usage.input_tokens) == ([" two drei"], 1)


async def test_several_greedy_outputs_are_written(engine):
    call = Call(max_tokens=2, messages=QUESTION, n=2, sampling=Sampling(temperature=0))
    assert (await outputs(engine, call))[1] == [" one two"] * 2


async def test_an_answer_keeps_to_a_json_schema(engine):
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": [17]}}}
    _, (text,) = await outputs(engine, Call(max_tokens=8, messages=QUESTION, response_format=schema))
    assert json.loads(text) == 17


async def test_thinking_is_switched_off_by_the_template(engine):
    on, _ = await outputs(engine, Call(max_tokens=1, messages=QUESTION))
    off, _ = await outputs(engine, Call(max_tokens=1, messages=QUESTION, thinking=False))
    assert off[0].usage.input_tokens > on[0].usage.input_tokens


async def test_leaving_a_stream_ends_the_request(engine):
    async with aclosing(engine.stream(ENDLESS)) as stream:
        await anext(stream)
        assert engine._started.engine.get_num_unfinished_requests() == 1
    assert engine._started.engine.get_num_unfinished_requests() == 0


async def test_a_prompt_that_does_not_fit_is_refused(engine):
    with pytest.raises(ContextOverflow, match="4096"):
        await outputs(engine, Call(max_tokens=8, messages=(Message("user", "x" * 5000),)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tools": ({"type": "function"},)}, "tool calls need a server"),
        ({"sampling": Sampling(extra_body={"no_such_field": 1})}, "no_such_field"),
        ({"sampling": Sampling(extra_body={"presence_penalty": 99})}, "presence_penalty"),
        ({"response_format": {"type": "xml"}}, "'xml'"),
    ],
)
async def test_what_it_cannot_do_is_rejected(engine, change, words):
    with pytest.raises(Rejected, match=words):
        await outputs(engine, replace(Call(max_tokens=2, messages=QUESTION), **change))


@pytest.mark.parametrize("on_cut", ["keep", "sentence", "wrap_up"])
async def test_a_pair_of_it_holds_its_limits(engine, on_cut):
    class Shared(VllmEngine):
        """The engine, which a client's end does not end."""

        def __init__(self) -> None:
            self.__dict__ = dict(engine.__dict__)

        async def aclose(self) -> None:
            pass

    for limit in (1, 3, 12):
        async with AsyncDuetClient(Shared(), Shared(), on_cut=on_cut) as duet:
            reply = await duet.chat("Count.", budget=Budget(signal_tokens=limit, answer_tokens=5))
        assert reply.signal.tokens == reply.usage.reasoner.output_tokens <= limit
        assert (reply.signal.counted_by, reply.signal.honoured) == ("token_ids", True)
        assert reply.usage.generator.output_tokens <= 5
        assert reply.signal.truncated == (limit < len(WORDS))


async def test_closing_it_ends_what_runs_and_its_processes(folder):
    made = VllmEngine(str(folder), context_tokens=2048, engine_args=SMALL)
    assert (await made.connect()).context_tokens == 2048
    async with aclosing(made.stream(ENDLESS)) as stream:
        await anext(stream)
        await made.aclose()
        with pytest.raises(StreamBroken, match="closed"):
            async for _ in stream:
                pass
    await made.aclose()


async def test_an_engine_that_cannot_start_says_so(folder):
    backend = VllmEngine(str(folder), context_tokens=10**9, engine_args=SMALL)
    with pytest.raises(BackendError, match="did not start"):
        await backend.connect()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"engine_args": {"trust_remote_code": True}}, "trust_remote_code"),
        ({"dtyp": "float16"}, "dtyp"),
        ({"dtype": 16}, "dtype"),
        ({"boundary": "eu"}, "'eu'"),
    ],
)
async def test_options_that_cannot_work_are_refused(folder, options, words):
    from duet_sdk.backends.local.vllm_engine import connect as make

    with pytest.raises(ConfigError, match=words):
        await make(str(folder), options).connect()


async def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelNotFound, match="no model folder"):
        await VllmEngine(str(tmp_path / "none")).connect()

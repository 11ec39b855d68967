"""What DUET makes of what each server sends; docs/reference/servers.md has a row for each of them."""

from __future__ import annotations

import json
import re
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from servers.documented import ASKED_OF_VLLM, KNOWN, Documented
from support.served import CALL, TOOL, chunks_of, last_usage, text_of

from duet_sdk import AsyncDuetClient, Budget, errors
from duet_sdk.backends import Call, Chunk
from duet_sdk.backends.server.backend import VllmBackend

ERRORS = [(name, at) for name, known in KNOWN.items() for at in range(len(known["errors"]))]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "servers.md"
every = pytest.mark.parametrize("name", sorted(KNOWN))


async def chunks_from(name: str, call: Call, **options: Any) -> tuple[list[Chunk], Documented]:
    async with Documented(KNOWN[name], **options) as server:
        async with aclosing(VllmBackend(server.model, base_url=server.url)) as backend:
            return await chunks_of(backend, call), server


@every
async def test_its_list_of_models_is_understood(name):
    expected = KNOWN[name]["expect"]
    async with Documented(KNOWN[name]) as server:
        async with aclosing(VllmBackend(server.model, base_url=server.url)) as backend:
            can = await backend.connect()
    assert can.context_tokens == expected.get("window")
    assert can.prompt_ids is (name == "vllm")


@every
@pytest.mark.parametrize("whole", [False, True])
async def test_its_answer_is_read(name, whole):
    expected = KNOWN[name]["expect"]
    chunks, _ = await chunks_from(name, replace(CALL, whole=whole))
    assert text_of(chunks) == expected["text"]
    assert "".join(chunk.reasoning for chunk in chunks) == expected["reasoning"]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [expected["finish"]]
    used = last_usage(chunks)
    assert (used.input_tokens, used.output_tokens) == (expected["input"], expected["output"])
    assert (used.cached_tokens, used.reasoning_tokens) == (expected.get("cached"), expected.get("hidden"))
    assert used.cache_write_tokens == expected.get("written")
    costs = [chunk.cost_usd for chunk in chunks if chunk.cost_usd is not None]
    assert costs == ([Decimal(expected["cost"])] if "cost" in expected else [])


@every
async def test_its_tool_call_is_read(name):
    chunks, _ = await chunks_from(name, replace(CALL, tools=(TOOL,)))
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert {delta.index for delta in deltas} == {0}
    assert "".join(delta.name or "" for delta in deltas) == "look_up"
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"town": "Bergen"}


@every
async def test_it_gets_only_what_it_takes(name):
    _, server = await chunks_from(name, CALL)
    (sent,) = server.calls
    assert (sent["model"], sent["max_tokens"]) == (server.model, 64)
    assert set(ASKED_OF_VLLM) & sent.keys() == ({"return_token_ids"} if name == "vllm" else set())


@every
@pytest.mark.parametrize("whole", [False, True])
async def test_a_pair_is_answered_by_it(name, whole):
    expected = KNOWN[name]["expect"]
    async with Documented(KNOWN[name]) as server:
        models = [VllmBackend(server.model, base_url=server.url) for _ in range(2)]
        async with AsyncDuetClient(*models) as duet:
            limits = Budget(signal_tokens=32, answer_tokens=32)
            if whole:
                reply = await duet.chat("How many primes are below sixty?", budget=limits)
            else:
                async with duet.stream("How many primes are below sixty?", budget=limits) as run:
                    _ = [event async for event in run]
                reply = run.reply
    assert (reply.text, reply.served_by, reply.finish_reason) == (expected["text"], "pair", expected["finish"])
    assert reply.signal.text == expected["text"]
    assert reply.signal.honoured
    for used in (reply.usage.reasoner, reply.usage.generator):
        assert (used.input_tokens, used.output_tokens) == (expected["input"], expected["output"])
        assert (used.cached_tokens, used.reasoning_tokens) == (expected.get("cached"), expected.get("hidden"))


@pytest.mark.parametrize(("name", "at"), ERRORS)
@pytest.mark.parametrize("whole", [False, True])
async def test_its_errors_have_the_right_kind(name, at, whole):
    failing = KNOWN[name]["errors"][at]
    kinds = tuple(getattr(errors, kind) for kind in failing["expect"].split("|"))
    with pytest.raises(kinds) as failed:
        await chunks_from(name, replace(CALL, whole=whole and "stream" not in failing), failing=failing)
    assert type(failed.value) in kinds
    if "window" in failing:
        assert failed.value.context_tokens == failing["window"]
    if "needed" in failing:
        assert failed.value.needed_tokens == failing["needed"]


def test_the_page_and_the_data_name_the_same_servers_with_their_sources():
    table = PAGE.read_text("utf-8").split("<!-- servers -->")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| \[([^\]]+)\]\(([^)]+)\) .*$", table, re.MULTILINE)
    assert sorted(rows) == sorted((known["name"], known["source"]) for known in KNOWN.values())


def test_the_page_says_how_each_is_known():
    table = PAGE.read_text("utf-8").split("<!-- servers -->")[1].split("<!-- end -->")[0]
    for row in re.findall(r"^\| \[.*$", table, re.MULTILINE):
        assert re.search(r"(run: .*\d{4}-\d\d-\d\d|read \d{4}-\d\d|source: .*\d) \|$", row), row

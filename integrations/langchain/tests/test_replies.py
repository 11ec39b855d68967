"""What a message of ours tells."""

from decimal import Decimal

import pytest
from langchain_core.messages import HumanMessage
from langchain_duet import ChatDuet
from pairs import calls, pair

from duet_sdk import Budget, Sampling, TokenPrice
from duet_sdk.backends.scripted import Script, Scripted

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_the_signal_is_reasoning_beside_the_answer():
    model, *_ = pair("2+2 is 4", "Four.")
    message = model.invoke("2+2?")
    assert (message.content, message.additional_kwargs) == ("Four.", {"reasoning_content": "2+2 is 4"})
    assert message.content_blocks == [
        {"type": "reasoning", "reasoning": "2+2 is 4"},
        {"type": "text", "text": "Four."},
    ]


def test_usage_is_of_both_stages_and_the_signal_is_its_reasoning():
    reasoner, generator = Scripted("one two three"), Scripted("four five")
    message = ChatDuet(reasoner=reasoner, generator=generator).invoke("q")
    usage = message.usage_metadata
    assert usage["output_tokens"] == 5
    assert usage["output_token_details"] == {"reasoning": 3}
    assert usage["total_tokens"] == usage["input_tokens"] + 5


def test_an_answer_of_the_reasoner_is_no_reasoning():
    model, *_ = pair("one two three")
    assert model.invoke("q", mode="reasoner").usage_metadata["output_token_details"] == {"reasoning": 0}


def test_the_metadata_tells_what_the_pair_did():
    model, *_ = pair("one two three.", "four", prices={"scripted/lines": TokenPrice("1", "10")})
    told = model.invoke("q", budget=Budget(signal_tokens=64)).response_metadata
    assert {name: told[name] for name in told if name not in ("id", "cost_usd")} == {
        "model_provider": "duet",
        "model_name": "scripted/lines",
        "finish_reason": "stop",
        "mode": "duet",
        "served_by": "pair",
        "why": "the generator answered from the reasoner's signal",
        "handoff": "instruct",
        "gate": {"ask": True, "policy": "always", "score": None, "threshold": None, "reason": ""},
        "signal": {"tokens": 3, "limit": 64, "truncated": False, "honoured": True, "counted_by": "usage"},
        "cost_estimated": False,
        "models": {"reasoner": "scripted/lines", "generator": "scripted/lines"},
        "run": None,
    }
    assert told["id"].startswith("duet-")
    assert Decimal(told["cost_usd"]) > 0


def test_a_pair_is_called_by_both_names():
    assert ChatDuet(reasoner="scripted/a", generator="scripted/b").model_name == "scripted/a + scripted/b"


def test_a_signal_that_its_limit_cut_says_so():
    model, *_ = pair("one two. three four five", "x")
    told = model.invoke("q", budget=Budget(signal_tokens=3)).response_metadata
    assert (told["signal"]["truncated"], told["served_by"]) == (True, "pair_cut")


def test_tool_calls_are_read():
    model, *_ = pair("notes", calls("add", '{"a": 1}'))
    message = model.bind_tools([TOOL]).invoke("add")
    assert message.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}]
    assert message.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "nothing"])
def test_a_tool_call_with_broken_arguments_is_an_invalid_one(arguments):
    model, *_ = pair("notes", calls("add", arguments))
    message = model.bind_tools([TOOL]).invoke("add")
    assert message.tool_calls == []
    assert [(call["name"], call["args"], call["id"]) for call in message.invalid_tool_calls] == [
        ("add", arguments, "c1")
    ]


def test_several_answers_are_several_generations():
    texts = iter(["one", "two", "one"])
    model, *_ = pair("notes", lambda call: Script(next(texts)))
    result = model.generate([[HumanMessage("q")]], n=3, vote="majority")
    assert [generation.text for generation in result.generations[0]] == ["one", "two", "one"]
    assert [bool(generation.message.usage_metadata) for generation in result.generations[0]] == [True, False, False]


def test_sampling_reaches_the_stage_that_answers():
    model, reasoner, generator = pair(temperature=0.3, stop=["END"], generator_params=Sampling(top_k=7))
    model.invoke("q", top_p=0.9, seed=1)
    assert generator.calls[0].sampling == Sampling(temperature=0.3, top_p=0.9, top_k=7, seed=1, stop=("END",))
    assert reasoner.calls[0].sampling == Sampling()

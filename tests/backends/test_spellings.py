"""Every spelling of every server, streamed and whole: one row of a table, one case."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.backends.answers import spellings
from duet_sdk.backends.answers.usage import usage_of as usage_read
from duet_sdk.backends.base import Call, Chunk, Served
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.server.decoding import Decoder
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import BackendError, StreamBroken
from duet_sdk.reply import StageUsage

CALL = Call(max_tokens=64)
FAILURES = Failures(backend="vllm", model="m", url="http://127.0.0.1/v1")
FIRST = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}


def decoder(call: Call = CALL) -> Decoder:
    return Decoder(call, dialect=Dialect(), failures=FAILURES, sent={})


def streamed(*events: object, call: Call = CALL, at_once: bool = False) -> list[Chunk]:
    """The chunks of these events, a usual one before them; raises what the stream fails with."""
    reader = decoder(call)
    written = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in (FIRST, *events)]
    chunks: list[Chunk] = []
    for read in [written] if at_once else [[event] for event in written]:
        chunks += reader.read(read)
    chunks += reader.close()
    if reader.failure is not None:
        raise reader.failure
    return chunks


def whole(answer: object, call: Call = CALL) -> list[Chunk]:
    reader = decoder(call)
    chunks = reader.whole(json.dumps(answer).encode())
    if reader.failure is not None:
        raise reader.failure
    return chunks


def piece(delta: object = None, finish: object = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}], **more}


def answer(message: object, finish: object = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more}


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def reasoning_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.reasoning for chunk in chunks)


def finishes(chunks: list[Chunk]) -> list[str]:
    return [chunk.finish_reason for chunk in chunks if chunk.finish_reason]


def usage_of(chunks: list[Chunk]) -> StageUsage | None:
    told = [chunk.usage for chunk in chunks if chunk.usage]
    return told[-1] if told else None


# Content


def said_both_ways(message: dict[str, Any]) -> set[tuple[str, str, tuple[str, ...]]]:
    ways = (streamed(piece(message), piece({}, "stop"), b"[DONE]"), whole(answer(message)))
    return {(text_of(chunks), reasoning_of(chunks), tuple(finishes(chunks))) for chunks in ways}


@pytest.mark.parametrize("kind", spellings.TEXT_PARTS)
def test_a_part_of_each_type_of_text_is_text(kind: str) -> None:
    part = {"type": kind, spellings.TEXT_PARTS[kind]: "17"}
    finish = "content_filter" if kind == "refusal" else "stop"
    assert said_both_ways({"content": [part, {"type": "image_url", "image_url": {"url": "x"}}]}) == {
        ("17", "", (finish,))
    }


@pytest.mark.parametrize("kind", spellings.THINKING_PARTS)
def test_a_part_of_each_type_of_thinking_is_thinking(kind: str) -> None:
    name = spellings.THINKING_PARTS[kind]
    for thought in ("hm", [{"type": "text", "text": "hm"}]):
        parts = [{"type": kind, name: thought}, {"type": "text", "text": "17"}]
        assert said_both_ways({"content": parts}) == {("17", "hm", ("stop",))}


@pytest.mark.parametrize("name", spellings.REASONING_FIELDS)
@pytest.mark.parametrize("value", ["hm", {"content": "hm"}, [{"type": "reasoning.text", "text": "hm"}], ["h", "m"]])
def test_thinking_stands_in_each_field(name: str, value: object) -> None:
    assert said_both_ways({"content": "17", name: value}) == {("17", "hm", ("stop",))}


@pytest.mark.parametrize(
    ("message", "text", "thought"),
    [
        ({"content": None}, "", ""),
        ({"content": None, "reasoning": None, "refusal": None, "tool_calls": None, "function_call": None}, "", ""),
        ({}, "", ""),
        ({"content": ["a", {"text": "b"}, {"type": "text", "text": {"value": 1}}, None, 7]}, "ab7", ""),
        ({"content": {"type": "text", "text": "a"}}, "a", ""),
        ({"content": 17}, "17", ""),
        ({"content": True}, "", ""),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, "", "hm"),
        ({"content": [{"type": "text", "text": "t", "thought": True}, {"type": "text", "text": "a"}]}, "a", "t"),
        ({"content": [{"type": "redacted_thinking", "data": "xx"}, {"type": "text", "text": "a"}]}, "a", ""),
        (
            {"content": "a", "reasoning": "hm", "reasoning_content": "hm", "reasoning_details": [{"text": "hm"}]},
            "a",
            "hm",
        ),
        ({"content": "a", "reasoning_details": [{"type": "reasoning.encrypted", "data": "xx"}]}, "a", ""),
        ({"content": "a", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}, "a", "hm"),
        ({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}]}, "", "hm"),
        ({"content": "a", "reasoning": {"effort": "low"}}, "a", ""),
    ],
)
def test_content_of_every_shape_is_read(message: dict[str, Any], text: str, thought: str) -> None:
    assert said_both_ways(message) == {(text, thought, ("stop",))}


def test_a_refusal_is_text_whose_end_says_so() -> None:
    assert said_both_ways({"content": None, "refusal": "I cannot."}) == {("I cannot.", "", ("content_filter",))}
    chunks = streamed(piece({"refusal": "I can"}), piece({"refusal": "not."}), piece({}, "stop"), b"[DONE]")
    assert (text_of(chunks), finishes(chunks)) == ("I cannot.", ["content_filter"])


def test_content_nested_without_end_is_left_out() -> None:
    part: Any = {"type": "text", "text": "deep"}
    for _ in range(50):
        part = {"type": "text", "text": [part]}
    assert said_both_ways({"content": ["a", part]}) == {("a", "", ("stop",))}


# Events


@pytest.mark.parametrize(
    "event",
    [
        *(b"", b" ", b"null", b"17", b'"ping"', b"ping", b"keep-alive", b"OPENROUTER PROCESSING", b"[]", b"{}"),
        *({"type": "ping"}, {"choices": []}, {"choices": None}, {"object": "chat.completion.chunk", "id": "c"}),
        *({"choices": [], "prompt_filter_results": []}, piece(), {"choices": [{}]}, {"choices": [{"delta": None}]}),
        *({"choices": [None]}, {"choices": {}}, {"usage": {}}, {"usage": None, "choices": [{"index": 0}]}),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_events_that_say_nothing_change_nothing(event: object, at_once: bool) -> None:
    events = [
        event,
        piece({"content": "1"}),
        event,
        piece({"content": "7"}),
        event,
        piece({}, "stop"),
        event,
        b"[DONE]",
    ]
    chunks = streamed(*events, at_once=at_once)
    assert (text_of(chunks), finishes(chunks)) == ("17", ["stop"])


def test_an_event_that_was_damaged_ends_the_stream() -> None:
    for event in (b'{"choices": [{"del', b'"content": "x"}]}', b"\xff\xfe\x00 what"):
        with pytest.raises(StreamBroken, match="cannot be parsed"):
            streamed(piece({"content": "1"}), event, piece({}, "stop"), b"[DONE]")


def test_a_chunk_may_carry_a_message_in_place_of_a_delta() -> None:
    events = [{"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]} for text in "17"]
    chunks = streamed(
        *events, {"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": "stop"}]}, b"[DONE]"
    )
    assert (text_of(chunks), finishes(chunks)) == ("17", ["stop"])


def test_a_whole_message_after_its_pieces_is_not_said_twice() -> None:
    last = {"object": "chat.completion", **answer({"role": "assistant", "content": "17"}, usage={"total_tokens": 5})}
    chunks = streamed(piece({"content": "1"}), piece({"content": "7"}), last, b"[DONE]")
    assert (text_of(chunks), finishes(chunks)) == ("17", ["stop"])


# Ends


@pytest.mark.parametrize("word", spellings.FINISH)
@pytest.mark.parametrize("write", [str, str.upper, "FinishReason.{}".format])
def test_each_word_for_an_end_is_known(word: str, write: Any) -> None:
    for chunks in (
        streamed(piece({"content": "1"}, write(word)), b"[DONE]"),
        whole(answer({"content": "1"}, write(word))),
    ):
        assert finishes(chunks) == [spellings.FINISH[word]]


@pytest.mark.parametrize("word", sorted(spellings.FAILED))
def test_each_word_for_an_output_that_was_given_up_fails(word: str) -> None:
    with pytest.raises(StreamBroken, match="gave its answer up"):
        streamed(piece({"content": "1"}), piece({}, word), b"[DONE]")
    with pytest.raises(StreamBroken, match="gave its answer up"):
        whole(answer({"content": "1"}, word.upper()))


@pytest.mark.parametrize("word", [*sorted(spellings.UNFINISHED), None, 0, False, [], {}])
def test_a_word_that_says_nothing_ends_nothing(word: object) -> None:
    chunks = streamed(piece({"content": "1"}, word), piece({"content": "7"}, word), piece({}, "stop"), b"[DONE]")
    assert (text_of(chunks), finishes(chunks)) == ("17", ["stop"])
    assert finishes(whole(answer({"content": "17"}, word))) == ["stop"]


def test_an_end_may_be_unknown_repeated_late_or_empty() -> None:
    assert finishes(streamed(piece({"content": "1"}, "out_of_ideas"), b"[DONE]")) == ["stop"]
    assert finishes(streamed(piece({"content": "1"}, {"type": "stop"}), b"[DONE]")) == ["stop"]
    assert finishes(streamed(piece({"content": "1"}, "stop"), piece({}, "stop"), b"[DONE]")) == ["stop"]
    assert finishes(streamed(piece({"content": "1"}, "stop"), piece({}, "length"), b"[DONE]")) == ["stop", "length"]
    late = [piece({"content": "1"}), {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, piece({}, "length")]
    assert finishes(streamed(*late, b"[DONE]")) == ["length"]
    assert finishes(streamed(piece({"content": "1"}), piece({}, ""), b"[DONE]")) == ["stop"]
    with pytest.raises(StreamBroken, match="without saying why"):
        streamed(piece({"content": "1"}), piece({}, ""))
    with pytest.raises(StreamBroken, match="without saying why"):
        streamed(piece({"content": "1"}), b"[DONE]")


def test_an_error_within_an_output_is_that_error() -> None:
    failed = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "upstream"}}]
    }
    with pytest.raises(StreamBroken, match="upstream"):
        streamed(piece({"content": "1"}), failed, b"[DONE]")
    with pytest.raises(BackendError, match="upstream"):
        streamed(failed, b"[DONE]")


# Usage

TOLD = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def used(usage: object) -> set[StageUsage | None]:
    """A usage in every place where one may stand, streamed and whole."""
    end = piece({"content": "1"}, "stop")
    in_choice = piece({}, "stop")
    in_choice["choices"][0]["usage"] = usage
    places = (
        streamed(end, {"choices": [], "usage": usage}, b"[DONE]"),
        streamed(end, {"usage": usage}, b"[DONE]"),
        streamed(piece({"content": "1"}), piece({}, "stop", usage=usage), b"[DONE]"),
        streamed(piece({"content": "1"}), in_choice, b"[DONE]"),
        streamed(end, {"choices": [], "x_groq": {"id": "r", "usage": usage}}, b"[DONE]"),
        streamed(end, {"choices": [], "usage": usage}, {"choices": [], "usage": None}, b"[DONE]"),
        whole(answer({"content": "1"}, usage=usage)),
        whole({"choices": [{"index": 0, "message": {"content": "1"}, "finish_reason": "stop", "usage": usage}]}),
    )
    return {usage_of(chunks) for chunks in places}


@pytest.mark.parametrize("path", spellings.CACHED_TOKENS, ids=".".join)
def test_cached_tokens_are_read_under_each_name(path: tuple[str, ...]) -> None:
    assert used({**TOLD, **nested(path, 64)}) == {StageUsage(100, 10, 64)}


@pytest.mark.parametrize("path", spellings.CACHE_WRITE_TOKENS, ids=".".join)
def test_cache_writes_are_read_under_each_name(path: tuple[str, ...]) -> None:
    assert used({**TOLD, **nested(path, 32)}) == {StageUsage(100, 10, cache_write_tokens=32)}


@pytest.mark.parametrize("path", spellings.REASONING_TOKENS, ids=".".join)
def test_hidden_thinking_is_read_under_each_name(path: tuple[str, ...]) -> None:
    assert used({**TOLD, **nested(path, 8)}) == {StageUsage(100, 10, reasoning_tokens=8)}


@pytest.mark.parametrize("prompt", spellings.INPUT_TOKENS, ids=".".join)
@pytest.mark.parametrize("output", spellings.OUTPUT_TOKENS, ids=".".join)
def test_tokens_are_read_under_each_name(prompt: tuple[str, ...], output: tuple[str, ...]) -> None:
    assert used({**nested(prompt, 100), **nested(output, 10)}) == {StageUsage(100, 10)}


@pytest.mark.parametrize("path", spellings.COST_USD, ids=".".join)
def test_the_cost_is_read_under_each_name(path: tuple[str, ...]) -> None:
    chunks = whole(answer({"content": "1"}, usage={**TOLD, **nested(path, 0.25)}))
    assert [chunk.cost_usd for chunk in chunks if chunk.usage] == [Decimal("0.25")]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({**TOLD, "completion_tokens_details": {"reasoning_tokens": 8}}, StageUsage(100, 10, reasoning_tokens=8)),
        (
            {**TOLD, "total_tokens": 150, "completion_tokens_details": {"reasoning_tokens": 40}},
            StageUsage(100, 50, reasoning_tokens=40),
        ),
        ({**TOLD, "total_tokens": 150}, StageUsage(100, 50, reasoning_tokens=40)),
        ({**TOLD, "completion_tokens_details": {"reasoning_tokens": 40}}, StageUsage(100, 50, reasoning_tokens=40)),
        ({**TOLD, "reasoning_tokens": 0}, StageUsage(100, 10, reasoning_tokens=0)),
        ({**TOLD, "total_tokens": 174, "cache_read_input_tokens": 64}, StageUsage(164, 10, 64)),
        ({"prompt_tokens": 100, "total_tokens": 110}, StageUsage(100, 10)),
        ({**TOLD, "total_tokens": 0}, StageUsage(100, 10)),
        ({**TOLD, "total_tokens": 7}, StageUsage(100, 10)),
        ({"prompt_tokens": 100.0, "completion_tokens": "10", "total_tokens": "110"}, StageUsage(100, 10)),
        (
            {**TOLD, "prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 64},
            StageUsage(100, 10, 64),
        ),
        ({**TOLD, "prompt_tokens_details": {"cached_tokens": -1}}, StageUsage(100, 10)),
        ({**TOLD, "prompt_tokens_details": [], "completion_tokens_details": "x"}, StageUsage(100, 10)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        *(
            ({"prompt_tokens": 10, "completion_tokens": odd}, None)
            for odd in (10**18, 1e30, -1, True, 1.5, "x", None, [])
        ),
    ],
)
def test_what_a_usage_says_is_settled_by_its_total_and_never_believed_beyond_reason(
    usage: object, read: StageUsage | None
) -> None:
    assert used(usage) == {read}


@pytest.mark.parametrize("usage", ["x", 7, [], [{"prompt_tokens": 1}], True])
def test_a_usage_that_is_none_loses_no_answer(usage: object) -> None:
    assert used(usage) == {None}


@pytest.mark.parametrize("cost", ["x", "9" * 5000, 10**400, -1, 1e300, True, [], "1e999999999"])
def test_a_cost_beyond_reason_is_not_told(cost: object) -> None:
    chunks = whole(answer({"content": "1"}, usage={**TOLD, "cost": cost}))
    assert (usage_of(chunks), [chunk.cost_usd for chunk in chunks]) == (StageUsage(100, 10), [None])


def test_placeholders_in_front_and_behind_do_not_hide_the_running_totals() -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    totals = [{"prompt_tokens": 9, "completion_tokens": at, "total_tokens": 9 + at} for at in (1, 2)]
    events = [piece({"content": "1"}, usage=zero), *(piece({"content": "1"}, usage=total) for total in totals)]
    for at_once in (False, True):
        chunks = streamed(
            *events, piece({}, "stop", usage=zero), b"[DONE]", at_once=at_once, call=replace(CALL, joined=True)
        )
        assert usage_of(chunks) == StageUsage(9, 2)


# Who answers


@pytest.mark.parametrize("at_once", [False, True])
def test_who_answers_comes_with_the_first_chunk_that_can_say_it(at_once: bool) -> None:
    named = {"id": "c-7", "model": "m-2026-11-01"}
    chunks = streamed(
        piece({"content": "1"}, **named), piece({"content": "7"}, "stop", **named), b"[DONE]", at_once=at_once
    )
    assert [chunk.served for chunk in chunks if chunk.served] == [Served("m-2026-11-01", "c-7")]
    assert [chunk.served for chunk in whole(answer({"content": "1"}, **named))] == [Served("m-2026-11-01", "c-7")]


@pytest.mark.parametrize("name", ["", None, 7, "x" * 1000, "a\x1b[31mb", "a\nb"])
def test_a_name_that_could_not_be_shown_is_not_told(name: object) -> None:
    chunks = streamed(piece({"content": "1"}, "stop", id=name, model=name), b"[DONE]")
    assert [chunk.served for chunk in chunks if chunk.served] == []


def test_running_totals_are_told_where_they_say_more_than_the_token_ids() -> None:
    def event(ids: list[int], output: int) -> dict[str, Any]:
        usage = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
        return {"choices": [{"index": 0, "delta": {"content": "a"}, "token_ids": ids}], "usage": usage}

    events = [event([1], 1), event([2], 2), event([3], 5), event([4], 6), event([5, 6], 6)]
    chunks = streamed(*events, piece({}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 6}), b"[DONE]")
    assert [chunk.usage and chunk.usage.output_tokens for chunk in chunks] == [None, 1, None, 5, 6, 6, 6]


@pytest.mark.parametrize(
    ("word", "ended"),
    [
        ("content_filter: RECITATION", "content_filter"),
        ("content-filter", "content_filter"),
        ("MAX-TOKENS", "length"),
    ],
)
def test_a_word_for_an_end_may_be_explained_or_hyphenated(word: str, ended: str) -> None:
    assert finishes(streamed(piece({"content": "1"}, word), b"[DONE]")) == [ended]
    assert finishes(whole(answer({"content": "1"}, word))) == [ended]
    with pytest.raises(StreamBroken, match="gave its answer up"):
        whole(answer({"content": "1"}, "function_call_filter: MALFORMED_FUNCTION_CALL"))


def test_anthropics_own_usage_counts_the_cache_beside_its_input() -> None:
    own = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
    assert used(own) == {StageUsage(130, 5, 100, cache_write_tokens=20)}


def test_geminis_own_usage_is_read_where_a_gateway_passes_it_on() -> None:
    own = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7, "totalTokenCount": 22}
    told = StageUsage(10, 12, reasoning_tokens=7)
    end = piece({"content": "1"}, "stop", usageMetadata=own)
    for chunks in (streamed(end, b"[DONE]"), streamed(end, b"[DONE]", at_once=True)):
        assert usage_of(chunks) == told
    assert usage_of(whole(answer({"content": "1"}, usageMetadata=own))) == told


@pytest.mark.parametrize("numbers", [({}, {}), ({"index": 0}, {"index": 0})])
def test_outputs_that_share_a_number_are_told_apart_by_their_places(numbers: Any) -> None:
    choices = [
        {**number, "message": {"content": text}, "finish_reason": "stop"}
        for number, text in zip(numbers, "ab", strict=True)
    ]
    chunks = whole({"choices": choices}, Call(max_tokens=64, n=2))
    assert [(chunk.index, chunk.text) for chunk in chunks if chunk.text] == [(0, "a"), (1, "b")]


def test_a_whole_answer_may_begin_with_a_byte_order_mark() -> None:
    reader = decoder()
    assert text_of(reader.whole(b"\xef\xbb\xbf" + json.dumps(answer({"content": "17"})).encode())) == "17"


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (b"data: ", b"\n", b"[DONE]"),
        (b"data: data: ", b"\n\n", b"[DONE]"),
        (b"data: ", b"\n\n", b"[done]"),
    ],
    ids=["one newline", "framed twice", "small letters"],
)
def test_a_stream_that_is_framed_wrongly_is_read(before: bytes, after: bytes, end: bytes) -> None:
    events = [json.dumps(event).encode() for event in (FIRST, piece({"content": "1"}), piece({"content": "7"}, "stop"))]
    reader = decoder()
    chunks = reader.read(reader.cut(b"".join(before + event + after for event in [*events, end])))
    chunks += reader.close()
    assert (text_of(chunks), finishes(chunks), reader.failure) == ("17", ["stop"], None)


@given(
    prompt=st.one_of(st.integers(-2, 10**10), st.booleans(), st.none()),
    output=st.one_of(st.integers(-2, 10**10), st.booleans(), st.none()),
    more=st.integers(-1, 1),
    rest=st.dictionaries(st.sampled_from(["prompt_tokens_details", "cost", "odd"]), st.none()),
)
def test_a_plain_usage_is_read_as_the_search_among_the_spellings_reads_it(prompt, output, more, rest):
    total = (prompt or 0) + (output or 0) + more
    told = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total, **rest}
    searched = usage_read({**told, "odd": 0})  # one more field with a value: no longer plain
    assert usage_read(told) == searched

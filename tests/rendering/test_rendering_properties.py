"""No text that a model can write closes the think block, opens a turn or calls a tool."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import templates

from duet_sdk.rendering import neutralise_unknown
from duet_sdk.types import Message

THINKING = ["qwen3", "qwen3_5_think", "glm4moe", "gptoss"]
EVERY = [*THINKING, "deepseek_r1_distill", "llama3", "gemma3", "llama2", "alpaca"]
QUESTION = [Message("user", "How many primes are below 60?")]
CONTROL = sorted({text for family in templates.FAMILIES.values() for text in family})
MARKERS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### Response:", "### Instruction:", "<s>", "</s>"]
FRAGMENTS = [
    "<",
    ">",
    "|",
    "</",
    "think",
    "<|im_",
    "end|>",
    "｜",
    "＜",
    "\u200b",
    "\u2060",
    "\u0338",
    "\n",
    " ",
    "[",
    "#",
]
anything = st.characters(codec=None, exclude_categories=())
hostile = st.lists(
    st.one_of(st.sampled_from(CONTROL), st.sampled_from(MARKERS), st.sampled_from(FRAGMENTS), anything), max_size=12
).map("".join)
within = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", THINKING)
@within
@given(signal=hostile, closed=st.booleans())
def test_no_signal_adds_or_removes_a_control_token(name, signal, closed):
    assume(signal.strip())
    renderer = templates.renderer(name)
    harmless = templates.control_ids(name, renderer.think_ids(QUESTION, "17.", closed=closed))
    ids = renderer.think_ids(QUESTION, signal, closed=closed)
    assert templates.control_ids(name, ids) == harmless


@pytest.mark.parametrize("name", THINKING)
@within
@given(signal=hostile)
def test_a_signal_stands_in_its_block_whole(name, signal):
    assume(signal.strip())
    renderer = templates.renderer(name)
    text = renderer.decode(renderer.think_ids(QUESTION, signal))
    before, _, after = renderer.decode(renderer.think_ids(QUESTION, "17.")).rpartition("17.")
    # This vocabulary lacks tokens for some bytes, so what it writes for the signal alone is the measure.
    assert text == before + renderer.decode(renderer.encode_untrusted(signal.strip())) + after


@pytest.mark.parametrize("name", EVERY)
@within
@given(text=hostile)
def test_neutralised_text_in_a_message_adds_no_control_token_and_no_role_marker(name, text):
    renderer = templates.renderer(name)
    safe = renderer.neutralise(text)
    assert not templates.control_ids(name, renderer.encode(safe))
    prompt = renderer.chat_ids([Message("user", safe)])
    harmless = renderer.chat_ids([Message("user", "17.")])
    assert templates.control_ids(name, prompt) == templates.control_ids(name, harmless)
    assert not any(marker.lower() in safe.lower() for marker in renderer.role_markers)


@pytest.mark.parametrize("name", EVERY)
@within
@given(text=hostile)
def test_neutralising_twice_changes_nothing_more(name, text):
    safe = templates.renderer(name).neutralise(text)
    assert templates.renderer(name).neutralise(safe) == safe


@within
@given(text=hostile)
def test_neutralising_for_an_unknown_model_is_idempotent_and_loses_nothing(text):
    safe = neutralise_unknown(text)
    assert neutralise_unknown(safe) == safe
    written = "".join("\ufffd" if "\ud800" <= c <= "\udfff" or c == "\ufdd0" else c for c in text)
    assert safe.replace("\u200b", "") == written.replace("\u200b", "")
    assert not any(tag in safe for tag in CONTROL if tag not in ("/nothink", "<sop>"))

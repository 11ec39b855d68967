"""A chat template made to take a signal writes exactly what the think handoff renders."""

from dataclasses import replace

import pytest
from support import templates

from duet_sdk import Message
from duet_sdk.errors import ConfigError
from duet_sdk.rendering import SIGNAL_ARGUMENT, Renderer, signal_template

THINKERS = ["qwen3", "qwen3_training", "qwen3_5_think", "qwen3_5_nothink", "nemotron_3_nano", "glm4moe", "gptoss"]
TALK = (
    Message("user", "How many primes are below sixty?"),
    Message("assistant", "Seventeen."),
    Message("user", "And below 1,000?"),
)
TOOL = {
    "type": "function",
    "function": {"name": "sieve", "description": "Counts primes.", "parameters": {"type": "object", "properties": {}}},
}
SIGNAL = "There are 168:\n\n\tby sieve, “quoted” {{ braces }} 🙂"


@pytest.fixture(params=THINKERS)
def files(request):
    return templates.files(request.param)


@pytest.mark.parametrize("tools", [(), (TOOL,)])
@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
def test_it_writes_the_ids_that_training_would_feed(files, tools, kwargs):
    made = Renderer(replace(files, chat_template=signal_template(files)))
    ids = made.chat_ids(TALK, tools=tools, **{SIGNAL_ARGUMENT: SIGNAL}, **kwargs)
    assert ids == Renderer(files).think_ids(TALK, SIGNAL, tools=tools)


@pytest.mark.parametrize("signal", [{}, {SIGNAL_ARGUMENT: ""}, {SIGNAL_ARGUMENT: None}])
def test_without_a_signal_it_is_the_models_own(files, signal):
    made, own = Renderer(replace(files, chat_template=signal_template(files))), Renderer(files)
    for kwargs in ({}, {"enable_thinking": False}):
        assert made.render(TALK, tools=(TOOL,), **signal, **kwargs) == own.render(TALK, tools=(TOOL,), **kwargs)
    assert made.render(TALK, generation=False, **{SIGNAL_ARGUMENT: SIGNAL}) == own.render(TALK, generation=False)


@pytest.mark.parametrize("family", ["llama3", "deepseek_r1_distill", "gemma3"])
def test_a_template_that_cannot_hold_a_signal_is_refused(family):
    with pytest.raises(ConfigError, match="use handoff='instruct'"):
        signal_template(templates.files(family))


def test_a_template_whose_switch_cannot_be_turned_on_is_refused():
    files = templates.files("qwen3")
    # It reads the switch through a name that only the caller can set.
    stubborn = "{% set off = enable_thinking is defined and not enable_thinking %}" + files.chat_template.replace(
        "enable_thinking is defined and enable_thinking is false", "(off or (thinking_off | default(false)))"
    )
    broken = stubborn.replace("{{- '<think>", "{{- (duet_signal | default('')) ~ '<think>")
    assert broken != files.chat_template
    with pytest.raises(ConfigError, match="cannot be made to take a signal"):
        signal_template(replace(files, chat_template=broken + "{{ '!' if duet_signal is defined and duet_signal }}"))

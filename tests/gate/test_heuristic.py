"""What the heuristic gate sees in a request, and what it makes of that."""

import math
import time

import pytest

from duet_sdk.errors import ConfigError
from duet_sdk.gate import WEIGHTS, Heuristic, features
from duet_sdk.request import Request
from duet_sdk.types import Message, ToolCall


def asked(text, *history):
    return Request((*history, Message("user", text)))


def called(*results):
    """A question with tool results after it."""
    messages = [Message("user", "Weather?")]
    for number, result in enumerate(results):
        messages.append(Message("assistant", "", (ToolCall(f"c{number}", "weather", "{}"),)))
        messages.append(Message("tool", result, tool_call_id=f"c{number}"))
    return Request(tuple(messages))


@pytest.mark.parametrize(
    "text",
    [
        "How many primes lie between 40 and 60? Prove it.",
        "Compare a heap with a sorted list, step by step.",
        "Solve x^2 + 3x - 4 = 0.",
        "Wie viele Primzahlen liegen unter 60? Zeige es Schritt für Schritt.",
        "60以下有多少个素数？请逐步计算。",
        "Сколько простых чисел меньше 60? Докажи.",
        "كم عدد الأعداد الأولية أقل من 60؟",
        "Fix this:\n```python\ndef merge(a, b):\n    return a + b\n```\nWhy is it wrong?",
    ],
)
async def test_what_takes_several_steps_is_asked_of_the_reasoner_in_any_language(text):
    assert (await Heuristic().decide(asked(text))).ask


@pytest.mark.parametrize(
    "text",
    [
        "Hello there!",
        "thanks, that helped",
        "What is the capital of France?",
        "Was ist die Hauptstadt von Frankreich?",
        "法国的首都是哪里？",
        "谢谢",
        "Name three fruits.",
        "Say that again in other words, please.",
    ],
)
async def test_what_is_plain_is_left_to_the_generator_in_any_language(text):
    assert not (await Heuristic().decide(asked(text))).ask


async def test_the_decision_tells_score_threshold_and_what_speaks_for_asking():
    decision = await Heuristic(threshold=0.9).decide(asked("Compare 12 with 13."))
    assert (decision.ask, decision.policy, decision.threshold) == (False, "heuristic", 0.9)
    assert decision.reason == "steps, numbers, length"
    exponent = (
        WEIGHTS["bias"]
        + WEIGHTS["steps"] / 2
        + WEIGHTS["numbers"] * 2 / 4
        + WEIGHTS["length"] * math.log(3) / math.log(201)
    )
    assert decision.score == pytest.approx(1 / (1 + math.exp(-exponent)))


async def test_the_reason_holds_no_word_of_the_question():
    decision = await Heuristic().decide(asked("Compare kumquat with 17 kumquats"))
    assert "kumquat" not in decision.reason


@pytest.mark.parametrize(
    ("request_", "feature", "value"),
    [
        (asked("one two three"), "length", math.log(4) / math.log(201)),
        (asked("word " * 500), "length", 1.0),
        (asked("法国的首都是哪里"), "length", math.log(5) / math.log(201)),
        (asked("from 1 to 2.5"), "numbers", 0.5),
        (asked("a + b = c"), "operators", 2 / 3),
        (asked("a well-known fact"), "operators", 0.0),
        (asked(r"\frac{a}{b}"), "operators", 1 / 3),
        (asked("What? And who? And when?"), "parts", 2 / 3),
        (asked("Do:\n- this\n- that\n- more"), "parts", 2 / 3),
        (asked("see ```x```"), "code", 1.0),
        (asked("import os\nreturn os"), "code", 2 / 5),
        (asked("And now?", Message("user", "a"), Message("assistant", "b")), "turns", 1 / 8),
        (asked("Nennen Sie bitte drei Früchte"), "other_language", 1.0),
        (asked("法国的首都"), "other_language", 1.0),
        (asked("Name the capital of France"), "other_language", 0.0),
        (asked("Danke!"), "small_talk", 1.0),
        (asked("Hello, compare a heap with a list for me"), "small_talk", 0.0),
        (called("20 degrees", "21 degrees"), "tool_results", 2 / 3),
        (called("20 degrees"), "tool_error", 0.0),
        (called("20 degrees", '{"error": "no such city"}'), "tool_error", 1.0),
        (called("Timed out", "20 degrees"), "tool_error", 0.0),
    ],
)
def test_a_feature_has_its_value(request_, feature, value):
    assert features(request_)[feature] == pytest.approx(value)


def test_there_is_a_weight_for_every_feature_and_every_feature_is_a_share():
    found = features(asked("Compare 1 with 2: " * 500))
    assert {"bias", *found} == set(WEIGHTS)
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize("text", ["", " \n\t", "\ud83d", "🙂" * 50, "```", "?" * 9000, "\n" * 99_999, "1," * 50_000])
async def test_odd_texts_are_scored_within_a_moment(text):
    start = time.perf_counter()
    decision = await Heuristic().decide(asked(text))
    assert 0 < decision.score < 1
    assert time.perf_counter() - start < 0.5


async def test_of_a_long_message_both_ends_are_looked_at():
    buried = "lorem " * 5_000
    assert features(asked(buried + "How many?"))["steps"] == 0.5
    assert features(asked("How many? " + buried))["steps"] == 0.5


async def test_own_weights_stand_in_place_of_the_defaults():
    gate = Heuristic(weights={"bias": -1.0, "numbers": 8.0})
    assert (await gate.decide(asked("12 34"))).score == pytest.approx(1 / (1 + math.exp(-3)))
    assert not (await gate.decide(asked("Compare them step by step."))).ask


async def test_extreme_weights_give_a_score_all_the_same():
    low, high = (Heuristic(weights={"bias": bias}) for bias in (-1e6, 1e6))
    assert [(await gate.decide(asked("x"))).score for gate in (low, high)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"threshold": -0.1}, "between 0 and 1"),
        ({"threshold": math.nan}, "between 0 and 1"),
        ({"weights": {"lenght": 1.0}}, "no feature 'lenght'"),
        ({"weights": {"length": math.inf}}, "must be finite"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Heuristic(**options)

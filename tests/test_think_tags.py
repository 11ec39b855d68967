"""Thinking in the text of an answer: the tags of all families, whole, in pieces of any size, and talked about."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.signal import Extractor
from duet_sdk.think_tags import FAMILIES, LeadingThought, gather, overlap, split

THOUGHT, ANSWER = "The west coast, so < Oslo [1].\n", "Bergen, `a < b`."

MARKED = {
    "think": f"<think>\n{THOUGHT}</think>\n\n{ANSWER}",
    "thinking": f"<thinking>{THOUGHT}</thinking>{ANSWER}",
    "reasoning": f"<reasoning>{THOUGHT}</reasoning>\n{ANSWER}",
    "reason": f"<reason>{THOUGHT}</reason>\n{ANSWER}",
    "thought": f"<thought>\n{THOUGHT}</thought>\n\n{ANSWER}",
    "Thought": f"<Thought>\n{THOUGHT}</Thought>\n\n{ANSWER}",
    "reflection": f"<reflection>\n{THOUGHT}</reflection>\n\n{ANSWER}",
    "seed": f"<seed:think>{THOUGHT}</seed:think>{ANSWER}",
    "mm": f"<mm:think>{THOUGHT}</mm:think>{ANSWER}",
    "longcat": f"<longcat_think>\n{THOUGHT}</longcat_think>\n{ANSWER}",
    "magistral": f"[THINK]{THOUGHT}[/THINK]{ANSWER}",
    "kimi": f"◁think▷{THOUGHT}◁/think▷{ANSWER}",
    "openthinker": f"<|begin_of_thought|>\n{THOUGHT}<|end_of_thought|>\n\n<|begin_of_solution|>\n{ANSWER}"
    "<|end_of_solution|>",
    "cohere": f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    "cohere 4": f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
    "apertus": f"<|inner_prefix|>{THOUGHT}<|inner_suffix|>{ANSWER}",
    "gemma": f"<|channel>thought\n{THOUGHT}<channel|>{ANSWER}",
    "kimi k3": f"<|open|>think<|sep|>{THOUGHT}<|close|>think<|sep|><|open|>response<|sep|>{ANSWER}"
    "<|close|>response<|sep|>",
    "inkling": f"<|message_model|><|content_thinking|>{THOUGHT}<|end_message|>"
    f"<|message_model|><|content_text|>{ANSWER}<|end_message|><|content_model_end_sampling|>",
    "granite 3.2": f"Here is my thought process:\n{THOUGHT}Here is my response:\n{ANSWER}",
    "granite 3.3": f"<think>{THOUGHT}</think><response>{ANSWER}</response>",
    "harmony": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}"
    "<|return|>",
    "harmony, two thoughts": f"<|start|>assistant<|channel|>analysis<|message|>One.<|end|>"
    f"<|start|>assistant<|channel|>analysis<|message|>{THOUGHT}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{ANSWER}",
    "harmony without its tokens": f"analysis{THOUGHT}assistantfinal{ANSWER}",
    "harmony, no thought": f"<|channel|>final<|message|>{ANSWER}<|return|>",
    "two blocks": f"<think>One.</think>\n<think>{THOUGHT}</think>\n{ANSWER}",
    "an empty block": f"<think>\n\n</think>\n\n{ANSWER}",
    "a stray end": f"</mm:think>{ANSWER}",
    "none": ANSWER,
}
ALONE = {
    "end on its line": f"{THOUGHT}</think>\n\n{ANSWER}",
    "glued": f"West coast.</think>{ANSWER}",
    "glued, no full stop": "17 primes</think>17",
    "on the line": f"West coast. </think> {ANSWER}",
    "a number behind": "so 17 primes </think> 17",
    "other tags": f"{THOUGHT}[/THINK]{ANSWER}",
    "code in the thought": "Use `x`:\n```\nprint()\n```\n</think>\n\n" + ANSWER,
    "the tag in the thought": "I end with `</think>`.\n</think>\n\n" + ANSWER,
    "an introduction": f"{THOUGHT}<|END_THINKING|><|START_TEXT|>{ANSWER}<|END_TEXT|>",
    "the opening tag in the thought": 'They ask for "<think>".\n</think>\n\n' + ANSWER,
}
TALK = [
    "Thinking ends with `</think>` in R1.",
    'It writes "</think>" and then the answer.',
    "The tag </think> ends the block.",
    "Use <think> and </think>, as in `<think>x</think>`.",
    "```xml\n<think>\nx\n</think>\n```\nThat is how it looks.",
    "First `<think>`, then text.\n\n```\nfoo</think>\nbar\n```",
    "A list: [THINK] is Magistral's.",
    "analysis of the data shows 3.",
    "Here is my plan: </ 3",
    "a < b and a <thin line",
    "ends with <thi",
    "Here is my thought process: I count. It is 17.",
    "assistant",
    "<|im_start|>",
]


def in_pieces(text, sizes):
    at = 0
    for size in sizes:
        if at >= len(text):
            return
        yield text[at : at + size]
        at += size
    yield text[at:]


def shown(pieces, **options):
    thought = LeadingThought(**options)
    return "".join([thought.feed(piece) for piece in pieces]) + thought.end(), thought


@pytest.mark.parametrize("text", MARKED.values(), ids=MARKED)
def test_the_thinking_of_every_family_is_taken_off(text):
    thinking, answer = split(text)
    assert answer.strip() == ANSWER
    assert not any(mark in answer for family in FAMILIES for mark in (*family.opens, *family.closes))
    assert ("west coast" in thinking) == ("west coast" in text)


@given(text=st.sampled_from(sorted(MARKED.values())), sizes=st.lists(st.integers(1, 30), max_size=60))
def test_pieces_of_any_size_give_the_same(text, sizes):
    answer, thought = shown(in_pieces(text, sizes))
    assert (thought.text, answer) == (split(text) if thought.found else ("", answer))
    assert answer.strip() == ANSWER


@pytest.mark.parametrize("text", ALONE.values(), ids=ALONE)
def test_what_stands_before_an_end_that_nothing_opened_is_thinking(text):
    assert split(text)[1].strip() in (ANSWER, "17")
    assert shown([text], opened=True)[0].strip() in (ANSWER, "17") or "`</think>`" in text


@pytest.mark.parametrize("text", TALK)
def test_an_answer_that_talks_about_tags_loses_nothing(text):
    assert split(text) == ("", text)
    assert shown(text)[0] == text


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "x", " ", "\n"]), max_size=10))
def test_an_answer_in_pieces_loses_only_blocks_at_its_start(pieces):
    answer, thought = shown(pieces)
    rest = "".join(pieces)
    while rest.lstrip().startswith(("<think>", "</think>")):
        rest = rest.partition("</think>")[2]
    assert answer == rest
    assert thought.found == ("".join(pieces).lstrip().startswith(("<think>", "</think>")))


def test_a_block_that_nothing_closes_is_thinking():
    assert split("<think>I wonder") == ("I wonder", "")


def test_words_that_nothing_closes_are_thinking_only_where_the_limit_ended_them():
    for text in ("analysisWe count", "Here is my thought process: we count"):
        thought = LeadingThought()
        assert thought.feed(text) == ""
        assert thought.end() == text
        thought = LeadingThought()
        assert (thought.feed(text), thought.end(was_cut=True), thought.found) == ("", "", True)


def test_a_block_that_the_template_opened_is_held_back_until_its_end():
    thought = LeadingThought(opened=True)
    assert [thought.feed(piece) for piece in ("We ", "count.</th", "ink>\n\n", "17", " it is")] == [
        "",
        "",
        "",
        "\n\n17",
        " it is",
    ]
    assert thought.text == "We count."
    assert shown(["There was", " none."], opened=True)[0] == "There was none."


def test_thinking_that_a_server_keeps_apart_ends_the_holding_back():
    thought = LeadingThought(opened=True)
    assert thought.feed("", "We count.") + thought.feed("17") == "17"
    assert (thought.separate, thought.found) == ("We count.", False)


@pytest.mark.parametrize("text", MARKED.values(), ids=MARKED)
def test_a_signal_is_found_behind_the_thinking_of_every_family(text):
    extractor = Extractor("answer")
    for piece in text:
        extractor.feed(piece)
    assert extractor.text == ANSWER


@pytest.mark.parametrize("text", TALK)
def test_a_signal_that_talks_about_tags_loses_nothing(text):
    extractor = Extractor("answer")
    assert extractor.feed(text[:9]) + extractor.feed(text[9:]) in text
    assert extractor.text == text


def test_the_tags_of_every_family_end_a_thought_that_is_the_signal():
    for name in ("think", "seed", "magistral", "kimi", "apertus", "harmony"):
        extractor = Extractor("thinking")
        for piece in MARKED[name]:
            extractor.feed(piece)
        assert (extractor.text, extractor.ended) == (THOUGHT.strip(), True), name


def test_a_long_text_is_read_in_time_that_grows_with_its_length():
    pieces = ["analysis", *(["We count `<`. "] * 30_000)]
    begun = time.thread_time()
    answer, _ = shown(pieces)
    split(answer + "</think>")
    split("```\n" + "</think><think>" * 50_000)
    split("`<think>` " * 50_000 + "</think>")
    split("<|open|>" * 50_000 + "</think>")
    assert time.thread_time() - begun < 5


def test_an_overlap_is_the_start_of_a_tag_at_the_end_of_a_text():
    assert [overlap(text, "</think>") for text in ("a</thi", "a<", "a", "</think>")] == [5, 1, 0, 0]


def test_every_closing_tag_holds_what_texts_are_searched_for():
    for family in FAMILIES:
        for mark in family.closes:
            assert family.is_prose or any(hint in mark for hint in ("</", "[/", "◁/", "|>")), mark


@pytest.mark.parametrize("piece", ["</think>", "<think></think>", "<think>\n\n</think>\n\n"])
def test_a_long_text_of_nothing_but_tags_takes_time_in_proportion(piece):
    def seconds(times):
        began = time.process_time()
        assert split(piece * times + "17")[1].strip() == "17"
        return time.process_time() - began

    assert min(seconds(80_000) for _ in range(2)) < 10 * min(seconds(20_000) for _ in range(3))


def test_a_long_answer_comes_whole_behind_its_thought():
    answer = "".join(f"{number} " for number in range(20_000))
    assert split(f"<think>{'so ' * 5000}</think>{answer}") == (("so " * 5000).strip(), answer)
    assert split(answer) == ("", answer)


def test_pieces_that_are_gathered_are_few_and_the_text_is_whole() -> None:
    pieces: list[str] = []
    for number in range(1000):
        gather(pieces, f"{number} ")
    assert "".join(pieces) == "".join(f"{number} " for number in range(1000))
    assert len(pieces) <= 64

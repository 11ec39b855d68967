"""What of the reasoner's output is the signal, and what a cut one becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.errors import ConfigError, SignalError
from duet_sdk.signal import CutPolicy, Extractor, Fail, Keep, Sentence, WrapUp, cut_policy

CASES = [
    # output, signal of the think handoff, signal of the instruct handoff
    ("<think>plan</think>answer", "plan", "answer"),
    ("plan</think>answer", "plan", "answer"),
    ("just text", "just text", "just text"),
    ("<think>cut off", "cut off", ""),
    ("<think>a<think>b</think>c</think>d", "ab", "c</think>d"),
    ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
    ("before <think>in</think> after", "in", "after"),
    ("<think>\n\n</think>\n\nanswer", "", "answer"),
    ("<think>only thoughts</think>", "only thoughts", ""),
    ("", "", ""),
    ("a < b and a <thin line", "a < b and a <thin line", "a < b and a <thin line"),
    ("ends with <thi", "ends with <thi", "ends with <thi"),
]


@pytest.mark.parametrize(("output", "thinking", "answer"), CASES)
def test_the_signal_is_found_in_the_whole_output(output, thinking, answer):
    for take, expected in (("thinking", thinking), ("answer", answer)):
        extractor = Extractor(take)
        extractor.feed(output)
        assert extractor.text == expected, take


@given(case=st.sampled_from(CASES), data=st.data())
def test_the_signal_does_not_depend_on_how_the_output_is_cut_into_pieces(case, data):
    output, thinking, answer = case
    for take, expected in (("thinking", thinking), ("answer", answer)):
        extractor, rest = Extractor(take), output
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            extractor.feed(rest[:size])
            rest = rest[size:]
        assert extractor.text == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "x", " ", "</"]), max_size=12))
def test_what_is_shown_of_a_think_block_is_what_is_kept(pieces):
    extractor = Extractor("thinking")
    shown = "".join(extractor.feed(piece) for piece in pieces)
    if extractor.ended:
        assert shown.endswith(extractor.text) or extractor.text in shown


def test_a_template_that_opens_the_block_makes_everything_thinking_until_it_closes():
    extractor = Extractor("thinking", opened=True)
    extractor.feed("plan</think>answer")
    assert (extractor.text, extractor.ended) == ("plan", True)


def test_a_field_of_its_own_is_thinking_and_its_end_ends_the_signal():
    extractor = Extractor("thinking")
    assert extractor.feed("", "pl") + extractor.feed("", "an") == "plan"
    assert not extractor.ended
    extractor.feed("answer")
    assert (extractor.text, extractor.ended) == ("plan", True)


def test_a_field_of_its_own_is_not_the_instruct_signal():
    extractor = Extractor("answer")
    assert extractor.feed("", "long thoughts") == ""
    assert (extractor.text, extractor.thinking) == ("", "long thoughts")
    assert extractor.feed("sketch") == "sketch"
    assert extractor.text == "sketch"


def test_other_tags_are_found_as_well():
    extractor = Extractor("thinking", tags=("[THINK]", "[/THINK]"))
    extractor.feed("[THINK]plan[/THINK]answer")
    assert extractor.text == "plan"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ("One! Two? Thr", "One! Two?"),
        ('He said "yes." And', 'He said "yes."'),
        ("pi is 3.14 and e is 2.", "pi is 3.14 and e is 2."),
        ("A sentence. pi is 3.", "A sentence."),
        ("- first\n- second\n- thi", "- first\n- second"),
        ("完了。次は", "完了。次は"),
        ("完了。 次は", "完了。"),
        ("no end at all", "no end at all"),
        ("cut in a char�", "cut in a char"),
        ("", ""),
    ],
)
def test_a_cut_signal_ends_with_its_last_whole_sentence(text, kept):
    assert Sentence().cut(text, limit=9) == kept


def test_keep_leaves_the_text_but_no_half_character():
    assert Keep().cut("One. Tw�", limit=9) == "One. Tw"


def test_the_error_policy_names_the_limit():
    with pytest.raises(SignalError, match="limit of 9 tokens"):
        Fail().cut("text", limit=9)


def test_policies_are_found_by_name_or_taken_as_they_are():
    class Mine:
        name, reserve = "mine", 0.0

        def cut(self, text, *, limit):
            return text.upper()

    assert isinstance(Mine(), CutPolicy)
    assert cut_policy("wrap_up") == WrapUp(reserve=0.25)
    assert cut_policy(mine := Mine()) is mine
    with pytest.raises(ConfigError, match="known: keep, sentence, wrap_up, error"):
        cut_policy("chop")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        WrapUp(reserve=1.0)

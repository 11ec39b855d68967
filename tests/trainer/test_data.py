"""Questions: what is read, what is refused and how it is named, what is dropped, and in which order they come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.errors import DataError, TrainingError
from duet_sdk.evaluation.datasets import read_questions
from duet_sdk.evaluation.grading import Exact, MultipleChoice
from duet_sdk.evaluation.question import Question
from duet_sdk.evaluation.rows import fingerprint, shuffled
from duet_sdk.trainer.config import Data
from duet_sdk.trainer.data import (
    check_same_on_all_ranks,
    find_leaks,
    prepare,
)
from duet_sdk.types import Message


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(*texts: str, answer: str = "1", name: str = "set") -> list[Question]:
    return [Question((Message("user", text),), answer, f"{name}, row {at}") for at, text in enumerate(texts)]


def numbered(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"What is {at} times 3?", "answer": str(3 * at)} for at in range(count)]


def test_rows_of_a_file_become_questions(tmp_path):
    name = write(
        tmp_path / "a.jsonl",
        {"id": 7, "prompt": "1 + 1?", "answer": "2", "tags": ["easy", None]},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}], "answer": 4},
    )
    one, two = read_questions(name)
    assert (one.text, one.answer, one.source) == ("1 + 1?", "2", f"{name}, line 1")
    assert one.columns == {"id": 7, "tags": ["easy", None]}
    assert two.messages == (Message("system", "Be brief."), Message("user", "2 + 2?"))
    assert two.answer == "4"


def test_empty_lines_are_skipped_and_lines_keep_their_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"prompt": "q", "answer": "1"}\n\n\n{"prompt": "r", "answer": "2"}\n')
    assert [question.source for question in read_questions(str(tmp_path / "a.jsonl"))] == [
        f"{tmp_path}/a.jsonl, line 2",
        f"{tmp_path}/a.jsonl, line 5",
    ]


def test_columns_may_have_other_names(tmp_path):
    name = write(tmp_path / "a.jsonl", {"problem": "1 + 1?", "solution": "2"})
    assert read_questions(name, prompt_column="problem", answer_column="solution")[0].answer == "2"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "q", "answer": "1"},
            r"line 1 has no column 'prompt', it has 'question', 'answer'; set prompt_column and answer",
        ),
        ({"prompt": "q"}, r"has no column 'answer', it has 'prompt'"),
        ({}, r"has no column 'prompt', it has none"),
        ({"prompt": " ", "answer": "1"}, r"line 1, column 'prompt' is empty"),
        ({"prompt": "q", "answer": ""}, r"column 'answer' is empty"),
        ({"prompt": "q", "answer": None}, r"column 'answer' must be a string or a number, got nothing"),
        ({"prompt": "q", "answer": True}, r"got a value of type bool"),
        ({"prompt": "q", "answer": [1]}, r"got a value of type list"),
        ({"prompt": 5, "answer": "1"}, r"must be a string or a list of chat messages, got a value of type int"),
        ({"prompt": [], "answer": "1"}, r"must be a string or a list of chat messages"),
        ({"prompt": [{"role": "user"}], "answer": "1"}, r"message 0 must have a role"),
        ({"prompt": [{"role": "tool", "content": "x"}], "answer": "1"}, r"message 0 must have a role"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "1"}, r"ends with a message of the assistant"),
    ],
)
def test_a_row_of_no_use_is_named_by_file_line_and_column(tmp_path, row, words):
    with pytest.raises(DataError, match=words) as raised:
        read_questions(write(tmp_path / "a.jsonl", row))
    assert f"{tmp_path}/a.jsonl, line 1" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"a\.jsonl, line 2 is not JSON: .* at character"),
        ("[1]", r"a\.jsonl, line 2 holds a list, not an object"),
        ("[" * 100_000, r"a\.jsonl, line 2 is not JSON: too deep"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, text, words):
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "answer": "1"}\n' + text + "\n")
    with pytest.raises(DataError, match=words):
        read_questions(str(tmp_path / "a.jsonl"))


def test_three_bad_lines_are_told_and_that_there_are_more(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "answer": "1"}\n' + "x\n" * 5)
    with pytest.raises(DataError) as raised:
        read_questions(str(tmp_path / "a.jsonl"))
    assert [f"line {number} " in str(raised.value) for number in range(1, 7)] == [False, True, True, True, False, False]
    assert str(raised.value).endswith("and there are more")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_byte_order_marks_are_read_over_also_where_files_were_put_together(tmp_path, newline):
    part = b"\xef\xbb\xbf" + newline.join(
        [b'{"prompt": "1 + 1?", "answer": "2"}', b'{"prompt": "q", "answer": "4"}', b""]
    )
    (tmp_path / "a.jsonl").write_bytes(part + part + b"\xef\xbb\xbf" + newline)
    assert [question.answer for question in read_questions(str(tmp_path / "a.jsonl"))] == ["2", "4", "2", "4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no rows"), (b"\n\n", "holds no rows"), (b'{"a": "\xe9"}\n', r"is not UTF-8 text \(byte 7\)")],
)
def test_a_file_without_rows_or_of_no_text_is_refused(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_questions(str(tmp_path / "a.jsonl"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl cannot be read: No such file"):
        read_questions(str(tmp_path / "no.jsonl"))


@pytest.mark.parametrize("name", ["../up/../there", "a/b/c", "", "https://x/y.parquet"])
def test_a_name_that_is_no_data_set_is_refused_without_asking_anybody(name):
    with pytest.raises(DataError, match="is neither a JSONL file"):
        read_questions(name)


def test_a_folder_is_loaded_as_the_hub_would_be(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra train")
    rows = [{"prompt": "1 + 1?", "answer": 2}, {"prompt": "2 + 2?", "answer": 4}]
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set" / "train.parquet")
    found = read_questions(str(tmp_path / "set"))
    assert [(one.text, one.answer) for one in found] == [("1 + 1?", "2"), ("2 + 2?", "4")]
    assert found[1].source == f"{tmp_path}/set, train, row 1"
    assert len(read_questions(f"{tmp_path}/set#train", split="test")) == 2
    with pytest.raises(DataError, match="split 'test', cannot be loaded"):
        read_questions(str(tmp_path / "set"), split="test")


def test_a_hub_that_cannot_be_reached_is_told_as_such(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra train")
    code = (
        "from duet_sdk.evaluation.datasets import read_questions\n"
        "try:\n    read_questions('owner/no-such-set', revision='v1')\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    # A process of its own, as the library reads its settings when it is imported.
    environment = {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "DataError the data set 'owner/no-such-set' at revision 'v1', split 'train', cannot be loaded" in done.stdout


def test_without_the_library_a_hub_set_asks_for_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Exception, match=r"owner/set.*pip install .*\[train\]\""):
        read_questions("owner/set")


def test_a_long_run_of_words_in_common_is_a_leak():
    words = "one two three four five six seven eight nine ten eleven twelve thirteen"
    train = asked(f"Say: {words.upper()}!", "one two three four five", name="train")
    leaks = find_leaks(train, {"test": asked(f"{words} fourteen", name="test")})
    assert list(leaks) == [0]
    assert (leaks[0].source, leaks[0].against, leaks[0].words) == ("train, row 0", "test, row 0", words)


def test_a_short_question_leaks_where_it_stands_whole():
    test = {"test": asked("How many primes are below 60?", "Why not?", name="test")}
    train = asked(
        "Tell me: how many primes are below 60? Thanks", "How many primes are below 61?", "why not", "Why not me?"
    )
    assert list(find_leaks(train, test)) == [0, 2]


def test_no_evaluation_set_makes_no_leak():
    assert find_leaks(asked("a b c"), {}) == {}


@given(
    st.lists(st.text(alphabet="abc 1", max_size=40), max_size=8),
    st.lists(st.text(alphabet="abc 1", max_size=40), max_size=8),
    st.integers(1, 6),
)
def test_leaks_are_those_that_a_slow_search_finds(train, test, ngram):
    def runs(text: str, size: int) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}

    def leaks(one: str, other: str) -> bool:
        size = len(other.split())
        if one.split() == other.split():
            return True
        return size >= 4 and bool(runs(one, min(ngram, size)) & runs(other, min(ngram, size)))

    expected = [at for at, one in enumerate(train) if any(leaks(one, other) for other in test)]
    assert list(find_leaks(asked(*train), {"t": asked(*test)}, ngram=ngram)) == expected


def test_the_order_depends_on_seed_and_questions_alone():
    questions = asked(*(f"q{at}" for at in range(50)))
    assert fingerprint(shuffled(questions, 3)) == fingerprint(shuffled(list(questions), 3))
    assert fingerprint(shuffled(questions, 3)) != fingerprint(shuffled(questions, 4))


def test_the_fingerprint_is_the_same_in_another_process():
    code = (
        "from duet_sdk.evaluation.rows import fingerprint, question_of, shuffled\n"
        "rows = [question_of({'prompt': f'q{at}', 'answer': '1'}, source='') for at in range(50)]\n"
        "print(fingerprint(shuffled(rows, 7)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "17"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(shuffled(asked(*(f"q{at}" for at in range(50))), 7))


@pytest.mark.parametrize(
    "other",
    [
        Question((Message("user", "q"),), "2"),
        Question((Message("user", "r"),), "1"),
        Question((Message("user", "q"),), "1", columns={"tests": "assert True"}),
    ],
)
def test_the_fingerprint_tells_prompts_answers_and_columns_apart(other):
    assert fingerprint([Question((Message("user", "q"),), "1")]) != fingerprint([other])


def test_ranks_with_other_questions_are_found():
    with pytest.raises(TrainingError, match=r"see different questions \(rank 0 aa, rank 2 bb\)"):
        check_same_on_all_ranks("aa", lambda own: [own, "aa", "bb"])


def test_preparing_drops_what_it_reports(tmp_path):
    train = write(
        tmp_path / "train.jsonl",
        *numbered(20),
        {"prompt": "what IS 4  times 3", "answer": "12"},
        {"prompt": "What is 5 times 3?", "answer": "16"},
        {"prompt": "Why is it so? " * 20, "answer": "because"},
        {"prompt": "How many primes are below 60?", "answer": "17"},
        {"prompt": "Which one?", "answer": " ####"},
    )
    test = write(tmp_path / "test.jsonl", {"question": "How many primes are below 60?", "answer": "17"})
    data = Data(train=train, holdout=4, leak_against=(test,), max_prompt_tokens=20, max_questions=10)
    done = prepare(data, seed=1, grader=Exact(), count_tokens=lambda question: len(question.text.split()))
    report = done.report
    assert (report.read, report.unreadable, report.too_long, report.duplicates, report.contradictory) == (
        25,
        1,
        1,
        2,
        1,
    )
    assert (report.leaked, report.beyond, report.train, report.validation) == (1, 6, 10, 4)
    assert report.read == report.dropped + report.train + report.validation
    assert report.unreadable_sources == [f"{train}, line 25"]
    assert report.leaks[0].against == f"{test}, line 1"
    assert report.fingerprint == fingerprint(done.train)
    assert not {question.text for question in done.train} & {question.text for question in done.validation}
    assert json.loads(json.dumps(report.facts()))["leaks"][0]["source"] == f"{train}, line 24"


def test_a_column_that_is_missing_is_named_as_the_runs_file_names_it(tmp_path):
    train = write(tmp_path / "a.jsonl", {"question": "q", "answer": "1"})
    with pytest.raises(
        TrainingError,
        match=r"no column 'prompt', it has 'question', 'answer'; set data.prompt_column and data.answer_column",
    ):
        prepare(Data(train=train), seed=0)


def test_a_data_set_that_cannot_be_read_ends_a_run_as_an_error_of_training(tmp_path):
    with pytest.raises(TrainingError, match=r"no\.jsonl cannot be read: No such file"):
        prepare(Data(train=str(tmp_path / "no.jsonl")), seed=0)


def test_held_out_questions_do_not_depend_on_the_order_of_rows(tmp_path):
    rows = numbered(30)
    one = prepare(Data(train=write(tmp_path / "a.jsonl", *rows), holdout=5), seed=2)
    two = prepare(Data(train=write(tmp_path / "b.jsonl", *reversed(rows)), holdout=5), seed=2)
    assert {q.text for q in one.validation} == {q.text for q in two.validation}
    assert {q.text for q in one.validation} != {
        q.text for q in prepare(Data(train=str(tmp_path / "a.jsonl"), holdout=5), seed=3).validation
    }


def test_what_stands_in_the_validation_set_is_not_trained_on(tmp_path):
    train = write(tmp_path / "a.jsonl", *numbered(10))
    validation = write(tmp_path / "v.jsonl", *numbered(3))
    done = prepare(Data(train=train, validation=validation), seed=0)
    assert (done.report.leaked, done.report.train, done.report.validation) == (3, 7, 3)


def test_a_validation_set_is_filtered_as_the_training_set_is(tmp_path):
    train = write(tmp_path / "a.jsonl", *numbered(10))
    rows = [{"prompt": "Why is it so? " * 20, "answer": "1"}, {"prompt": "Which one?", "answer": " ####"}]
    validation = write(tmp_path / "v.jsonl", {"prompt": "One plus one?", "answer": "2"}, *rows)
    data = Data(train=train, validation=validation, max_prompt_tokens=20)
    count = {"count_tokens": lambda question: len(question.text.split())}
    done = prepare(data, seed=0, grader=Exact(), **count)
    assert [question.text for question in done.validation] == ["One plus one?"]
    assert (done.report.validation, done.report.validation_dropped) == (1, 2)
    alone = Data(train=train, validation=write(tmp_path / "w.jsonl", rows[0]), max_prompt_tokens=20)
    with pytest.raises(TrainingError, match="no question of .* is left to validate on: 1 read"):
        prepare(alone, seed=0, **count)


def test_the_revision_holds_for_all_that_is_read_of_its_data_set(tmp_path, monkeypatch):
    asked_for = {}

    def reading(name, *, revision=None, **_):
        asked_for[name] = revision
        return asked(f"What is in {name}?")

    monkeypatch.setattr(sys.modules["duet_sdk.trainer.data.prepare"], "read_questions", reading)
    data = Data(train="owner/set#train", validation="owner/set:hard#test", leak_against=("other/set",), revision="v1")
    prepare(data, seed=0)
    assert asked_for == {"owner/set#train": "v1", "owner/set:hard#test": "v1", "other/set": None}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"holdout": 20}, "data.holdout keeps 20 questions back and there are 20; lower it"),
        ({"max_prompt_tokens": 1, "holdout": 0}, "no question of .* is left to train on: 20 read; .* 20 too long"),
    ],
)
def test_nothing_left_to_train_on_says_why(tmp_path, options, words):
    data = Data(train=write(tmp_path / "a.jsonl", *numbered(20)), **options)
    with pytest.raises(TrainingError, match=words):
        prepare(data, seed=0, count_tokens=lambda question: 5 if "max_prompt_tokens" in options else 1)


def test_answers_that_the_grader_cannot_read_at_all_end_the_run(tmp_path):
    data = Data(train=write(tmp_path / "a.jsonl", *numbered(20)))
    with pytest.raises(TrainingError, match="'choice' can read none of the 20 reference answers"):
        prepare(data, seed=0, grader=MultipleChoice())


def test_a_providers_answers_need_rights(tmp_path):
    train = write(tmp_path / "a.jsonl", *numbered(20))
    with pytest.raises(ValueError, match="rights must say why they may be used"):
        Data(train=train, provider_answers=True)
    done = prepare(Data(train=train, holdout=2, provider_answers=True, rights="our own model's, Apache-2.0"), seed=0)
    assert done.report.rights == "our own model's, Apache-2.0"

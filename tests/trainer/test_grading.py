"""Graders: what counts as right, what cannot be read, and what becomes of a grader that hangs or fails."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from pathlib import Path

import pytest

from duet_sdk.errors import ConfigError, EvaluationError
from duet_sdk.evaluation.grading import CountingGrader, Exact, Grade, MultipleChoice, Submission, find_grader
from duet_sdk.evaluation.grading.plain import final_answer, plain_form
from duet_sdk.evaluation.grading.process import GradingProcess
from duet_sdk.evaluation.question import Question
from duet_sdk.types import Message

QUESTION = Question((Message("user", "How many?"),), "1", "set, row 0", {"level": 3})

OWN = """
import time

def long_enough(prompts, completions, answer, **columns):
    return [float(len(chat[-1]["content"]) >= int(wanted)) for chat, wanted in zip(completions, answer)]

def asks(prompts, completions, level, **columns):
    return [float(chat[0]["content"] == "easy?" and rank == 3) for chat, rank in zip(prompts, level)]

def hangs_on_slow(prompts, completions, **columns):
    if any("slow" in chat[-1]["content"] for chat in completions):
        time.sleep(600)
    return [1.0] * len(completions)

def raises_on_odd(completions, **columns):
    if any("odd" in chat[-1]["content"] for chat in completions):
        raise ValueError("the answer was: secret")
    return [1] * len(completions)

def dies(completions, **columns):
    import os
    os._exit(3)

def prints(completions, **columns):
    print("not a grade")
    return [1.0 for _ in completions]

def beyond(completions, **columns):
    return [2.0, float("nan"), "1", None, True][: len(completions)] if len(completions) == 5 else [2.0]

def too_few(completions, **columns):
    return []

def starts_a_program(completions, folder, **columns):
    import subprocess
    with open(folder[0] + "/alive", "w") as alive:
        subprocess.run(["sleep", "600"], stdout=alive)

def closes_its_output(completions, **columns):
    import os
    os.closerange(3, 64)
    time.sleep(600)

def tells_its_process(completions, **columns):
    import os
    time.sleep(0.2)
    return [os.getpid() % 100_000 / 100_000] * len(completions)

async def later(completions, **columns):
    return [0.5 for _ in completions]

value = 17
"""


@pytest.fixture
def own(tmp_path: Path):
    """Makes a grader of a function in a module of the user's own, and closes it afterwards."""
    (tmp_path / "own_graders.py").write_text(OWN)
    made = []

    def make(function: str, limit_s: float = 5.0, processes: int = 1):
        made.append(find_grader(f"own_graders:{function}", limit_s=limit_s, processes=processes, beside=tmp_path))
        return made[-1]

    yield make
    for grader in made:
        grader.close()


def scores(grader, *pairs: tuple[str, str]) -> list[float]:
    return [grade.score for grade in grader.grade([Submission(answer, reference) for answer, reference in pairs])]


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        (r"Thus \boxed{17}.", "17", 1.0),
        (r"\boxed{1} no, \boxed{2}", "1", 0.0),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", 1.0),
        ("The answer is $1,200.00.", "1200", 1.0),
        ("The answer is 1200.5", "1200", 0.0),
        ("reasoning\n#### 72", "6 * 12 = 72\n#### 72", 1.0),
        ("Thinking about it\n\n42\n", "42", 1.0),
        ("**Answer:** Paris", "paris", 1.0),
        ("007", "7", 1.0),
        ("-0.50", "-.5", 1.0),
        ("-0", "0", 1.0),
        ("1.2.3", "1.23", 0.0),
        ("4" * 60, "4" * 59 + "5", 0.0),
    ],
)
def test_exact_compares_final_answers_by_value(answer, reference, score):
    assert scores(Exact(), (answer, reference)) == [score]


def test_exact_reads_no_answer_out_of_an_empty_text_or_a_long_line():
    grades = Exact().grade(
        [Submission("", "1"), Submission(" \n", "1"), Submission("word " * 200, "1"), Submission(r"\boxed{}", "1")]
    )
    assert grades == [Grade(0.0, read=False)] * 4


def test_an_unclosed_box_is_no_answer_and_costs_no_square_of_the_text():
    text = "\\boxed{" * 20_000
    began = time.perf_counter()
    assert final_answer(text) is None
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("text", ["½", "٣", "Ⅳ", "1e5", ".", "-", "+", ",", "$", "0x10", "\0", "💥"])
def test_odd_texts_have_a_form_all_the_same(text):
    assert isinstance(plain_form(text), str)


@pytest.mark.parametrize(
    ("answer", "score", "read"),
    [
        ("The answer is (C).", 1.0, True),
        (r"\boxed{C}", 1.0, True),
        (r"\boxed{\text{C}}", 1.0, True),
        ("C. Paris", 1.0, True),
        ("Of these, I take C", 1.0, True),
        ("(A) is wrong, so (C)", 1.0, True),
        ("(C) is wrong, so (A)", 0.0, True),
        ("the answer is c", 1.0, True),
        ("C", 1.0, True),
        ("I", 0.0, False),
        ("A. Paris is one, B. Rome is another", 0.0, True),
        ("I think A lot of it", 0.0, False),
        ("None of them", 0.0, False),
        ("The answer is Z", 0.0, False),
    ],
)
def test_choice_compares_letters(answer, score, read):
    assert MultipleChoice(letters=4).grade([Submission(answer, "C")]) == [Grade(score, read=read)]


def test_references_that_no_answer_can_match_are_found():
    assert Exact().unreadable(["17", "", "####", "x"]) == [1, 2]
    assert MultipleChoice(letters=4).unreadable(["A", "E", "(b)", "", "Paris"]) == [1, 3, 4]


def test_a_users_function_gets_chats_and_columns(own):
    assert scores(own("long_enough"), ("abc", "3"), ("ab", "3")) == [1.0, 0.0]
    attempts = [Submission("x", "1", "easy?", {"level": 3}), Submission("x", "1", "easy?", {"level": 4})]
    assert [grade.score for grade in own("asks").grade(attempts)] == [1.0, 0.0]


def test_a_users_function_may_be_async_and_may_print(own):
    assert scores(own("later"), ("x", "1")) == [0.5]
    assert scores(own("prints"), ("x", "1"), ("y", "1")) == [1.0, 1.0]


def test_a_function_that_hangs_is_killed_and_only_its_answer_is_wrong(own):
    grader = own("hangs_on_slow", limit_s=0.5)
    grades = grader.grade([Submission("fast", "1"), Submission("slow", "1"), Submission("fast", "1")])
    assert grades == [Grade(1.0), Grade(0.0, read=False, fault="no grade within 0.5 s"), Grade(1.0)]


def test_one_answer_of_many_that_hangs_costs_nine_limits_and_not_the_rounds(own, monkeypatch):
    ask, waited = GradingProcess.ask, []

    def told(self, question, *, limit_s):
        reply = ask(self, question, limit_s=limit_s)
        waited.append(limit_s if "fault" in reply else 0.0)
        return reply

    monkeypatch.setattr(GradingProcess, "ask", told)
    grader = own("hangs_on_slow", limit_s=0.5)
    grades = grader.grade([Submission("slow" if at == 20 else "fast", "1") for at in range(40)])
    assert [at for at, grade in enumerate(grades) if grade.fault] == [20]
    assert sum(waited) == 9 * 0.5


def test_a_lambda_gets_eight_answers_at_most():
    sizes = []
    grader = find_grader(lambda completions, **_: sizes.append(len(completions)) or [1.0] * len(completions))
    assert scores(grader, *[("x", "1")] * 20) == [1.0] * 20
    assert sizes == [8, 8, 4]


def test_what_a_killed_function_had_started_ends_with_it(own, tmp_path):
    os.mkfifo(tmp_path / "alive")
    with os.fdopen(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), "rb") as alive:
        grader = own("starts_a_program", limit_s=1.0)
        grades = grader.grade([Submission("x", "1", "", {"folder": str(tmp_path)})])
        assert grades == [Grade(0.0, read=False, fault="no grade within 1 s")]
        # The pipe is at its end, and so readable, once nobody holds its other side.
        assert select.select([alive], [], [], 20)[0]
        assert alive.read() == b""


def test_a_process_that_only_closes_its_output_is_killed(own):
    grades = own("closes_its_output", limit_s=30.0).grade([Submission("x", "1")])
    assert grades == [Grade(0.0, read=False, fault="the grading process closed its output")]


def test_a_function_is_called_in_as_many_processes_as_asked_for(own):
    grader = own("tells_its_process", processes=2)
    assert len(set(scores(grader, *[("x", "1")] * 16))) == 2


def test_a_function_that_raises_makes_its_answer_wrong_and_its_words_stay_out(own):
    grades = own("raises_on_odd").grade([Submission("odd", "1"), Submission("even", "1")])
    assert grades == [Grade(0.0, read=False, fault="ValueError"), Grade(1.0)]


def test_a_process_that_dies_is_a_fault_and_is_started_again(own):
    grader = own("dies")
    for _ in range(2):
        assert grader.grade([Submission("x", "1")]) == [
            Grade(0.0, read=False, fault="the grading process died (exit code 3)")
        ]


def test_scores_that_are_no_share_are_faults(own):
    grades = own("beyond").grade([Submission("x", "1")] * 5)
    assert [grade.fault for grade in grades] == [
        "a score of 2.0; it must be a number in [0, 1]",
        "a score of nan; it must be a number in [0, 1]",
        None,
        None,
        None,
    ]
    assert [(grade.score, grade.read) for grade in grades[2:]] == [(1.0, True), (0.0, False), (1.0, True)]


def test_a_function_that_loses_answers_is_a_fault(own):
    assert own("too_few").grade([Submission("x", "1")]) == [Grade(0.0, read=False, fault="TypeError")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_graders:nothing", "no attribute 'nothing'"),
        ("own_graders:value", "is not a function"),
        ("no_such_module:grade", "No module named 'no_such_module'"),
    ],
)
def test_a_function_that_is_not_there_ends_the_run_at_once(tmp_path, name, words):
    (tmp_path / "own_graders.py").write_text(OWN)
    with pytest.raises(EvaluationError, match=f"the grader '{name}' cannot be started: .*{words}"):
        find_grader(name, beside=tmp_path)


def test_a_lambda_is_called_in_this_process_within_the_limit():
    assert scores(
        find_grader(lambda completions, answer, **_: [float(len(completions) == 2)] * 2), ("a", "1"), ("b", "1")
    ) == [1.0, 1.0]
    ended = threading.Event()
    stuck = find_grader(lambda **_: ended.wait(60), limit_s=0.1)
    try:
        assert stuck.grade([Submission("x", "1")]) == [Grade(0.0, read=False, fault="no grade within 0.1 s")]
    finally:
        ended.set()


def test_a_lambda_that_keeps_hanging_ends_the_run():
    ended = threading.Event()
    stuck = find_grader(lambda **_: ended.wait(60), limit_s=0.05)
    try:
        with pytest.raises(EvaluationError, match="hung 5 times.*name it as 'module:function'"):
            for _ in range(5):
                stuck.grade([Submission("x", "1")])
    finally:
        ended.set()


@pytest.mark.parametrize("named", ["maths", "", "a b:c", "grade"])
def test_an_unknown_grader_is_refused_by_name(named):
    with pytest.raises(ConfigError, match="there is no grader"):
        find_grader(named)


@pytest.mark.parametrize("limit_s", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(limit_s):
    with pytest.raises(ConfigError, match="above 0 seconds and finite"):
        find_grader("a:b", limit_s=limit_s)


def test_the_trainers_questions_reach_the_grader_with_their_columns(own):
    grader = CountingGrader(own("asks"))
    easy = Question((Message("system", "Be brief."), Message("user", "easy?")), "1", "", {"level": 3})
    assert grader.grade([easy, QUESTION], ["x", "y"]) == [1.0, 0.0]


class Failing:
    """A grader that fails on every n-th answer."""

    name = "failing"

    def __init__(self, every: int) -> None:
        self._every, self._seen = every, 0

    def grade(self, attempts):
        grades = []
        for _ in attempts:
            self._seen += 1
            fault = "no grade within 5 s" if self._seen % self._every == 0 else None
            grades.append(Grade(0.0, read=False, fault=fault) if fault else Grade(1.0))
        return grades

    def unreadable(self, references):
        return []

    def close(self):
        pass


def test_faults_are_counted_and_logged_ever_more_rarely(caplog):
    grader = CountingGrader(Failing(every=10), most_faults=0.2, window=100)
    with caplog.at_level(logging.WARNING):
        assert len(grader.grade([QUESTION] * 100, ["private"] * 100)) == 100
    counts = grader.take_counts()
    assert (counts.graded, counts.faults, counts.unread, counts.fault_share) == (100, 10, 0, 0.1)
    assert [record.args[-1] for record in caplog.records] == [1, 2, 4, 8]
    assert "private" not in caplog.text
    assert grader.take_counts().graded == 0


def test_too_many_faults_end_the_run_and_say_why():
    grader = CountingGrader(Failing(every=2), most_faults=0.2, window=100)
    with pytest.raises(EvaluationError, match=r"failed on 21 of the last 42 answers.*no grade within 5 s \(21 times\)"):
        for _ in range(100):
            grader.grade([QUESTION], ["x"])


def test_a_grader_that_loses_answers_ends_the_run():
    class Losing(Failing):
        def grade(self, attempts):
            return []

    with pytest.raises(EvaluationError, match="returned 0 grades for 1 answers"):
        CountingGrader(Losing(1)).grade([QUESTION], ["x"])


class TestMathVerify:
    """math-verify in its process."""

    @pytest.fixture(scope="class")
    @classmethod
    def grader(cls):
        pytest.importorskip("math_verify", reason="needs the extra train")
        grader = find_grader("math", limit_s=2.0)
        yield grader
        grader.close()

    @pytest.mark.parametrize(
        ("answer", "reference", "score"),
        [
            (r"So \boxed{\frac{1}{2}}", "0.5", 1.0),
            (r"\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
            ("The answer is 204.", "204", 1.0),
            (r"\boxed{1,200}", "1200", 1.0),
            (r"\boxed{(1,2)}", "(2,1)", 0.0),
            (r"\boxed{2}", r"The result is $\boxed{2}$", 1.0),
            (r"\boxed{2}", "6 / 3 = 2\n#### 2", 1.0),
            (r"Not \boxed{1}, but \boxed{7}", "7", 1.0),
            (r"Not \boxed{7}, but \boxed{1}", "7", 0.0),
            (r"\boxed{1}, \boxed{2}", "1,2", 0.0),
            (r"The answer is $\frac{1}{2}$.", "0.5", 1.0),
            ("It may be 7, the answer is 3.", "7", 0.0),
        ],
    )
    def test_answers_are_compared_as_mathematics(self, grader, answer, reference, score):
        assert scores(grader, (answer, reference)) == [score]

    def test_it_works_off_the_main_thread(self, grader):
        got = []
        thread = threading.Thread(target=lambda: got.extend(scores(grader, (r"\boxed{2}", "2"))))
        thread.start()
        thread.join(60)
        assert got == [1.0]

    def test_a_formula_that_never_ends_is_wrong_and_the_next_one_is_graded(self, grader):
        grades = grader.grade([Submission(r"\boxed{10^{10^{10^{10}}}}", "3"), Submission(r"\boxed{3}", "3")])
        assert [(grade.score, grade.fault) for grade in grades] == [(0.0, "no grade within 2 s"), (1.0, None)]

    @pytest.mark.parametrize("text", ["no idea", "I tried 3 and then 204, no idea.", "204"])
    def test_a_text_that_states_no_answer_is_not_read(self, grader, text):
        assert grader.grade([Submission(text, "204")]) == [Grade(0.0, read=False)]

    def test_references_that_are_no_mathematics_are_found(self, grader):
        assert grader.unreadable(["204", r"\frac12", "", "?!"]) == [2, 3]

    def test_several_processes_keep_the_order(self):
        pytest.importorskip("math_verify", reason="needs the extra train")
        grader = find_grader("math", processes=2)
        try:
            pairs = [(rf"\boxed{{{number}}}", str(number if number % 3 else -1)) for number in range(1, 12)]
            assert scores(grader, *pairs) == [float(number % 3 != 0) for number in range(1, 12)]
        finally:
            grader.close()

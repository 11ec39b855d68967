"""Shorter forms: rules, screens, verdicts; and the warm-up's forms."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import weights
from toy_pair import family
from transformers import AutoModelForCausalLM

from duet_sdk.errors import ConfigError, TrainingError
from duet_sdk.evaluation.question import Question
from duet_sdk.trainer import sampling, stages, supervised
from duet_sdk.trainer.build import load_tokenizer
from duet_sdk.trainer.config import Propose, TrainConfig
from duet_sdk.trainer.joint import JointTrainer
from duet_sdk.trainer.journal import Journal, read_lines
from duet_sdk.trainer.prompts import PairPrompts, WrittenSignal
from duet_sdk.trainer.proposing.cycle import Cycle, Sampled, Verdict
from duet_sdk.trainer.proposing.rules import DropText, DropWord, apply_all, text_rules, word_rules
from duet_sdk.trainer.proposing.silence import propose_silence
from duet_sdk.trainer.stages import run_training, run_warmup
from duet_sdk.trainer.supervised import Example, Tuning
from duet_sdk.trainer.warmup import form
from duet_sdk.types import Message

TRACE = "monday four add five is nine ; tuesday nine double is eight ;"


def test_words_and_their_neighbours_are_dropped() -> None:
    rules = [DropWord("is"), DropWord(";"), DropWord("monday", "after"), DropWord("tuesday", "after")]
    assert apply_all(rules, TRACE, "") == "monday add five nine tuesday double eight"
    assert apply_all([DropWord("add", "before")], TRACE, "") == TRACE.replace("four ", "")


def test_rules_on_words_come_from_the_signals_themselves() -> None:
    names = {rule.name for rule in word_rules([TRACE, TRACE.replace("four", "two")])}
    assert {"the word 'is'", "the word ';'", "the word after 'monday'"} <= names
    # 'add' always follows what differs, but what follows 'double' is always 'is': that has its own rule.
    assert "the word after 'double'" not in names


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("fillers", "The sum of 2 and 3 is 5. Wait, is it? It is 5, because 2 + 3 = 5."),
        ("doubts", "Okay, the sum of 2 and 3 is 5. It is 5, because 2 + 3 = 5."),
        ("clauses", "Okay, the sum of 2 and 3 is 5. Wait, is it? It is 5."),
        ("first sentence", "Wait, is it? It is 5, because 2 + 3 = 5."),
        ("without numbers", "Okay, the sum of 2 and 3 is 5. It is 5, because 2 + 3 = 5."),
    ],
)
def test_rules_on_text(kind: Any, left: str) -> None:
    signal = "Okay, the sum of 2 and 3 is 5. Wait, is it? It is 5, because 2 + 3 = 5."
    found = DropText(kind).apply(signal, "What is 2 + 3?")
    assert (
        found.lower()
        == (left if kind != "fillers" else "the sum of 2 and 3 is 5. is it? it is 5, because 2 + 3 = 5.").lower()
    )


def test_a_restatement_of_the_question_is_dropped_but_never_the_last_sentence() -> None:
    question = "How many apples has Ann?"
    assert DropText("restatements").apply("How many apples has Ann? She has 4.", question) == "She has 4."
    assert DropText("restatements").apply("How many apples has Ann?", question) == "How many apples has Ann?"
    assert len(text_rules()) == 6


@dataclass(frozen=True)
class Scripted:
    """A pair without models: its signals have a form, its generator needs certain words."""

    prompts: PairPrompts
    signal: str = TRACE
    silent_at: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ("nine", "eight")
    temperature: float = 0.0
    seed: int = 0
    broken: bool = False

    def signals(self, questions: Sequence[Question]) -> list[WrittenSignal]:
        texts = ["" if question.text in self.silent_at else self.signal for question in questions]
        return [WrittenSignal(text, len(text.split()) + 1, cut=False) for text in texts]

    def answers(self, questions: Sequence[Question], signals: Sequence[str]) -> list[str]:
        return [
            question.answer if self._right(question, signal) else "no"
            for question, signal in zip(questions, signals, strict=True)
        ]

    def answer_ids(self, text: str) -> tuple[int, ...]:
        return (1,)

    def _right(self, question: Question, signal: str) -> bool:
        easy = question.text.startswith("dial")
        return easy or (all(word in signal.split() for word in self.needs) and not self.broken)


class Same:
    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [float(question.answer == answer) for question, answer in zip(questions, answers, strict=True)]


@pytest.fixture
def prompts(pair: Path) -> PairPrompts:
    return PairPrompts.of(pair / "reasoner", pair / "generator")


PROPOSING = {
    "cycles": 1,
    "rules": "tokens",
    "signals": 8,
    "held": 8,
    "max_rules": 1,
    "screen_accuracy": 0.0,
    "adapt_steps": 1,
    "tune_steps": 2,
    "batch": 4,
    "learning_rate": 1e-2,
    "back_tracks": 0,
}
"""A cycle of seconds."""

QUESTIONS = tuple(
    Question((Message("user", f"{kind} {number} . now ?"),), "eight")
    for number in family.NUMBERS
    for kind in ("dial at", "mark is")
)


def learner(prompts: PairPrompts, *, breaks_with: str | None = None) -> Callable[..., Any]:
    """Tuning that really changes what the scripted reasoner writes: to what its rows hold."""

    def tune(pair: Scripted, stage: str, rows: Sequence[Example], steps: int) -> Scripted:
        if stage == "generator":
            return pair
        texts = [prompts.signal(row.completion_ids).text for row in rows]
        silent = frozenset(
            question.text
            for question in QUESTIONS
            for row in rows
            if row.prompt_ids == prompts.ask_ids(question.messages) and not prompts.signal(row.completion_ids).text
        )
        written = next((text for text in texts if text), "")
        broken = breaks_with is not None and breaks_with not in written.split()
        return replace(pair, signal=written, silent_at=silent, broken=broken)

    return tune


def test_a_cycle_drops_what_the_generator_does_not_need(prompts: PairPrompts, tmp_path: Path) -> None:
    settings = Propose(cycles=1, rules="tokens", screen_accuracy=1.0)
    cycle = Cycle(settings, Same(), learner(prompts), Journal(tmp_path))
    after = cycle.run(Scripted(prompts), QUESTIONS, QUESTIONS, 1)
    words = after.signal.split()
    assert {"nine", "eight"} <= set(words)
    assert "is" not in words
    assert ";" not in words
    kinds = [row["kind"] for row in read_lines(tmp_path / "decisions.jsonl")]
    assert kinds[0] == "proposal"
    assert kinds[-1] == "verdict"
    screened = {
        str(row["what"]): row["passed"] for row in read_lines(tmp_path / "decisions.jsonl") if row["kind"] == "screen"
    }
    assert screened["the word 'is': 1.000 of 1.000"] is True
    assert screened["the word 'eight': 0.500 of 1.000"] is False


def test_a_cycle_that_costs_accuracy_is_rolled_back_with_ever_fewer_rules(prompts: PairPrompts, tmp_path: Path) -> None:
    settings = Propose(cycles=1, rules="tokens", back_tracks=2)
    before = Scripted(prompts)
    cycle = Cycle(settings, Same(), learner(prompts, breaks_with="nowhere"), Journal(tmp_path))
    assert cycle.run(before, QUESTIONS, QUESTIONS, 1) == before
    verdicts = [row for row in read_lines(tmp_path / "decisions.jsonl") if row["kind"] == "verdict"]
    assert [row["accepted"] for row in verdicts] == [False, False, False]
    counts = [str(row["what"]).count("the word") for row in verdicts]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_rule_that_does_harm_does_not_condemn_the_other_half(prompts: PairPrompts, tmp_path: Path) -> None:
    settings = Propose(cycles=1, rules="tokens", screen_accuracy=1.0, back_tracks=6)
    # The reasoner cannot do without ';', which is among the first rules as it saves most.
    cycle = Cycle(settings, Same(), learner(prompts, breaks_with=";"), Journal(tmp_path))
    words = cycle.run(Scripted(prompts), QUESTIONS, QUESTIONS, 1).signal.split()
    assert ";" in words
    assert len(words) < len(TRACE.split())
    verdicts = [row for row in read_lines(tmp_path / "decisions.jsonl") if row["kind"] == "verdict"]
    assert [row["accepted"] for row in verdicts] == [False] * (len(verdicts) - 1) + [True]


class Never:
    def grade(self, asked: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [0.0 for _ in answers]


def test_a_cycle_without_held_out_questions_or_right_signals_says_so(prompts: PairPrompts, tmp_path: Path) -> None:
    pair, settings = Scripted(prompts), Propose(cycles=1, rules="tokens")
    with pytest.raises(TrainingError, match="set data.holdout"):
        Cycle(settings, Same(), learner(prompts), Journal(tmp_path)).run(pair, QUESTIONS, (), 1)
    with pytest.raises(TrainingError, match="set data.holdout"):
        propose_silence(Cycle(settings, Same(), learner(prompts), Journal(tmp_path)), pair, QUESTIONS, ())
    with pytest.raises(TrainingError, match=f"none of the {len(QUESTIONS)} signals sampled leads to a correct answer"):
        Cycle(settings, Never(), learner(prompts), Journal(tmp_path)).run(pair, QUESTIONS, QUESTIONS, 1)


def test_a_verdict_is_on_so_many_answers_and_tells_its_interval(prompts: PairPrompts, tmp_path: Path) -> None:
    cycle = Cycle(Propose(held=50), Same(), learner(prompts), Journal(tmp_path))
    assert len(cycle.measure_held(Scripted(prompts), QUESTIONS[:4]).grades) == 50
    assert len(cycle.measure_held(Scripted(prompts), QUESTIONS * 3).grades) == 3 * len(QUESTIONS)
    before = Sampled(1.0, 20.0, [], [1.0] * 100)
    held, lost, longer = (
        Verdict.of(before, after, accept_drop=0.015)
        for after in (
            Sampled(0.99, 12.0, [], [1.0] * 99 + [0.0]),
            Sampled(0.98, 12.0, [], [1.0] * 98 + [0.0] * 2),
            Sampled(1.0, 20.0, [], [1.0] * 100),
        )
    )
    assert [held.kept, lost.kept, longer.kept] == [True, False, False]
    assert held.words == ("accepted: accuracy 1.000 → 0.990 (-0.054 to +0.028 on 100 answers), tokens 20.0 → 12.0")


def test_silence_is_proposed_only_where_the_generator_alone_is_right(prompts: PairPrompts, tmp_path: Path) -> None:
    cycle = Cycle(Propose(empty=True), Same(), learner(prompts), Journal(tmp_path))
    after = propose_silence(cycle, Scripted(prompts), QUESTIONS, QUESTIONS)
    assert after.silent_at == {question.text for question in QUESTIONS if question.text.startswith("dial")}


@pytest.mark.parametrize(
    ("style", "found"),
    [
        ("whole", "Plan it. Then 2 + 2 = 4. Fine. So 4."),
        ("numbers", "Then 2 + 2 = 4. So 4."),
        ("plan", "Plan it. So 4."),
        ("empty", ""),
    ],
)
def test_the_forms_of_the_warm_up(style: str, found: str) -> None:
    assert form("Plan it. Then 2 + 2 = 4. Fine. So 4.", style, random.Random(0)) == found


def test_dropping_keeps_the_last_sentence_and_varies() -> None:
    rng = random.Random(0)
    found = {form("One. Two. Three. Four.", "dropped", rng) for _ in range(40)}
    assert len(found) > 4
    assert all(text.endswith("Four.") for text in found)


def start_weights(folder: Path) -> torch.Tensor:
    return weights(AutoModelForCausalLM.from_pretrained(folder))


def test_a_warm_up_tunes_both_models_and_says_what_it_kept(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer], pair: Path
) -> None:
    config = configure(warmup={"questions": 16, "keep": 0.25, "checks": 2, "batch": 4, "learning_rate": 1e-3})
    report = run_warmup(config, trainer=trainer(config))
    assert report["asked"] == 16
    assert set(report["kept"]) == {"whole", "dropped", "numbers", "plan"}  # type: ignore[arg-type]
    for stage in ("reasoner", "generator"):
        assert not torch.equal(start_weights(config.output / "warm" / stage), start_weights(pair / stage))
        assert (config.output / "warm" / stage / "chat_template.jinja").is_file()


def test_a_warm_up_in_which_nothing_is_right_says_so(
    configure: Callable[..., TrainConfig], questions: tuple[Question, ...]
) -> None:
    config = configure(warmup={"questions": 4})
    with pytest.raises(TrainingError, match="with no form of the 4 signals"):
        run_warmup(config, trainer=JointTrainer(config, questions=questions, grader=Never()))


def test_a_warm_up_on_several_processes_is_refused(
    configure: Callable[..., TrainConfig], trainer: Callable[[TrainConfig], JointTrainer]
) -> None:
    joint = trainer(configure())
    joint.processes = 2
    with pytest.raises(ConfigError, match="warm-up runs on one process"):
        run_warmup(joint.config, trainer=joint)


def test_a_run_proposes_once_and_trains_what_that_left(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(propose=PROPOSING, training={"rounds": 1, "save_every": 0})
    # Random models learn nothing to accept by in two steps.
    monkeypatch.setattr(Verdict, "of", classmethod(lambda cls, *_given, **_named: cls(True, "accepted: by a test")))
    trained = run_training(config, trainer=trainer(config))
    kinds = [row["kind"] for row in read_lines(config.output / "decisions.jsonl")]
    assert [kind for kind in kinds if kind != "screen"] == ["proposal", "verdict"]
    assert "screen" in kinds
    proposed = {stage: start_weights(config.output / "proposed" / stage) for stage in ("reasoner", "generator")}
    for stage, model in (("reasoner", trained.reasoner), ("generator", trained.generator)):
        # One round at 1e-3 moves no weight further than its rate, two steps at 1e-2 do.
        assert (weights(model) - proposed[stage]).abs().max() < 2e-3
    run_training(config, resume=True, trainer=trainer(config))
    assert [row["kind"] for row in read_lines(config.output / "decisions.jsonl")] == [*kinds, "resume"]
    other = configure(propose={**PROPOSING, "max_rules": 2}, training={"rounds": 1, "save_every": 0})
    with pytest.raises(TrainingError, match="propose.max_rules: 1 → 2"):
        run_training(other, resume=True, trainer=trainer(other))


def test_a_run_that_was_killed_among_its_proposals_is_resumed(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(propose={**PROPOSING, "cycles": 2}, training={"rounds": 1, "save_every": 0})
    with pytest.raises(TrainingError, match="no run to resume"):
        run_training(config, resume=True, trainer=trainer(config))
    cycle = Cycle.run

    def killed_at_the_second(*given: Any) -> Any:
        if given[-1] == 2:
            raise KeyboardInterrupt
        return cycle(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Cycle, "run", killed_at_the_second)
        run_training(config, trainer=trainer(config))
    assert run_training(config, resume=True, trainer=trainer(config)).rounds == 1


def test_a_later_cycle_takes_other_questions_as_far_as_there_are(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Sequence[Question]] = []

    def seeing(_cycle: Cycle, pair: Any, questions: Sequence[Question], *_rest: Any) -> Any:
        asked.append(questions)
        return pair

    monkeypatch.setattr(Cycle, "run", seeing)
    joint = trainer(configure(training={"rounds": 1, "save_every": 0}))
    half = len(joint.questions) // 2
    config = configure(propose={**PROPOSING, "cycles": 2, "signals": half}, training={"rounds": 1, "save_every": 0})
    run_training(config, trainer=trainer(config))
    assert [list(one) for one in asked] == [list(joint.questions[:half]), list(joint.questions[half : 2 * half])]
    assert asked[0] != asked[1]


def test_supervised_tuning_takes_the_models_own_settings(
    configure: Callable[..., TrainConfig],
    trainer: Callable[[TrainConfig], JointTrainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tuning] = []

    def spying(model: Any, tokenizer: Any, rows: Any, tuning: Tuning, **named: Any) -> Any:
        seen.append(tuning)
        return supervised.tune(model, tokenizer, rows, tuning, **named)

    monkeypatch.setattr(stages, "tune", spying)
    config = configure(
        reasoner={"gradient_accumulation": 2, "optimizer": "sgd", "gradient_checkpointing": False},
        generator={"gradient_checkpointing": True},
        warmup={"questions": 8, "keep": 0.0, "checks": 1, "batch": 4, "styles": ["whole"]},
    )
    run_warmup(config, trainer=trainer(config))
    assert [(one.passes, one.optimizer, one.gradient_checkpointing) for one in seen] == [
        (2, "sgd", False),
        (1, "adamw_torch", True),
    ]


def test_a_tuned_model_can_be_copied_and_tuned_again(pair: Path, tmp_path: Path) -> None:
    model, words = AutoModelForCausalLM.from_pretrained(pair / "reasoner"), load_tokenizer(pair / "reasoner")
    tuning = Tuning(learning_rate=1e-2, batch=4, steps=5, use_cpu=True)
    prompt, written = torch.tensor([[1, 2, 3, 4, 5]]), []
    for _ in range(3):
        written.append(model(prompt).logits.detach())
        row = Example((1, 2, 3), (4, 5))
        model = supervised.tune(copy.deepcopy(model), words, [row] * 4, tuning, folder=tmp_path)
    assert not torch.equal(written[0], written[1])
    assert not torch.equal(written[1], written[2])


def test_samples_are_drawn_together_as_far_as_tokens_allow() -> None:
    assert [len(batch) for batch in sampling._batches([10] * 600, 48)] == [256, 256, 88]
    # 8 · (8192 + 7000) tokens are within 131,072, nine are not.
    assert [len(batch) for batch in sampling._batches([7000] * 18, 8192)] == [8, 8, 2]
    assert list(sampling._batches([30, 10, 200_000], 5)) == [[1, 0], [2]]

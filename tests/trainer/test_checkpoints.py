"""Which checkpoints are whole, which both policies have, and what may change on resumption."""

from __future__ import annotations

from pathlib import Path

import pytest

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.checkpoints import Checkpoints, refuse_changes
from duet_sdk.trainer.journal import Journal, read_lines


def save(run: Path, stage: str, step: int, *, marked: bool = True) -> Path:
    checkpoints = Checkpoints(run)
    folder = checkpoints.folder(stage, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    if marked:
        checkpoints.mark(stage, step, {"round": step})
    return folder


def test_resumption_is_from_the_last_step_that_both_have(tmp_path: Path) -> None:
    for stage, steps in (("reasoner", (5, 10)), ("generator", (5, 10, 15))):
        for step in steps:
            save(tmp_path, stage, step)
    assert Checkpoints(tmp_path).last_common() == 10
    assert Checkpoints(tmp_path).state("generator", 10) == {"round": 10}


def test_a_checkpoint_that_a_killed_process_left_half_does_not_count(tmp_path: Path) -> None:
    for stage in ("reasoner", "generator"):
        save(tmp_path, stage, 5)
    save(tmp_path, "reasoner", 10, marked=False)
    (save(tmp_path, "generator", 10) / "weights").write_bytes(b"12")
    assert Checkpoints(tmp_path).common() == [5]


def test_a_checkpoint_of_one_policy_only_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, "reasoner", 5)
    with pytest.raises(TrainingError, match=r"reasoner has \[5\], generator has none"):
        Checkpoints(tmp_path).last_common()


def test_before_the_first_checkpoint_of_both_there_is_nothing_to_resume_from(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).last_common() is None
    save(tmp_path, "generator", 5)
    save(tmp_path, "reasoner", 5, marked=False)
    assert Checkpoints(tmp_path).last_common() is None
    save(tmp_path, "generator", 10)
    with pytest.raises(TrainingError, match=r"reasoner has none, generator has \[5, 10\]"):
        Checkpoints(tmp_path).last_common()


def test_what_is_later_or_half_is_removed_before_a_course_is_taken_again(tmp_path: Path) -> None:
    for stage in ("reasoner", "generator"):
        save(tmp_path, stage, 5)
    later, half = save(tmp_path, "generator", 10), save(tmp_path, "reasoner", 3, marked=False)
    Checkpoints(tmp_path).forget_after(5)
    assert Checkpoints(tmp_path).common() == [5]
    assert not later.exists()
    assert not half.exists()


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    old = {"objective": {"alpha": 0.3}, "training": {"rounds": 10}, "seed": 0}
    refuse_changes(old, {**old, "training": {"rounds": 20}}, run=tmp_path)
    with pytest.raises(TrainingError, match=r"objective.alpha: 0.3 → 0.5"):
        refuse_changes(old, {**old, "objective": {"alpha": 0.5}}, run=tmp_path)


def test_a_sample_with_any_sign_of_unicode_is_one_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    row = {"round": 1, "signal": "a\u2028b\u0085c\x0bd\re"}
    journal.sample(row)
    journal.forget_after(1)
    assert read_lines(tmp_path / "samples.jsonl") == [row]


def test_a_resumed_run_makes_later_rounds_again_and_keeps_its_decisions(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(1, 5):
        journal.metrics({"round": number, "guided": float("nan")})
        journal.decision("warning", "something", round=number)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 5, "gui')
    journal.forget_after(2)
    assert [row["round"] for row in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert read_lines(tmp_path / "metrics.jsonl")[0]["guided"] is None
    assert len(read_lines(tmp_path / "decisions.jsonl")) == 4


def test_a_validation_that_is_made_again_is_dropped_with_its_samples(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (1, 2):
        journal.metrics({"round": number, "phase": "train"})
        journal.metrics({"round": number, "phase": "validation"})
        journal.sample({"round": number})
    journal.forget_validation(2)
    rows = [(row["round"], row["phase"]) for row in read_lines(tmp_path / "metrics.jsonl")]
    assert rows == [(1, "train"), (1, "validation"), (2, "train")]
    assert [row["round"] for row in read_lines(tmp_path / "samples.jsonl")] == [1]

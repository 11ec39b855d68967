"""When a run is warned of, and when it has collapsed."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from duet_sdk.trainer.collapse import CollapseState, Finding, observe, observe_entropy
from duet_sdk.trainer.config import Guard
from duet_sdk.trainer.round import RoundFacts

GOOD = RoundFacts(
    guided=0.9,
    alone=0.2,
    tokens_mean=40.0,
    tokens_p50=40.0,
    tokens_p95=50.0,
    empty=0.0,
    cut=0.0,
    leak_rate=1.0,
    reward=0.8,
    zero_variance=0.3,
    lam=0.0,
)


def observed(rounds: list[RoundFacts], guard: Guard) -> tuple[CollapseState, list[list[Finding]]]:
    state, noticed = CollapseState(), []
    for facts in rounds:
        state, findings = observe(state, facts, guard)
        noticed.append(findings)
    return state, noticed


def test_a_run_that_holds_its_accuracy_is_left_alone() -> None:
    state, noticed = observed([GOOD] * 30, Guard())
    assert noticed == [[]] * 30
    assert state.good


def test_accuracy_far_below_what_was_reached_is_a_collapse_after_some_rounds() -> None:
    bad = replace(GOOD, guided=0.2, empty=1.0, tokens_mean=1.0)
    _, noticed = observed([GOOD] * 10 + [bad] * 5, Guard(patience=5))
    assert [[finding.kind for finding in findings] for findings in noticed[10:]] == [
        *[["warning"]] * 4,
        ["collapse"],
    ]
    assert "100% of the signals are empty" in noticed[-1][0].what


def test_a_low_accuracy_that_is_lost_is_a_collapse_too() -> None:
    low, lost, held = (replace(GOOD, guided=guided) for guided in (0.15, 0.0, 0.08))
    assert observed([low] * 10 + [lost] * 5, Guard(drop=0.1, patience=5))[1][-1][0].kind == "collapse"
    assert observed([low] * 10 + [held] * 5, Guard(drop=0.1, patience=5))[1][10:] == [[]] * 5


def test_accuracy_that_slips_is_told_once_in_a_while() -> None:
    less = replace(GOOD, guided=0.72)
    state, noticed = observed([GOOD] * 10 + [less] * 20, Guard(drop=0.1, patience=5))
    told = [at for at, findings in enumerate(noticed) if findings]
    assert len(told) == 3
    assert [told[1] - told[0], told[2] - told[1]] == [5, 5]
    assert state.good


def test_one_bad_round_is_no_collapse_and_is_forgotten() -> None:
    bad = replace(GOOD, guided=0.5)
    state, noticed = observed(([GOOD] * 10 + [bad]) * 5, Guard(patience=2))
    assert all(finding.kind == "warning" for findings in noticed for finding in findings)
    assert not state.good
    assert observed([GOOD] * 10 + [bad, GOOD], Guard())[0].good


def test_empty_signals_at_held_accuracy_are_what_was_wanted() -> None:
    silent = replace(GOOD, empty=1.0, tokens_mean=1.0)
    assert observed([GOOD] * 10 + [silent] * 20, Guard())[1][-1] == []


def test_empty_signals_make_half_the_loss_a_collapse() -> None:
    worse = replace(GOOD, guided=0.75, empty=0.95)
    assert observed([GOOD] * 10 + [worse] * 3, Guard(patience=3))[1][-1][0].kind == "collapse"
    assert observed([GOOD] * 10 + [replace(worse, empty=0.5)] * 3, Guard(patience=3))[1][-1] == []


def test_groups_without_variance_are_told_once_in_a_while() -> None:
    alike = replace(GOOD, zero_variance=1.0)
    _, noticed = observed([alike] * 10, Guard(patience=5))
    assert [at for at, findings in enumerate(noticed) if findings] == [4, 9]


def test_low_entropy_is_told() -> None:
    state, found = CollapseState(), []
    for _ in range(5):
        state, found = observe_entropy(state, 0.01, Guard(entropy_floor=0.05, patience=5))
    assert "below the floor" in found[0].what
    assert observe_entropy(state, 0.2, Guard(entropy_floor=0.05))[0].low_entropy == 0

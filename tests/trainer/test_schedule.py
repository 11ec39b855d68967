"""How lambda moves: the paper's numbers by hand, and what no schedule may ever do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.config import Objective, ScheduleName
from duet_sdk.trainer.schedule import ScheduleState, advance, highest, start

rounds = st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9000)), max_size=40)


def run(objective: Objective, seen: list[tuple[float, float]]) -> list[ScheduleState]:
    states = [start(objective)]
    for accuracy, length in seen:
        states.append(advance(states[-1], objective, accuracy=accuracy, length=length))
    return states


def test_dual_ascent_by_hand() -> None:
    paper = Objective(reward="additive", schedule="dual", eta=0.01, budget_tokens=1000)
    # 0.01·(1500/1000 - 1); then 0.005 + 0.01·(3000/1000 - 1); then 0.025 + 0.01·(650/1000 - 1)
    found = run(paper, [(0.5, 1500), (0.5, 3000), (0.5, 650)])
    assert [state.lam for state in found] == pytest.approx([0.0, 0.005, 0.025, 0.0215])


def test_dual_ascent_stays_at_zero_while_signals_are_short() -> None:
    paper = Objective(reward="additive", schedule="dual", budget_tokens=1000)
    assert run(paper, [(1.0, 400)])[-1].lam == 0


def test_dual_ascent_rises_also_when_accuracy_falls_and_guarded_does_not() -> None:
    falling = [(1.0, 2000)] * 6 + [(0.2, 2000)] * 20
    dual = Objective(reward="additive", schedule="dual", budget_tokens=1000, eta=0.02)
    guarded = dual.model_copy(update={"schedule": "guarded"})
    assert run(dual, falling)[-1].lam > 0.4
    assert run(guarded, falling)[-1].lam < 1e-6


def test_guarded_rises_while_accuracy_holds_up_to_its_cap() -> None:
    objective = Objective(reward="additive", schedule="guarded", budget_tokens=1000, eta=0.02, cap=0.5)
    states = run(objective, [(1.0, 4000)] * 200)
    assert states[6].lam > 0
    # cap · B / first length: a first-round signal costs half a right answer at most.
    assert states[-1].lam == pytest.approx(0.5 * 1000 / 4000)


def test_guarded_halves_lambda_on_a_sharp_drop_and_lowers_it_in_steps_on_a_small_one() -> None:
    objective = Objective(reward="additive", schedule="guarded", budget_tokens=1000, eta=0.01, warm_rounds=2, lam=0.1)
    held = [(0.9, 1500)] * 2
    # Round 3 keeps accuracy: 0.1 + 0.01·min(1500/1000 - 1, 1); its length takes no part in the cap of 0.5·1000/1500.
    assert run(objective, [*held, (0.9, 1500)])[-1].lam == pytest.approx(0.105)
    # 0.79 is more than 5 tolerances of 0.02 below 0.9.
    assert run(objective, [*held, (0.79, 1500)])[-1].lam == pytest.approx(0.05)
    # 0.81 once makes 0.8·0.9 + 0.2·0.81 = 0.882, which is tolerated; twice makes 0.8676, 0.0124 below 0.88.
    small = run(objective, [*held, (0.81, 1500), (0.81, 1500)])
    assert [state.lam for state in small[-2:]] == pytest.approx([0.105, 0.105 - 40 * 0.01 * 0.0124])


def test_pi_by_hand() -> None:
    objective = Objective(reward="additive", schedule="pi", budget_tokens=1000, warm_rounds=2, lam=0.1)
    found = run(objective, [(0.9, 1500)] * 3 + [(0.8, 1500)])
    # Gap 0.02 at first, with no change known: 0.1·exp(2·0.02). Then 0.88 - 0.88 = 0: the change of -0.02 counts
    # four times.
    assert found[3].lam == pytest.approx(0.1 * 1.0408107742)
    assert found[4].lam == pytest.approx(0.1 * 1.0408107742 * 0.9231163464)


@given(rounds, st.sampled_from(["constant", "dual", "guarded", "pi"]))
def test_lambda_stays_within_its_bounds(seen: list[tuple[float, float]], schedule: ScheduleName) -> None:
    objective = Objective(reward="additive", schedule=schedule, budget_tokens=500, eta=0.3, lam=0.1, lam_max=0.7)
    assert all(0 <= state.lam <= 0.7 for state in run(objective, seen))


@given(rounds, st.sampled_from(["guarded", "pi"]))
def test_the_penalty_of_a_first_round_signal_never_passes_the_cap(
    seen: list[tuple[float, float]], schedule: ScheduleName
) -> None:
    objective = Objective(reward="additive", schedule=schedule, budget_tokens=500, eta=0.3, cap=0.4)
    for state in run(objective, seen):
        if state.first_length:
            assert state.lam * state.first_length / 500 <= 0.4 + 1e-9
            assert state.lam <= highest(state, objective)


@given(rounds)
def test_a_state_survives_json_to_the_last_bit(seen: list[tuple[float, float]]) -> None:
    state = run(Objective(reward="additive", schedule="pi"), seen)[-1]
    assert ScheduleState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(TrainingError, match="older checkpoint"):
        ScheduleState.from_json({"lam": 0.1, "surprise": 1})

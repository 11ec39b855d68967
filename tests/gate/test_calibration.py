"""Thresholds from scored examples, and the file that keeps them."""

import json
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk import AsyncDuetClient
from duet_sdk.errors import ConfigError
from duet_sdk.gate import Confidence, Heuristic, Race, find_gate
from duet_sdk.gate.calibration import Calibration, Measured, Scored, find_threshold
from duet_sdk.policies import GateConfig

MEASURED = Measured(on="my-questions.jsonl", questions=200, accuracy=0.79, always=0.8, never=0.55, asked=0.4)


def calibration(**given):
    return Calibration(
        **{
            "policy": "confidence",
            "threshold": 0.35,
            "reasoner": "scripted/a",
            "generator": "scripted/b",
            "measured": MEASURED,
            **given,
        }
    )


def test_the_threshold_asks_least_often_of_all_that_keep_the_accuracy():
    examples = [
        Scored(0.9, alone=0, pair=1),
        Scored(0.7, alone=0, pair=1),
        Scored(0.5, alone=1, pair=1),
        Scored(0.2, alone=1, pair=0),
    ]
    found = find_threshold(examples, keep=1)
    # Asking for the hardest alone gives 3 of 4 right, as always asking does: the generator has one of its own.
    assert (found.threshold, found.accuracy, found.asked) == (0.9, 0.75, 0.25)
    assert (found.always, found.never, found.questions) == (0.75, 0.5, 4)


def test_questions_of_one_score_are_asked_together():
    found = find_threshold([Scored(0.5, 0, 1), Scored(0.5, 1, 1), Scored(0.1, 1, 1)], keep=1)
    assert (found.threshold, found.asked) == (0.5, 2 / 3)


def test_where_the_generator_alone_is_as_good_nobody_is_asked():
    found = find_threshold([Scored(0.3, 1, 1), Scored(1.0, 1, 0)])
    assert (found.asked, found.threshold) == (0.0, math.nextafter(1, 2))
    # A file can hold that threshold, and the gate then never asks.
    assert calibration(threshold=found.threshold).threshold == found.threshold


@given(
    st.lists(
        st.builds(Scored, st.floats(0, 1), alone=st.sampled_from([0, 0.5, 1]), pair=st.sampled_from([0, 0.5, 1])),
        min_size=1,
        max_size=30,
    ),
    st.floats(0, 1),
)
def test_what_is_found_does_to_its_examples_what_it_says(examples, keep):
    found = find_threshold(examples, keep=keep)

    def accuracy(threshold):
        return math.fsum(e.pair if e.score >= threshold else e.alone for e in examples) / len(examples)

    assert found.accuracy == pytest.approx(accuracy(found.threshold))
    assert found.asked == pytest.approx(sum(e.score >= found.threshold for e in examples) / len(examples))
    assert found.accuracy >= keep * found.always - 1e-9
    for other in {e.score for e in examples}:
        if sum(e.score >= other for e in examples) < round(found.asked * len(examples)):
            assert accuracy(other) < keep * found.always + 1e-9


@pytest.mark.parametrize(
    ("examples", "keep", "message"),
    [
        ([], 1, "there are none"),
        ([Scored(math.nan, 0, 1)], 1, "example 1 must be a finite number"),
        ([Scored(0.1, 0, 1), Scored(0.1, 0, 2)], 1, "grades of example 2"),
        ([Scored(0.1, 0, 1)], 1.5, "keep must be between 0 and 1, got 1.5"),
    ],
)
def test_examples_that_tell_nothing_are_refused(examples, keep, message):
    with pytest.raises(ConfigError, match=message):
        find_threshold(examples, keep=keep)


def test_a_saved_calibration_is_loaded_as_it_was(tmp_path):
    kept = calibration(first_tokens=8, alone_output_tokens=812.5)
    kept.save(tmp_path / "pair.json")
    assert Calibration.load(tmp_path / "pair.json") == kept
    assert [path.name for path in tmp_path.iterdir()] == ["pair.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: JSONDecodeError"),
        ("[]", "schema_version None"),
        ('{"schema_version": 2}', "schema_version 2, but this version of DUET reads 1"),
        ('{"schema_version": 1}', "policy: Field required"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text, message):
    (tmp_path / "pair.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Calibration.load(tmp_path / "pair.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json does not exist"):
        Calibration.load(tmp_path / "nowhere.json")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        calibration().save(tmp_path / "missing" / "pair.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "always"}, "policy"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"weights": {"length": 1}}, "weights are for the policy heuristic"),
        ({"policy": "heuristic", "first_tokens": 4}, "first_tokens is for"),
        ({"policy": "heuristic", "weights": {"lenght": 1}}, "no feature 'lenght'"),
        ({"treshold": 1}, "treshold"),
    ],
)
def test_a_file_with_numbers_that_cannot_be_is_refused(tmp_path, given, message):
    told = json.loads(calibration().model_dump_json())
    (tmp_path / "pair.json").write_text(json.dumps({**told, **given}))
    with pytest.raises(ConfigError, match=message):
        Calibration.load(tmp_path / "pair.json")


def test_a_gate_by_name_takes_its_numbers_from_the_calibration():
    assert find_gate("confidence", calibration(first_tokens=8)) == Confidence(0.35, 8)
    assert find_gate("race", calibration()) == Race(0.35)
    weighted = calibration(policy="heuristic", weights={"length": 1.0})
    assert find_gate("heuristic", weighted) == Heuristic(0.35, {"length": 1.0})


def test_numbers_of_ones_own_go_over_the_calibration():
    assert find_gate(GateConfig("race", threshold=0.0, first_tokens=4), calibration(first_tokens=8)) == Race(0.0, 4)


def test_a_calibration_of_another_policy_changes_nothing():
    assert find_gate("heuristic", calibration()) == Heuristic()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (("sometimes",), "known: always, never, heuristic, confidence, race"),
        (("always", 0.5), "takes no threshold"),
        (("race", 1.5), "between 0 and 1"),
        (("heuristic", 0.5, 8), "judges no tokens"),
        (("race", 0.5, 0), "at least 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        GateConfig(*config)


async def test_the_calibrations_gate_is_the_clients_default(tmp_path):
    calibration(policy="heuristic", threshold=0.0).save(tmp_path / "pair.json")
    async with AsyncDuetClient("scripted/a", "scripted/b", calibration=tmp_path / "pair.json") as duet:
        reply = await duet.chat("Hello!")
        assert (reply.gate.policy, reply.gate.threshold, reply.gate.ask) == ("heuristic", 0.0, True)
        # A request can still take another one.
        assert (await duet.chat("Hello!", gate=GateConfig("heuristic", 0.9))).served_by == "generator"


async def test_the_receipt_estimates_the_reasoner_alone_by_the_calibration():
    async with AsyncDuetClient(
        "scripted/a", "scripted/b", gate="always", calibration=calibration(alone_output_tokens=800.4)
    ) as duet:
        reply = await duet.chat("q")
    assert (reply.receipt.reasoner_only.output_tokens, reply.receipt.reasoner_only.basis) == (800, "calibration")


async def test_other_models_than_the_calibrations_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "duet_sdk"):
        AsyncDuetClient("scripted/a", "scripted/other", gate="always", calibration=calibration())
    assert [record.getMessage() for record in caplog.records] == [
        "the calibration was made with the generator scripted/b, but scripted/other is in use: calibrate again"
    ]


async def test_the_same_models_at_another_address_are_not_warned_of(caplog):
    measured = calibration(reasoner="vllm/big@http://one:1/v1", generator="vllm/small")
    with caplog.at_level(logging.WARNING, "duet_sdk"):
        AsyncDuetClient("vllm/big@http://127.0.0.1:1/v1", "vllm/small@http://127.0.0.1:2/v1", calibration=measured)
    assert caplog.records == []


def test_a_byte_order_mark_in_front_of_a_calibration_is_read_over(tmp_path):
    calibration().save(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "c.json").read_bytes())
    assert Calibration.load(tmp_path / "c.json") == calibration()
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="cannot be read: RecursionError"):
        Calibration.load(tmp_path / "c.json")

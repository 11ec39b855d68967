"""Lists of models and replies of tokenizers, in the form of each server."""

from __future__ import annotations

import pytest

from duet_sdk.backends.answers.listing import MOST_MODELS, model_cards, token_ids


@pytest.mark.parametrize(
    "listed",
    [
        {"object": "list", "data": [{"id": "m"}]},
        {"models": [{"name": "m", "model": "m"}], "object": "list", "data": [{"id": "m"}]},
        {"models": [{"name": "m"}]},
        {"result": [{"name": "m"}], "success": True},
        [{"id": "m"}],
        ["m"],
        {"data": [None, 7, {}, {"id": None}, {"id": "m"}, {"id": "m", "root": "x"}]},
    ],
)
def test_a_list_of_models_is_read_in_each_form(listed: object) -> None:
    assert list(model_cards(listed) or ()) == ["m"]


@pytest.mark.parametrize("listed", [None, 7, "m", {}, {"data": None}, {"data": {"id": "m"}}])
def test_what_is_no_list_of_models_is_none(listed: object) -> None:
    assert model_cards(listed) is None


def test_a_list_without_end_is_read_as_far_as_any_list_goes() -> None:
    assert len(model_cards([f"m{at}" for at in range(2 * MOST_MODELS)]) or ()) == MOST_MODELS


@pytest.mark.parametrize(
    "answer",
    [
        {"tokens": [1, 2]},
        {"tokens": [{"id": 1, "piece": "a"}, {"id": 2, "piece": [195]}]},
        [{"id": 1}, {"id": 2}],
        [1, 2],
    ],
)
def test_token_ids_are_read_in_each_form(answer: object) -> None:
    assert token_ids(answer) == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "x",
        {},
        {"tokens": None},
        {"tokens": [1.0]},
        {"tokens": [True]},
        {"tokens": [{"id": "1"}]},
        {"tokens": [[1]]},
    ],
)
def test_what_is_no_token_ids_is_none(answer: object) -> None:
    assert token_ids(answer) is None


def test_a_text_of_no_tokens_has_none() -> None:
    assert token_ids({"tokens": []}) == []

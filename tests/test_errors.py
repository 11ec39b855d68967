"""Errors as values: they go through pickles, as pools of processes send them, and hold no cause there."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from duet_sdk import errors

GIVEN = {
    "BoundaryRefused": errors.BoundaryRefused(model="a/b", boundary="eu", allowed=frozenset({"local"})),
    "MissingExtra": errors.MissingExtra("this", extra="train"),
    "ContextOverflow": errors.ContextOverflow("too long", model="m", needed_tokens=9, context_tokens=8),
    "StreamBroken": errors.StreamBroken("cut", partial="17", backend="vllm", model="m", status=500),
    "RateLimited": errors.RateLimited("wait", backend="vllm", model="m", retry_after=3.0),
    "ConfigError": errors.ConfigError("no such setting"),
}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("sent", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_comes_back_from_a_pickle_or_a_copy_as_it_was(name, sent):
    error = GIVEN[name]
    error.__cause__ = ValueError("a cause with secrets")
    back = sent(error)
    assert (type(back), str(back), back.args, vars(back)) == (type(error), str(error), error.args, vars(error))
    assert b"secrets" not in pickle.dumps(error)


def test_every_error_can_be_pickled():
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.DuetError):
            error = kind.__new__(kind, "message")
            assert str(pickle.loads(pickle.dumps(error))) == "message"

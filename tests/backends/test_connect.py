"""Backends of other packages, by their entry points."""

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from duet_sdk.backends import connect as connecting
from duet_sdk.backends.connect import connect, with_tokenizer
from duet_sdk.backends.scripted import Scripted
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import ConfigError


def echoing(model, options):
    return Scripted(model, model=f"{model} {sorted(options)}")


def duck(model, options):
    return SimpleNamespace(name="duck", model=model)


@pytest.fixture
def others(monkeypatch):
    points = [EntryPoint(name, f"{__name__}:{name}", connecting.GROUP) for name in ("echoing", "duck")]
    monkeypatch.setattr(connecting, "entry_points", lambda group: points if group == connecting.GROUP else [])


def test_a_backend_of_another_package_is_made_with_its_options(others):
    name, backend = connect(Endpoint(model="echoing/x", base_url="http://127.0.0.1:1/v1"))
    assert name == "echoing/x"
    assert backend.model == "x ['base_url']"


def test_what_another_package_makes_must_be_a_backend(others):
    with pytest.raises(ConfigError, match="'duck' .* made a SimpleNamespace, which does not derive from duet_sdk"):
        connect("duck/x")


def test_a_tokenizer_is_named_to_servers_that_have_none(tmp_path):
    other, own = Scripted("x"), Endpoint(model="vllm/m", options={"tokenizer": "own"})
    given = ["vllm/m", Endpoint(model="vllm/m"), own, "scripted/x", other]
    named, endpoint, *unchanged = with_tokenizer(given, tmp_path)
    assert (named._tokenizer, endpoint._tokenizer) == (str(tmp_path), str(tmp_path))
    assert unchanged == [own, "scripted/x", other]
    assert with_tokenizer("scripted/x", tmp_path) == "scripted/x"

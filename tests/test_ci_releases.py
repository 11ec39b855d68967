"""`.ci/releases`: which release broke what, with environments and test runs that are only written down."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "releases"
SEEN = {"litellm": "1.108.7", "httpx2": "2.15.0", "pytest": "9.0.0", "idna": "3.0"}
NEWEST = {"litellm": "1.110.2", "httpx2": "2.16.2", "pytest": "9.0.0", "idna": "3.1"}
REQUIREMENTS = ["# of the proxy", "litellm>=1.106,<1.111", "httpx2>=2.10,<3", "pytest>=8"]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loader = SourceFileLoader("ci_releases", str(SCRIPT))
    spec = importlib.util.spec_from_loader("ci_releases", loader)
    assert spec is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "SEEN", tmp_path / "seen")
    monkeypatch.setattr(module.runpy, "run_path", lambda _: {"requirements": lambda _name: REQUIREMENTS})
    module.installed = {}

    def environment(name: str, what: str, requirements: list[str], *options: str) -> str:
        pinned = dict(line.split("==") for line in requirements if "==" in line)
        module.installed[what] = dict(NEWEST) if what == "newest" else pinned
        return what

    def install(folder: str, one: str) -> None:
        module.installed[folder].update([one.split("==")])

    monkeypatch.setattr(module, "environment", environment)
    monkeypatch.setattr(module, "install", install)
    monkeypatch.setattr(module, "versions", lambda folder: dict(module.installed[folder]))
    return module


def record(script: Any) -> None:
    script.SEEN.mkdir()
    (script.SEEN / "litellm.txt").write_text("".join(f"{name}=={version}\n" for name, version in SEEN.items()))


def fails_with(script: Any, monkeypatch: pytest.MonkeyPatch, **broken: str) -> None:
    """The tests fail wherever all of these versions are installed."""
    monkeypatch.setattr(script, "passes", lambda _, folder: not broken.items() <= script.installed[folder].items())


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("litellm[proxy]>=1.106.2,<1.111", "litellm[proxy]>=1.106.2"),
        ("openai-agents>=0.24,<0.25 ; python_version < '4'", "openai-agents>=0.24; python_version < '4'"),
        ("arize-phoenix==20.26.1", "arize-phoenix>=20.26.1"),
        ("httpx<1", "httpx"),
        ("pytest", "pytest"),
        ("# a comment, <2", ""),
    ],
)
def test_an_upper_bound_is_left_out(script: Any, given: str, left: str) -> None:
    assert script.without_upper_bound(given) == left


def test_versions_that_pass_are_recorded_when_asked(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(script, monkeypatch, litellm="0")
    assert script.judge("litellm", record=False)[0]
    assert not script.SEEN.exists()
    assert script.judge("litellm", record=True)[0]
    assert script.read_seen("litellm") == NEWEST


def test_the_release_that_broke_it_is_named(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record(script)
    fails_with(script, monkeypatch, litellm="1.110.2")
    assert script.judge("litellm", record=True) == (False, "broken by litellm 1.108.7 -> 1.110.2")
    assert script.read_seen("litellm") == SEEN


def test_two_that_break_it_only_together(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record(script)
    fails_with(script, monkeypatch, litellm="1.110.2", httpx2="2.16.2")
    passed, said = script.judge("litellm", record=False)
    assert not passed
    assert "by none alone" in said


def test_a_fault_that_is_no_releases(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "passes", lambda *_: False)
    assert "no earlier ones are on record" in script.judge("litellm", record=False)[1]
    record(script)
    assert "not a release's" in script.judge("litellm", record=False)[1]

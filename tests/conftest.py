"""What all tests share: no DUET settings from outside, and pairs made of scripts."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test may fail because the machine was busy: Hypothesis measures each example by the clock unless told otherwise.
settings.register_profile("duet", deadline=None)
settings.load_profile("duet")


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings or consent from the environment, the user's folders, or a duet.toml where the tests run."""
    for name in list(os.environ):
        if name.startswith("DUET_") and name != "DUET_CACHE_DIR":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))

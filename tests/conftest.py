"""What all tests share: no DUET settings from outside, and pairs made of scripts."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the environment or from a duet.toml of the folder where the tests run."""
    for name in list(os.environ):
        if name.startswith("DUET_") and name != "DUET_CACHE_DIR":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

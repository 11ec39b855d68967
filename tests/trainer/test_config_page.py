"""docs/reference/training-config.md is what the code says."""

from __future__ import annotations

from support.config_page import PAGE, page

from duet_sdk.trainer.flaws import _places


def test_the_page_of_a_runs_yaml_is_made_from_the_code():
    assert PAGE.read_text("utf-8") == page(), "python tests/support/config_page.py writes it"


def test_every_key_is_on_it_with_a_text():
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    keys = {line.split("`")[1] for line in rows}
    assert {name for name, _ in _places()} <= keys
    assert not [line for line in rows if line.endswith("|  |")]

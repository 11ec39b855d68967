"""The commands `duet keys …`: a key is shown once, and its file is found by the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from duet_sdk.cli.app import app
from duet_sdk.gateway.keys import Keys


def duet(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[gateway]\nkey_file = "keys.json"\n')
    monkeypatch.setenv("DUET_CONFIG", str(file))


def test_a_key_is_shown_once_and_alone_on_standard_output() -> None:
    made = duet("create", "team-a", "--model", "duet", "--expires", "90d", "--requests-per-minute", "60")
    value = made.stdout.strip()
    assert made.exit_code == 0
    assert "is shown only now" in made.stderr
    (listed,) = json.loads(duet("list", "--json").stdout)
    assert (listed["tenant"], listed["state"], listed["models"]) == ("team-a", "valid", ["duet"])
    assert listed["requests_per_minute"] == 60
    assert value.startswith(f"duet-{listed['id']}-")
    assert value not in duet("list").stdout + duet("list", "--json").stdout
    assert "sha256" not in duet("list", "--json").stdout
    assert Keys((), "keys.json").caller({b"x-api-key": value.encode()}).tenant == "team-a"


def test_a_key_is_rotated_and_revoked_by_its_id_or_by_itself() -> None:
    made = json.loads(duet("create", "a", "--json").stdout)
    fresh = duet("rotate", made["id"], "--grace", "12h").stdout.strip()
    (listed,) = json.loads(duet("list", "--json").stdout)
    assert (listed["state"], listed["old_value_until"] is not None) == ("rotating", True)
    assert made["id"] in duet("list").stdout
    done = duet("revoke", fresh)
    assert (done.exit_code, done.stderr.strip()) == (0, f"key {made['id']} of tenant a is revoked")
    assert json.loads(duet("list", "--json").stdout)[0]["state"] == "revoked"
    assert "is revoked: make another" in duet("rotate", made["id"]).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", " "], "a key needs a tenant"),
        (["create", "a", "--mode", "signal"], "modes of a key 'signal' is unknown; known: duet, generator"),
        (["create", "a", "--requests-per-minute", "0"], "requests_per_minute must be a whole number of at least 1"),
        (["create", "a", "--expires", "soon"], "--expires must be a date such as"),
        (["create", "a", "--expires", "2020-01-01"], "is past: name a time to come"),
        (["create", "a", "--key-file", "none/keys.json"], "folder none does not exist"),
        (["list"], "there is no key file at keys.json: duet keys create TENANT makes it"),
        (["revoke", "duet-0000-secret"], "there is no key of this id in keys.json"),
        (["rotate", "x", "--grace", "long"], "--grace must be a length of time"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], said: str) -> None:
    done = duet(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_without_a_file_the_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUET_CONFIG")
    assert "set gateway.key_file in duet.toml" in duet("list").stderr

"""`.ci/agents` with an npm that only writes a file: installed once, again after an interruption, nothing without npm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "agents"
NPM = """#!/bin/sh
echo "$@" >> "$NPM_LOG"
[ ! -e "$NPM_BREAKS" ]
"""


class Machine:
    """One with its own cache, and an npm unless it is taken away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, folder / "commands"
        self.npm, self.log, self.breaks = self.commands / "npm", folder / "log", folder / "breaks"
        self.commands.mkdir()
        self.npm.write_text(NPM, encoding="utf-8")
        self.npm.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        own = {"DUET_CI_CACHE": str(self.folder / "cache"), "NPM_LOG": str(self.log), "NPM_BREAKS": str(self.breaks)}
        # Without the usual folders: no npm of this machine's may be found.
        path = os.pathsep.join((str(self.commands), "/bin")) if self.npm.exists() else str(self.commands)
        return subprocess.run(
            [sys.executable, SCRIPT], env={"PATH": path, **own}, capture_output=True, text=True, check=False
        )

    def installs(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_agents_are_installed_once_in_their_versions(machine: Machine) -> None:
    first, second = machine.run(), machine.run()
    assert first.stdout == second.stdout
    assert Path(first.stdout.strip()).parts[-2:] == ("node_modules", ".bin")
    (install,) = machine.installs()
    assert "@openai/codex@" in install
    assert "--prefix" in install


def test_an_install_that_failed_is_made_again(machine: Machine) -> None:
    machine.breaks.touch()
    failed = machine.run()
    assert (failed.returncode != 0, failed.stdout) == (True, "")
    machine.breaks.unlink()
    assert machine.run().returncode == 0
    assert len(machine.installs()) == 2


def test_without_npm_nothing_is_printed_and_nothing_fails(machine: Machine) -> None:
    machine.npm.unlink()
    done = machine.run()
    assert (done.returncode, done.stdout) == (0, "")
    assert "npm was not found" in done.stderr

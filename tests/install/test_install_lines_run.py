"""Every install line of every page works in an empty environment, and so does what an error tells to install.

pip resolves and looks for all that the line asks for (`--dry-run`), from the root of the checkout; `make dist` installs.
"""

from __future__ import annotations

import re
import subprocess
import venv
from pathlib import Path

import pytest
from support.install_lines import ROOT, InstallLine, install_lines

TIMEOUT_S = 600


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def environment(folder: Path) -> Path:
    """A new environment's Python, with a pip that resolves by metadata: older ones fetch gigabytes first."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    upgraded = run(python, "-m", "pip", "install", "-qq", "--upgrade", "pip")
    assert upgraded.returncode == 0, upgraded.stderr
    return python


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def with_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("with_sdk"))
    installed = run(python, "-m", "pip", "install", "-qq", ".")
    assert installed.returncode == 0, installed.stderr
    return python


LINES = {(line.pip, line.arguments): line for line in install_lines()}


@pytest.mark.parametrize("line", LINES.values(), ids=lambda line: f"{line.page}: {' '.join(line.arguments)}")
def test_an_install_line_works(line: InstallLine, request: pytest.FixtureRequest) -> None:
    # `.venv` is what `make demo` made: it has the SDK.
    python = request.getfixturevalue("with_sdk" if line.pip.startswith(".venv/") else "empty")
    done = run(python, "-m", "pip", "install", "-qq", "--dry-run", *line.arguments)
    assert done.returncode == 0, done.stderr


def test_what_an_error_tells_to_install_can_be_installed(with_sdk: Path, tmp_path: Path) -> None:
    question = ["ask", "How many?", "--reasoner", "litellm/openai/gpt-4o-mini", "--generator", "scripted/17"]
    refused = run(with_sdk.with_name("duet"), *question)
    assert refused.returncode != 0
    [command] = re.findall(rf"{re.escape(str(with_sdk))} -m pip install .+", refused.stderr)
    script = tmp_path / "command"
    script.write_text(f"{command} -qq --dry-run")
    done = run("sh", script)
    assert done.returncode == 0, done.stderr

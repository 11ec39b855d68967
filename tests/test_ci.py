"""`.ci/slow` on a repository of its own: a slow suite runs when, and only when, it has to. And `.ci/words`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SLOW = ROOT / ".ci" / "slow"
MAKEFILE = "suite:\n\t@echo ran >> ran.log\n\t@test ! -e broken\n"

pytestmark = pytest.mark.skipif(not (shutil.which("git") and shutil.which("make")), reason="needs git and make")

Slow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "code.py").write_text("answer = 17\n")
    (root / "notes.md").write_text("not an input\n")
    (root / ".gitignore").write_text("ran.log\nbroken\n")
    (root / "Makefile").write_text(MAKEFILE)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    return root


@pytest.fixture
def slow(repository: Path, tmp_path: Path) -> Slow:
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "MAKE", "MFLAGS"))}

    def run(*globs: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, SLOW, "example", "suite", *(globs or ("src",))],
            cwd=repository,
            env={**keep, "DUET_CI_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def runs(repository: Path) -> int:
    log = repository / "ran.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_suite_that_was_never_green_runs_and_is_recorded(repository: Path, slow: Slow, tmp_path: Path) -> None:
    done = slow()

    assert done.returncode == 0
    assert runs(repository) == 1
    assert "no green run yet" in done.stdout
    assert (tmp_path / "cache" / "green" / "example").is_file()


def test_a_green_suite_with_unchanged_inputs_is_skipped(repository: Path, slow: Slow) -> None:
    slow()
    (repository / "notes.md").write_text("changed, and still not an input\n")
    done = slow()

    assert done.returncode == 0
    assert runs(repository) == 1
    assert "skipped" in done.stdout


@pytest.mark.parametrize("change", ["edit", "add", "delete"])
def test_a_green_suite_runs_again_when_an_input_changed(repository: Path, slow: Slow, change: str) -> None:
    (repository / "src" / "old.py").write_text("")
    slow()
    match change:
        case "edit":
            (repository / "src" / "code.py").write_text("answer = 19\n")
        case "add":
            (repository / "src" / "new.py").write_text("")
        case "delete":
            (repository / "src" / "old.py").unlink()
    done = slow()

    assert done.returncode == 0
    assert runs(repository) == 2
    assert "inputs changed" in done.stdout


def test_the_old_inputs_count_as_changed_once_others_were_green(repository: Path, slow: Slow) -> None:
    slow()
    (repository / "src" / "code.py").write_text("answer = 19\n")
    slow()
    (repository / "src" / "code.py").write_text("answer = 17\n")
    slow()

    assert runs(repository) == 3


def test_a_red_suite_fails_and_is_not_recorded(repository: Path, slow: Slow, tmp_path: Path) -> None:
    (repository / "broken").touch()
    red = slow()
    assert red.returncode == 1
    assert "not recorded" in red.stdout
    assert not (tmp_path / "cache" / "green" / "example").exists()

    (repository / "broken").unlink()
    assert slow().returncode == 0
    assert runs(repository) == 2


def test_a_red_run_leaves_the_last_green_one_standing(repository: Path, slow: Slow) -> None:
    slow()
    (repository / "src" / "code.py").write_text("answer = 19\n")
    (repository / "broken").touch()
    slow()
    (repository / "src" / "code.py").write_text("answer = 17\n")

    assert "skipped" in slow().stdout


def test_inputs_that_match_no_file_are_refused(repository: Path, slow: Slow) -> None:
    done = slow("src", "source")

    assert done.returncode != 0
    assert "'source'" in done.stderr
    assert runs(repository) == 0


def words(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / ".ci" / "words", *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Fine.\n\nA call's own options go over them.\n", "3: 'go over them'; write: take precedence"),
        ("Fine.\nThe values are parted\nby commas.\n", "2: 'parted by'; write: separated by"),
        ("The answer is no JSON.\n", "1: 'is no JSON'; write: is not (valid)"),
    ],
)
def test_a_phrase_of_the_list_is_found_with_its_line(tmp_path: Path, text: str, found: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    done = words(page)

    assert done.returncode == 1
    assert f"{page}:{found}" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_what_the_changelog_says_of_past_versions_is_left_as_it_is(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("## Unreleased\n\n- Plain.\n\n## 0.1.0\n\n- All in vain.\n")
    assert words(changelog).returncode == 0
    changelog.write_text("## Unreleased\n\n- All in vain.\n\n## 0.1.0\n\n- Plain.\n")
    assert words(changelog).returncode == 1


def test_our_texts_have_no_phrase_of_the_list() -> None:
    done = words()

    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", (ROOT / ".ci" / "words.txt").read_text().splitlines())
def test_every_line_of_the_list_has_a_pattern_and_an_advice(line: str) -> None:
    assert (
        line == "" or line.startswith("#") or (all(part.strip() for part in line.split(" -> ", 1)) and " -> " in line)
    )

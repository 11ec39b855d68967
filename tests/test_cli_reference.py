"""docs/reference/cli.md has every command and option of the program, and the guide has no other."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_reference_is_what_the_program_has():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "commands"], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    assert page == done.stdout, "write it anew: .ci/commands > docs/reference/cli.md"


def test_the_guide_names_only_options_that_there_are_and_stays_short():
    guide = (ROOT / "docs" / "cli.md").read_text("utf-8")
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    typers_own = {"--version", "--install-completion"}
    assert set(re.findall(r"(?<![\w-])--[a-z-]+[a-z]", guide)) - typers_own <= set(
        re.findall(r"--[a-z-]+[a-z]", reference)
    )
    assert len([word for word in guide.split() if re.search(r"\w", word)]) <= 700

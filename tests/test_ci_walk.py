"""`.ci/walk` on pages of its own: what runs, what is compared, and that nothing is left out silently."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import venv
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / ".ci" / "walk"
TASKS = sorted((REPOSITORY / "docs" / "tasks").glob("*.md"))
MOST_WORDS = 900
"""Of a task page: what is read in a few minutes, code and output included."""

pytestmark = pytest.mark.skipif(not (shutil.which("git") and shutil.which("bash")), reason="needs git and bash")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loader = SourceFileLoader("ci_walk", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ci_walk", loader))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setitem(__import__("sys").modules, "ci_walk", module)  # dataclasses look there
    loader.exec_module(module)
    root = tmp_path / "checkout"
    subprocess.run(["git", "init", "--quiet", root], check=True)
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "pip_cache", lambda: str(tmp_path / "pip"))
    monkeypatch.setattr(venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))  # seconds
    return module


def walk(script: Any, page: str, folder: Path) -> bool:
    return script.walk(page, "page.md", folder / "walk", fresh=False, say=print)


PAGE = """\
```bash
SAID=hello
cd "$(mktemp -d)"
```

```toml
# settings.toml
number = 17
```

```bash
echo "$SAID" && cat settings.toml
```

```text
hello
…
number = 9
```

<!-- walk: skip, needs a GPU -->
```bash
exit 1
```

```console
$ echo there are \\
      18
there are 17
```
"""


def test_the_blocks_of_a_page_run_in_one_shell_and_what_is_left_out_is_listed(script, tmp_path, capsys):
    assert walk(script, PAGE, tmp_path)
    told = capsys.readouterr().out
    assert "line 22 skipped: needs a GPU" in told
    assert "4 blocks" in told


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("```bash\nfalse\necho on\n```\n", "page.md:1: failed"),
        ("```bash\necho 17 primes\n```\n\n```text\n17 cows\n```\n", "page.md:1: prints something else"),
        ("```console\n$ echo one\ntwo\n```\n", "page.md:1: prints something else"),
    ],
)
def test_a_block_that_fails_or_prints_something_else_fails_the_page(script, tmp_path, capsys, page, told):
    assert not walk(script, page, tmp_path)
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("page", ["```toml\nnumber = 17\n```\n", "```text\n17\n```\n", "```\n$ ls\n```\n"])
def test_a_block_that_cannot_be_run_has_to_say_so(script, tmp_path, page):
    with pytest.raises(script.Unclear):
        walk(script, page, tmp_path)


def test_a_variable_is_replaced_where_the_page_sets_it_and_that_is_told(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(script.HERE, "page.md", {"MODEL": (lambda: "a small one", "no GPU")})
    assert walk(script, "```bash\nMODEL=large\necho $MODEL\n```\n\n```text\na small one\n```\n", tmp_path)
    assert "MODEL='a small one': no GPU" in capsys.readouterr().out
    with pytest.raises(script.Unclear, match="set once"):
        walk(script, "```bash\necho $MODEL\n```\n", tmp_path)


def test_a_server_that_a_page_started_ends_with_it(script, tmp_path):
    assert walk(script, "```bash\nsleep 600 & echo $! >../pid\n```\n", tmp_path)
    pid = int((tmp_path / "walk" / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_output_is_compared_in_kind(script):
    table = ["┏━━━┳━━━━┓", "│ 17 │ x │", "served by … 0.1 s"]
    assert script.agrees(table, "┏━━━━━━━┳━━┓\n\n│ 123,000.5   │ x │\n   served by pair · 0.25 s\n")
    assert not script.agrees(table, "│ 17 │ x │\nserved by pair · 0.1 s\n")
    assert script.agrees(["…", "end"], "end\n")
    assert not script.agrees(["end"], "begin\nend\n")
    assert script.agrees(["print(*)."], "print(*).\n")


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *TASKS], ids=lambda page: page.name)
def test_every_block_of_a_page_can_be_walked_or_says_why_not(script, page):
    steps = [script.prepared(block, at) for at, block in enumerate(script.blocks(page.read_text(encoding="utf-8")))]
    assert any(step.shown for step in steps if step.skipped is None)


@pytest.mark.parametrize("page", TASKS, ids=lambda page: page.name)
def test_a_task_page_is_short(page):
    assert len(page.read_text(encoding="utf-8").split()) <= MOST_WORDS

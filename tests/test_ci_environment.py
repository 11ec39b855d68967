"""`.ci/environment` with a pip that only writes files: built once, repaired after an interruption."""

import importlib.util
import os
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "environment"
PROJECT = """
[project]
dependencies = ["aiohttp>=3.10"]
[project.optional-dependencies]
render = ["jinja2>=3.1.6"]
all = ["duet-sdk[render]", "redis>=5"]
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("DUET_CI_CACHE", str(tmp_path / "cache"))
    loader = SourceFileLoader("ci_environment", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ci_environment", loader))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    for name in ("tool", "vllm"):
        (root / "requirements" / f"{name}.txt").write_text("something==1\n")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "CONSTRAINTS", root / "constraints.txt")
    module.commands = []

    def run(*command):
        module.commands.append([str(part) for part in command])
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)

    monkeypatch.setattr(module, "run", run)
    return module


def environments(script):
    return sorted(path.name for path in script.CACHE.iterdir() if path.is_dir())


def current(script, name="tool"):
    return f"{name}-{script.key(name, script.requirements(name))}"


def test_an_environment_is_built_once_and_its_python_is_printed(script, capsys):
    script.main("tool")
    built = len(script.commands)
    script.main("tool")
    assert built > 0
    assert len(script.commands) == built
    assert capsys.readouterr().out.split() == [str(script.CACHE / current(script) / "bin" / "python")] * 2


def test_an_interrupted_build_is_made_anew(script, monkeypatch):
    run = script.run

    def killed(*command):
        run(*command)
        if "install" in command:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            script.main("tool")
    half = script.CACHE / current(script) / "half"
    half.touch()
    script.main("tool")
    assert not half.exists()
    assert (half.parent / "whole").is_file()


@pytest.mark.parametrize("changed", ["requirements/tool.txt", "constraints.txt"])
def test_other_requirements_make_another_environment(script, changed):
    script.main("tool")
    (script.ROOT / changed).write_text("something==2\n")
    script.main("tool")
    assert len(environments(script)) == 2


def test_the_requirements_of_one_environment_do_not_touch_another(script):
    before = current(script, "vllm")
    (script.ROOT / "requirements" / "tool.txt").write_text("something==2\n")
    assert current(script, "vllm") == before


def test_the_sdk_stands_for_what_it_needs_and_is_not_installed(script):
    (script.ROOT / "requirements" / "tool.txt").write_text("# with all\nduet-sdk[all]\nsomething==1\n")
    assert script.requirements("tool") == [
        "# with all",
        "aiohttp>=3.10",
        "aiohttp>=3.10",
        "jinja2>=3.1.6",
        "redis>=5",
        "something==1",
    ]
    script.main("tool")
    assert "duet-sdk" not in (script.CACHE / current(script) / "requirements.txt").read_text()


def test_what_one_environment_cannot_hold_is_taken_out_of_that_one_only(script):
    script.main("tool")
    assert not any("uninstall" in command for command in script.commands)
    script.main("vllm")
    assert any("uninstall" in command and "torchvision" in command for command in script.commands)


def test_an_unknown_name_is_refused(script):
    with pytest.raises(SystemExit, match="no environment 'nothing'"):
        script.main("nothing")
    assert script.commands == []


def test_what_is_unfinished_or_unused_for_long_is_removed(script):
    old, new, half = "tool-" + "0" * 12, "tool-" + "1" * 12, "tool-" + "2" * 12
    other = "tool-kit-" + "0" * 12
    for name, age_s in ((old, 40 * 24 * 3600), (new, 24 * 3600), (other, 40 * 24 * 3600)):
        stamp = script.CACHE / name / "whole"
        stamp.parent.mkdir(parents=True)
        stamp.touch()
        os.utime(stamp, (time.time() - age_s,) * 2)
    (script.CACHE / half).mkdir()
    script.main("tool")
    assert environments(script) == sorted([new, other, current(script)])

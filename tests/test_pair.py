"""A pair on disk: what is written, what loads again, and what is refused."""

import hashlib
import json
import os
import struct
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from duet_sdk import Budget, DuetClient, Pair, Prompts, Sampling
from duet_sdk.errors import ConfigError, ModelNotFound, PairError
from duet_sdk.pair import Manifest
from duet_sdk.pair.manifest import ModelEntry

# A valid safetensors file: the header's length, the header, one float.
HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + b"\x00\x00\x80\x3f"


def model_folder(path: Path, *, weights: bytes = WEIGHTS, config: str = '{"model_type": "llama"}') -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(config)
    (path / "tokenizer.json").write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    (path / "model.safetensors").write_bytes(weights)
    return path


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    big = model_folder(tmp_path / "models" / "big")
    small = model_folder(tmp_path / "models" / "small", weights=WEIGHTS[:-4] + b"\x00\x00\x00\x40")
    folder = tmp_path / "pair"
    Pair.of(f"transformers/{big}", f"transformers/{small}").bundle(folder)
    return folder


def written(folder: Path, **changes: object) -> Path:
    """A pair of scripts whose manifest is changed by hand."""
    Pair.of("scripted/17", "scripted/There are 17.").save(folder)
    change(folder, **changes)
    return folder


def change(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**values, **changes}))


def list_file(folder: Path, name: str) -> None:
    """Add a file to the manifest with its true size and hash."""
    content = (folder / name).read_bytes()
    files = json.loads((folder / "pair.json").read_text())["files"]
    change(folder, files={**files, name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}})


def test_a_saved_pair_answers_through_a_client(tmp_path):
    Pair.of("scripted/17 of them", "scripted/There are 17.", budget=Budget(signal_tokens=2)).save(tmp_path / "pair")
    with DuetClient.from_pair(tmp_path / "pair") as duet:
        reply = duet.chat("How many primes are below 60?")
    assert (reply.text, reply.signal.limit, reply.signal.tokens) == ("There are 17.", 2, 2)


def test_a_client_takes_a_pair_that_was_never_saved():
    with DuetClient.from_pair(Pair.of("scripted/17", "scripted/echo")) as duet:
        assert duet.chat("How many?", mode="generator").text == "How many?"


def test_what_is_saved_is_loaded_again(tmp_path):
    pair = Pair.of(
        "vllm/Qwen/Qwen3-4B@http://127.0.0.1:8101/v1",
        "scripted/x",
        handoff="think",
        budget=Budget(signal_tokens=64, answer_tokens=128),
        prompts=Prompts(generator="Be brief."),
        reasoner_params=Sampling(temperature=0.5, stop=("\n\n",)),
        generator_params=Sampling(seed=7),
    )
    saved = pair.save(tmp_path / "pair")
    loaded = Pair.load(tmp_path / "pair")
    assert saved == loaded
    assert loaded.folder == tmp_path / "pair"
    assert loaded.reasoner_spec == "vllm/Qwen/Qwen3-4B@http://127.0.0.1:8101/v1"
    assert loaded.generator_spec == "scripted/x"
    assert loaded.client_options() == {
        "handoff": "think",
        "budget": Budget(signal_tokens=64, answer_tokens=128),
        "prompts": Prompts(generator="Be brief."),
        "reasoner_params": Sampling(temperature=0.5, stop=("\n\n",)),
        "generator_params": Sampling(seed=7),
    }


def test_the_manifest_is_json_that_people_can_read(tmp_path):
    Pair.of("scripted/17", "scripted/x", budget=Budget(signal_tokens=64)).save(tmp_path / "pair")
    assert json.loads((tmp_path / "pair" / "pair.json").read_text()) == {
        "format": 1,
        "reasoner": {"model": "scripted/17"},
        "generator": {"model": "scripted/x"},
        "handoff": "instruct",
        "trained": False,
        "limits": {"signal_tokens": 64},
        "files": {},
    }


def test_what_the_manifest_leaves_out_is_no_option_of_the_client(tmp_path):
    Pair.of("scripted/17", "scripted/x").save(tmp_path / "pair")
    assert Pair.load(tmp_path / "pair").client_options() == {"handoff": "instruct"}


def test_a_pair_whose_manifest_names_no_handoff_uses_instruct(tmp_path):
    (tmp_path / "pair.json").write_text(
        '{"format": 1, "reasoner": {"model": "scripted/a"}, "generator": {"model": "scripted/b"}}'
    )
    assert Pair.load(tmp_path).client_options() == {"handoff": "instruct"}


def test_sections_of_a_training_are_kept_as_they_are(tmp_path):
    facts = {
        "trained": True,
        "metrics": {"accuracy": 0.71, "by_task": [1, 2]},
        "training": {"steps": 400},
        "data": {"fingerprint": "ab12"},
        "licences": {"reasoner": "Apache-2.0"},
        "tasks": ["maths"],
        "language": "en",
        "tools": False,
        "reasoner": {"model": "vllm/a", "revision": "main", "tokenizer": "a" * 64, "quantisation": "b" * 64},
    }
    folder = written(tmp_path / "pair", **facts)
    Pair.load(folder).save(tmp_path / "copy")
    values = json.loads((tmp_path / "copy" / "pair.json").read_text())
    assert {key: values[key] for key in facts} == facts


def test_bundling_copies_both_models_and_names_them_relative(bundled, tmp_path):
    pair = Pair.load(bundled)
    assert (pair.manifest.reasoner.folder, pair.manifest.generator.folder) == ("reasoner", "generator")
    assert pair.reasoner_spec == f"transformers/{tmp_path}/pair/reasoner"
    assert pair.generator_spec == f"transformers/{tmp_path}/pair/generator"
    assert sorted(pair.manifest.files) == [
        f"{stage}/{name}"
        for stage in ("generator", "reasoner")
        for name in ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
    ]
    facts = pair.manifest.files["reasoner/model.safetensors"]
    assert (facts.size, facts.sha256) == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert str(tmp_path) not in (bundled / "pair.json").read_text()


def test_a_bundled_pair_can_be_moved(bundled, tmp_path):
    bundled.rename(tmp_path / "elsewhere")
    assert Pair.load(tmp_path / "elsewhere").reasoner_spec == f"transformers/{tmp_path}/elsewhere/reasoner"


def test_a_pair_is_found_by_a_path_relative_to_where_one_is(bundled):
    assert Pair.load("pair").folder == bundled


def test_a_link_to_the_whole_pair_is_followed(bundled, tmp_path):
    (tmp_path / "current").symlink_to(bundled)
    assert Pair.load(tmp_path / "current").folder == bundled


def test_saving_a_bundled_pair_elsewhere_copies_its_models(bundled, tmp_path):
    Pair.load(bundled).save(tmp_path / "copy")
    assert (tmp_path / "copy" / "generator" / "model.safetensors").read_bytes()[-4:] == b"\x00\x00\x00\x40"
    assert Pair.load(tmp_path / "copy").manifest == Pair.load(bundled).manifest


def test_a_model_in_both_roles_is_copied_once(tmp_path):
    one = model_folder(tmp_path / "one")
    pair = Pair.of(f"transformers/{one}", "transformers/./one").bundle(tmp_path / "pair")
    assert pair.reasoner_spec == pair.generator_spec == f"transformers/{tmp_path}/pair/reasoner"
    assert not (tmp_path / "pair" / "generator").exists()


def test_bundling_leaves_models_of_servers_and_of_the_hub_as_names(tmp_path):
    Pair.of("transformers/embedded", "vllm/Qwen/Qwen3-0.6B").bundle(tmp_path / "pair")
    assert [file.name for file in (tmp_path / "pair").iterdir()] == ["pair.json"]
    assert Pair.load(tmp_path / "pair").reasoner_spec == "transformers/embedded"


def test_bundling_leaves_out_what_no_model_is_loaded_from(tmp_path):
    one = model_folder(tmp_path / "one")
    for name in ("training_args.bin", "notes.md", "duet.json", ".hidden.json"):
        (one / name).write_text("{}")
    (one / "LICENSE").write_text("Apache-2.0")
    (one / "checkpoint").mkdir()
    (one / "checkpoint" / "model.safetensors").write_bytes(WEIGHTS)
    pair = Pair.of(f"transformers/{one}", "scripted/x").bundle(tmp_path / "pair")
    assert sorted(pair.manifest.files) == [
        "reasoner/LICENSE",
        "reasoner/chat_template.jinja",
        "reasoner/config.json",
        "reasoner/model.safetensors",
        "reasoner/tokenizer.json",
    ]


def test_files_behind_links_in_a_models_folder_are_copied_as_files(tmp_path):
    one = model_folder(tmp_path / "one")
    (one / "model.safetensors").rename(tmp_path / "blob")
    (one / "model.safetensors").symlink_to(tmp_path / "blob")
    Pair.of(f"transformers/{one}", "scripted/x").bundle(tmp_path / "pair")
    assert not (tmp_path / "pair" / "reasoner" / "model.safetensors").is_symlink()
    assert Pair.load(tmp_path / "pair").manifest.files["reasoner/model.safetensors"].size == len(WEIGHTS)


@pytest.mark.parametrize(
    ("config", "weights", "error", "words"),
    [
        ('{"auto_map": {"AutoModel": "code.Model"}}', WEIGHTS, ConfigError, "its own code"),
        ("{}", WEIGHTS[:-1], ModelNotFound, "has 65 bytes, but its header says 66"),
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_bundled(tmp_path, config, weights, error, words):
    one = model_folder(tmp_path / "one", weights=weights, config=config)
    with pytest.raises(error, match=words):
        Pair.of(f"transformers/{one}", "scripted/x").bundle(tmp_path / "pair")
    assert not (tmp_path / "pair").exists()


def test_bundling_a_folder_that_is_missing_says_so(tmp_path):
    with pytest.raises(ModelNotFound, match="there is no model folder"):
        Pair.of("transformers/./nothing", "scripted/x").bundle(tmp_path / "pair")


def test_a_pinned_hub_model_is_used_at_its_revision_only(tmp_path, monkeypatch):
    monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path / "cache"))
    folder = written(tmp_path / "pair", reasoner={"model": "transformers/owner/model", "revision": "abc"})
    pair = Pair.load(folder)
    with pytest.raises(PairError, match="run `duet models pull owner/model --revision abc`"):
        _ = pair.reasoner_spec
    cached = model_folder(tmp_path / "cache" / "models" / "owner--model@abc")
    (cached / "duet.json").write_text(json.dumps({"files": {"config.json": {"size": 23, "sha256": ""}}}))
    assert pair.reasoner_spec == f"transformers/{cached}"


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(PairError, match="there is no folder .*nothing.*`duet pair save` makes a pair there"):
        Pair.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name", ["pair", "./pair", "../owner/pair", "a/b/c", "/owner/pair", "owner/pair@", Path("owner/pair")]
)
def test_what_is_no_name_on_the_hub_is_not_looked_for_there(name):
    with pytest.raises(PairError, match="there is no folder .*`duet pair save` makes a pair there"):
        Pair.load(name)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(PairError, match=r"is not a pair: it holds no pair\.json"):
        Pair.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "\x00", "[" * 100_000], ids=["cut", "zero", "deep"])
def test_a_manifest_that_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "pair.json").write_text(text)
    with pytest.raises(PairError, match="cannot be read as JSON"):
        Pair.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "1"}', '{"format": true}', '{"format": 0}'])
def test_a_manifest_without_a_format_is_refused(tmp_path, text):
    (tmp_path / "pair.json").write_text(text)
    with pytest.raises(PairError, match="its 'format' is not a whole number"):
        Pair.load(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    with pytest.raises(PairError, match="format 2, and this version reads up to 1; .*upgrade duet-sdk"):
        Pair.load(written(tmp_path / "pair", format=2, whatever=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hand_off": "think"}, "unknown key 'hand_off'"),
        ({"limits": {"tokens": 5}}, "unknown key 'limits.tokens'"),
        ({"reasoner": {"model": "scripted/a", "path": "x"}}, r"unknown key 'reasoner\.path'"),
        ({"prompts": {"gate": "x"}}, "prompts: unknown key 'gate'"),
        ({"generator_params": {"temprature": 1}}, "generator_params: unknown key 'temprature'"),
        ({"generator_params": {"temperature": -1}}, "temperature must be a number of at least 0, got -1"),
        ({"handoff": "telepathy"}, "handoff: Input should be 'instruct' or 'think'"),
        ({"limits": {"signal_tokens": 0}}, r"limits\.signal_tokens: .*greater than or equal to 1"),
        ({"limits": {"signal_tokens": True}}, r"limits\.signal_tokens: .*valid integer"),
        ({"reasoner": {}}, "reasoner: needs exactly one of 'model' and 'folder'"),
        ({"reasoner": {"model": "scripted/a", "folder": "a"}}, "reasoner: needs exactly one of"),
        ({"reasoner": {"model": "nonsense"}}, "must be written as 'backend/model'"),
        ({"reasoner": {"model": "scripted/a", "tokenizer": "A" * 64}}, r"reasoner\.tokenizer: "),
        ({"files": {"a": {"sha256": "a" * 64 + "\n", "size": 1}}}, r"files\.a\.sha256: "),
        ({"tags": ["<a>", "</a>"]}, "unknown key 'tags'"),
    ],
)
def test_a_manifest_with_a_flaw_is_refused_by_its_place(tmp_path, changes, words):
    with pytest.raises(PairError, match=words):
        Pair.load(written(tmp_path / "pair", **changes))


def test_a_flipped_byte_is_noticed(bundled):
    weights = bundled / "reasoner" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PairError, match=r"the SHA-256 of .*reasoner/model\.safetensors differs"):
        Pair.load(bundled)


def test_a_truncated_file_is_noticed(bundled):
    weights = bundled / "reasoner" / "model.safetensors"
    weights.write_bytes(WEIGHTS[:-1])
    with pytest.raises(PairError, match=r"has 65 bytes, but pair\.json says 66"):
        Pair.load(bundled)


def test_a_missing_file_is_noticed(bundled):
    (bundled / "generator" / "tokenizer.json").unlink()
    with pytest.raises(PairError, match=r"generator/tokenizer\.json is listed in pair\.json but missing"):
        Pair.load(bundled)


def test_a_change_after_loading_is_found_by_verify(bundled):
    pair = Pair.load(bundled)
    (bundled / "generator" / "tokenizer.json").write_text("[]")
    with pytest.raises(PairError, match="the SHA-256 of .* differs from"):
        pair.verify()


def test_an_unlisted_file_in_a_models_folder_is_refused(bundled):
    (bundled / "reasoner" / "extra.json").write_text("{}")
    with pytest.raises(PairError, match=r"reasoner/extra\.json is not listed"):
        Pair.load(bundled)


def test_an_unlisted_note_beside_the_models_is_allowed(bundled):
    (bundled / "README.md").write_text("# Our pair")
    assert Pair.load(bundled).folder == bundled


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.pkl", "a.ckpt", "a.pickle", "A.BIN", "reasoner/b.bin"])
def test_a_pickled_file_is_refused(bundled, name):
    (bundled / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(PairError, match="a pair may contain only safetensors"):
        Pair.load(bundled)


def test_a_pickled_file_is_refused_even_when_it_is_listed(bundled):
    (bundled / "reasoner" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    list_file(bundled, "reasoner/pytorch_model.bin")
    with pytest.raises(PairError, match="a pair may contain only safetensors"):
        Pair.load(bundled)


def test_a_model_with_code_of_its_own_is_refused_even_when_it_is_listed(bundled):
    (bundled / "reasoner" / "config.json").write_text('{"auto_map": {"AutoModel": "code.Model"}}')
    list_file(bundled, "reasoner/config.json")
    with pytest.raises(PairError, match="needs to run its own code"):
        Pair.load(bundled)


def test_a_link_that_leaves_the_folder_is_refused(bundled, tmp_path):
    (tmp_path / "outside.safetensors").write_bytes(WEIGHTS)
    weights = bundled / "reasoner" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(PairError, match="is a link, which could lead out of the pair"):
        Pair.load(bundled)


def test_a_models_folder_that_is_a_link_is_refused(bundled, tmp_path):
    (bundled / "reasoner").rename(tmp_path / "outside")
    (bundled / "reasoner").symlink_to(tmp_path / "outside")
    with pytest.raises(PairError, match="is a link"):
        Pair.load(bundled)


def test_a_manifest_that_is_a_link_is_refused(bundled, tmp_path):
    (bundled / "pair.json").rename(tmp_path / "outside.json")
    (bundled / "pair.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(PairError, match=r"holds no pair\.json"):
        Pair.load(bundled)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused(bundled):
    os.mkfifo(bundled / "reasoner" / "pipe")
    with pytest.raises(PairError, match="is neither a file nor a folder"):
        Pair.load(bundled)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "a//b", "./a", "", "..", "a\\..\\b", "C:/x", "a/"])
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path, path):
    for number, changes in enumerate(
        ({"reasoner": {"folder": path}}, {"files": {path: {"sha256": "a" * 64, "size": 1}}})
    ):
        with pytest.raises(PairError, match="must stay in the pair's folder"):
            Pair.load(written(tmp_path / f"pair{number}", **changes))


def test_a_bundled_model_without_its_files_is_refused(tmp_path):
    with pytest.raises(PairError, match="there is no model folder"):
        Pair.load(written(tmp_path / "pair", reasoner={"folder": "reasoner"}))


def test_saving_over_a_pair_replaces_it(bundled, tmp_path):
    Pair.of("scripted/17", "scripted/x").save(bundled)
    assert [file.name for file in bundled.iterdir()] == ["pair.json"]
    assert Pair.load(bundled).reasoner_spec == "scripted/17"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["models", "pair"]


def test_a_bundled_pair_can_be_saved_over_itself(bundled):
    before = Pair.load(bundled)
    assert before.save(bundled) == Pair.load(bundled) == before


def test_saving_makes_the_folders_above_and_takes_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    pair = Pair.of("scripted/17", "scripted/x")
    assert pair.save(tmp_path / "empty").folder == tmp_path / "empty"
    assert pair.save(tmp_path / "a" / "b").folder == tmp_path / "a" / "b"


def test_a_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.md").write_text("years of work")
    with pytest.raises(PairError, match="holds files but no pair, so it is not overwritten"):
        Pair.of("scripted/17", "scripted/x").save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.md").read_text() == "years of work"


def test_a_file_that_does_not_belong_to_the_replaced_pair_is_not_lost(bundled):
    (bundled / "notes.md").write_text("mine")
    with pytest.raises(PairError, match=r"holds notes\.md, which does not belong to the pair there"):
        Pair.of("scripted/17", "scripted/x").save(bundled)
    assert (bundled / "notes.md").read_text() == "mine"


def test_a_pair_whose_manifest_lists_no_files_can_be_replaced(tmp_path):
    (tmp_path / "pair.json").write_text(
        '{"format": 1, "reasoner": {"model": "scripted/a"}, "generator": {"model": "scripted/b"}}'
    )
    Pair.of("scripted/17", "scripted/x").save(tmp_path)
    assert Pair.load(tmp_path).reasoner_spec == "scripted/17"


def test_a_file_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "pair").write_text("a file")
    with pytest.raises(PairError, match="is a file"):
        Pair.of("scripted/17", "scripted/x").save(tmp_path / "pair")


def test_a_pair_is_not_replaced_by_one_that_only_names_its_models(bundled):
    pair = Pair.load(bundled)
    with pytest.raises(PairError, match="which would be overwritten; bundle the pair instead"):
        Pair.of(pair.reasoner_spec, "scripted/x").save(bundled)
    assert Pair.of(pair.reasoner_spec, "scripted/x").bundle(bundled).reasoner_spec == pair.reasoner_spec


def test_a_save_that_fails_leaves_the_old_pair_and_nothing_else(bundled, tmp_path, monkeypatch):
    old, replace = Pair.load(bundled), Path.replace

    def broken(self: Path, target: Path) -> Path:
        if self.name == "fresh":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(PairError, match="cannot write the pair to .*No space left"):
        Pair.of("scripted/17", "scripted/x").save(bundled)
    assert Pair.load(bundled) == old
    assert sorted(file.name for file in tmp_path.iterdir()) == ["models", "pair"]


def test_a_pair_that_is_not_on_disk_has_nothing_to_verify():
    with pytest.raises(PairError, match="not on disk yet"):
        Pair.of("scripted/17", "scripted/x").verify()


def test_a_bundled_model_needs_a_pair_on_disk(tmp_path):
    pair = Pair(Manifest(reasoner=ModelEntry(folder="reasoner"), generator=ModelEntry(model="scripted/x")))
    with pytest.raises(PairError, match="the reasoner is a folder of the pair"):
        pair.save(tmp_path / "pair")


@pytest.mark.parametrize(
    "name",
    [
        "vllm/m@http://user:hunter2@127.0.0.1:8101/v1",
        "vllm/m@https://hunter2@models.example/v1",
        "vllm/m@https://user:hun/hunter2@models.example/v1",
        "vllm/m@https://models.example/v1?key=hunter2",
    ],
)
def test_a_name_with_a_secret_is_refused_and_the_secret_not_repeated(tmp_path, name):
    with pytest.raises(PairError, match="a pair must not contain secrets") as made:
        Pair.of(name, "scripted/x")
    with pytest.raises(PairError, match="a pair must not contain secrets") as loaded:
        Pair.load(written(tmp_path / "pair", generator={"model": name}))
    for error in (made.value, loaded.value):
        assert "hunter2" not in f"{error} {error.__cause__}"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"generator_params": {"extra_body": {"api_key": "hunter2"}}}, "generator_params.extra_body.api_key"),
        ({"training": {"env": [{"HF_TOKEN": "hunter2"}]}}, "training.env.0.HF_TOKEN"),
        ({"data": {"source": "s3://id:hunter2@bucket/rows"}}, "data.source"),
    ],
)
def test_a_secret_in_another_section_is_refused_by_its_place(tmp_path, changes, place):
    with pytest.raises(PairError, match=f"{place} looks like a key or password") as caught:
        Pair.load(written(tmp_path / "pair", **changes))
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("budget", "name"), [(Budget(deadline_s=5), "deadline_s"), (Budget(cost_usd=Decimal(1)), "cost_usd")]
)
def test_a_limit_that_a_pair_cannot_keep_is_refused(budget, name):
    with pytest.raises(PairError, match=f"a pair keeps signal_tokens and answer_tokens only: pass {name}"):
        Pair.of("scripted/17", "scripted/x", budget=budget)


def test_values_that_cannot_be_a_pair_are_refused():
    with pytest.raises(
        PairError, match="this is not a valid pair: reasoner: 'model' must be written as 'backend/model'"
    ):
        Pair.of("nonsense", "scripted/x")
    with pytest.raises(PairError, match="handoff: Input should be 'instruct' or 'think'"):
        Pair.of("scripted/17", "scripted/x", handoff="telepathy")


def test_a_manifest_cannot_be_changed():
    manifest = Pair.of("scripted/17", "scripted/x").manifest
    with pytest.raises(ValidationError, match="frozen"):
        manifest.handoff = "think"

"""Pairs that training leaves behind: what is pinned, what the card says, and what is told when something differs."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from support.fault_server import Answer, FaultServer
from support.loopback_hub import Hub, serving
from support.tiny_model import random_weights
from test_pair import WEIGHTS, change, model_folder

from duet_sdk import AsyncDuetClient, DuetClient, Message, Pair
from duet_sdk.backends.connect import with_tokenizer
from duet_sdk.backends.scripted import Scripted
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import Authentication, ConfigError, ConnectFailed, ModelNotFound, PairError
from duet_sdk.models.sources import Repository
from duet_sdk.pair import TrainedModel, TrainingFacts, limit_for, push, save_trained
from duet_sdk.rendering import Renderer, TokenizerFiles

FACTS = TrainingFacts(
    signal_tokens=64,
    answer_tokens=128,
    training={"seed": 3, "objective": {"reward": "gated"}},
    data={"train": 100, "datasets": ["owner/questions"], "fingerprint": "ab" * 32, "rights": None},
    metrics={"guided": 0.98, "alone": 0.15, "utility": 0.83, "tokens_mean": 11.25},
    data_licence="MIT",
    tasks=("arithmetic",),
    language="en",
)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def adapter_folder(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    (path / "adapter_model.safetensors").write_bytes(WEIGHTS)
    return path


@pytest.fixture
def trained(tmp_path: Path) -> Pair:
    big, small = model_folder(tmp_path / "models" / "big"), model_folder(tmp_path / "models" / "small")
    return save_trained(
        tmp_path / "pair",
        reasoner=TrainedModel(big, base="Qwen/Qwen3-4B", revision="abc", licence="apache-2.0"),
        generator=TrainedModel(small, base="Qwen/Qwen3-0.6B", licence="apache-2.0"),
        facts=FACTS,
    )


def front_matter(pair: Pair) -> dict[str, object]:
    _, head, _ = (pair.folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def test_the_manifest_keeps_all_that_training_knows(trained):
    values = json.loads((trained.folder / "pair.json").read_text())
    assert (values["trained"], values["handoff"], values["tools"], values["language"]) == (True, "think", False, "en")
    assert values["limits"] == {"signal_tokens": 64, "answer_tokens": 128}
    assert values["licences"] == {"reasoner": "apache-2.0", "generator": "apache-2.0", "data": "MIT"}
    assert (values["tasks"], values["metrics"]["tokens_mean"]) == (["arithmetic"], 11.25)
    assert values["data"]["fingerprint"] == "ab" * 32
    assert values["training"]["objective"] == {"reward": "gated"}
    reasoner = values["reasoner"]
    assert (reasoner["folder"], reasoner["base"], reasoner["base_revision"]) == ("reasoner", "Qwen/Qwen3-4B", "abc")
    # SHA-256 of "{}".
    assert reasoner["tokenizer"] == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert Pair.load(trained.folder) == trained


def test_the_card_is_in_the_hubs_form(trained):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'local'")
    facts = front_matter(trained)
    assert facts["base_model"] == ["Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B"]
    assert (facts["license"], facts["language"], facts["datasets"]) == ("apache-2.0", ["en"], ["owner/questions"])
    card = huggingface_hub.ModelCard.load(trained.folder / "README.md")
    assert card.data.to_dict()["library_name"] == "duet-sdk"
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results == {"guided": 0.98, "alone": 0.15, "tokens_mean": 11.25}
    assert "Signal limit: 64 tokens" in card.text
    assert "Trained with tools: no" in card.text


def test_models_folders_may_be_texts(tmp_path):
    big, small = model_folder(tmp_path / "big"), model_folder(tmp_path / "small")
    pair = save_trained(
        str(tmp_path / "pair"), reasoner=TrainedModel(str(big)), generator=TrainedModel(str(small)), facts=FACTS
    )
    assert (pair.folder / "reasoner" / "config.json").is_file()


def test_licences_that_differ_are_no_single_one(tmp_path):
    big, small = model_folder(tmp_path / "big"), model_folder(tmp_path / "small")
    pair = save_trained(
        tmp_path / "pair",
        reasoner=TrainedModel(big, licence="mit"),
        generator=TrainedModel(small, licence="apache-2.0"),
        facts=TrainingFacts(toy=True),
    )
    assert (front_matter(pair)["license"], front_matter(pair)["license_name"]) == ("other", "several")
    assert "**A toy**" in (pair.folder / "README.md").read_text()


def test_hostile_facts_cannot_leave_the_cards_fields(tmp_path):
    hostile = "x\n---\nlicense: wtfpl\n`</code>\n| <script>"
    one = model_folder(tmp_path / "one")
    pair = save_trained(
        tmp_path / "pair",
        reasoner=TrainedModel(one, licence=hostile),
        generator=TrainedModel(one, licence=hostile),
        facts=TrainingFacts(language=hostile, tasks=(hostile,), metrics={hostile: hostile}),
    )
    text = (pair.folder / "README.md").read_text()
    assert front_matter(pair)["license"] == hostile.lower()
    assert front_matter(pair)["language"] == [hostile]
    assert "\nlicense: wtfpl" not in text
    assert text.count("\n---\n") == 1


def test_a_trained_pair_replaces_one_and_its_own_card(trained, tmp_path):
    (tmp_path / "new").mkdir()
    again = save_trained(
        trained.folder,
        reasoner=TrainedModel(tmp_path / "models" / "big"),
        generator=TrainedModel(tmp_path / "models" / "small"),
        facts=TrainingFacts(),
    )
    assert again.manifest.metrics == {}


def test_a_card_that_somebody_wrote_is_not_replaced(trained):
    card = trained.folder / "README.md"
    card.write_text("# My own words")
    assert Pair.load(trained.folder).folder == trained.folder
    with pytest.raises(PairError, match=r"holds README\.md, which does not belong to the pair"):
        trained.save(trained.folder)
    assert card.read_text() == "# My own words"


def test_a_model_that_is_incomplete_is_not_saved(tmp_path):
    one = model_folder(tmp_path / "one", weights=WEIGHTS[:-1])
    with pytest.raises(ModelNotFound, match="has 65 bytes"):
        save_trained(tmp_path / "pair", reasoner=TrainedModel(one), generator=TrainedModel(one), facts=FACTS)
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize(
    ("lengths", "limit"),
    [([7], 8), ([8], 16), ([10] * 99 + [500], 16), ([10] * 98 + [500] * 2, 504), (list(range(1, 101)), 104)],
)
def test_a_limit_cuts_at_most_one_in_a_hundred(lengths, limit):
    assert limit_for(lengths) == limit
    assert sum(length >= limit for length in lengths) <= len(lengths) / 100


def test_no_limit_is_chosen_without_signals():
    with pytest.raises(PairError, match="no signal was validated"):
        limit_for([])


class TestAdapters:
    """LoRA adapters in place of whole models."""

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Pair:
        return save_trained(
            tmp_path / "pair",
            reasoner=TrainedModel(adapter_folder(tmp_path / "lora"), base="Qwen/Qwen3-4B", revision="abc"),
            generator=TrainedModel(model_folder(tmp_path / "small")),
            facts=FACTS,
        )

    def test_an_adapter_is_kept_with_its_base(self, pair, tmp_path):
        entry = pair.manifest.reasoner
        assert (entry.model, entry.revision) == ("transformers/Qwen/Qwen3-4B", "abc")
        assert (entry.adapter, pair.adapter_folder("reasoner")) == (
            "reasoner-adapter",
            tmp_path / "pair" / "reasoner-adapter",
        )
        assert "reasoner-adapter/adapter_model.safetensors" in pair.manifest.files
        assert "LoRA adapters" in (pair.folder / "README.md").read_text()
        copy = Pair.load(pair.folder).save(tmp_path / "copy")
        assert copy.manifest == pair.manifest

    def test_an_adapter_is_not_used_unmerged(self, pair):
        with pytest.raises(PairError, match="reasoner is an adapter on transformers/Qwen/Qwen3-4B.*duet pair merge"):
            DuetClient.from_pair(pair)

    def test_an_adapter_without_a_base_is_refused(self, tmp_path):
        with pytest.raises(PairError, match="is an adapter of an unknown base"):
            save_trained(
                tmp_path / "pair",
                reasoner=TrainedModel(adapter_folder(tmp_path / "lora")),
                generator=TrainedModel(model_folder(tmp_path / "small")),
                facts=FACTS,
            )

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda folder: (folder / "adapter_model.safetensors").unlink(), "listed in pair.json but missing"),
            (lambda folder: (folder / "extra.json").write_text("{}"), r"extra\.json is not listed"),
            (lambda folder: (folder / "adapter_model.bin").write_bytes(b"x"), "may contain only safetensors"),
            (lambda folder: (folder / "adapter_config.json").write_text("{}"), "has 2 bytes, but"),
        ],
        ids=["weights gone", "unlisted", "pickled", "changed"],
    )
    def test_a_damaged_adapter_is_noticed(self, pair, damage, words):
        damage(pair.folder / "reasoner-adapter")
        with pytest.raises(PairError, match=words):
            Pair.load(pair.folder)

    @pytest.mark.parametrize(
        ("config", "weights", "words"),
        [
            ({"peft_type": "PREFIX"}, WEIGHTS, "no readable adapter_config.json of a LoRA adapter"),
            ({}, WEIGHTS[:-1], "has 65 bytes, but its header says 66"),
        ],
    )
    def test_an_adapter_that_could_not_be_loaded_is_not_saved(self, tmp_path, config, weights, words):
        lora = adapter_folder(tmp_path / "lora", **config)
        (lora / "adapter_model.safetensors").write_bytes(weights)
        with pytest.raises(PairError, match=words):
            save_trained(
                tmp_path / "pair",
                reasoner=TrainedModel(lora, base="a/b"),
                generator=TrainedModel(model_folder(tmp_path / "small")),
                facts=FACTS,
            )


class TestConformity:
    """Models and requests against what the manifest pins."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return random_weights(tmp_path_factory.mktemp("model") / "model")

    @pytest.fixture
    def model(self, folder: Path, tmp_path: Path) -> Path:
        """A real tiny model, to be changed."""
        return Path(shutil.copytree(folder, tmp_path / "model"))

    def named(self, model: Path, pair_folder: Path) -> Path:
        """A pair that pins the model's parts and names its folder, so that it can change under it."""
        pair = save_trained(
            pair_folder,
            reasoner=TrainedModel(model),
            generator=TrainedModel(model),
            facts=TrainingFacts(signal_tokens=4, answer_tokens=4),
        )
        entry = json.loads((pair_folder / "pair.json").read_text())["reasoner"]
        entry.pop("folder")
        shutil.rmtree(pair.folder / "reasoner")
        change(pair_folder, reasoner={**entry, "model": f"transformers/{model}"}, files={}, handoff="instruct")
        change(pair_folder, generator={**entry, "model": "scripted/fine"})
        return pair_folder

    def test_a_model_as_it_was_trained_is_used_in_silence(self, model, tmp_path, caplog):
        folder = self.named(model, tmp_path / "pair")
        with caplog.at_level(logging.WARNING), DuetClient.from_pair(folder, strict=True) as duet:
            assert duet.chat("How many?", mode="signal").signal.tokens > 0
        assert caplog.text == ""

    @pytest.mark.parametrize(
        ("file", "old", "new", "part"),
        [
            ("chat_template.jinja", "<|im_start|>", "<|im_start|> ", "chat template"),
            ("tokenizer.json", '"type"', ' "type"', "tokenizer"),
        ],
    )
    def test_another_tokenizer_or_template_is_told_once_and_refused_if_strict(
        self, model, tmp_path, caplog, file, old, new, part
    ):
        folder = self.named(model, tmp_path / "pair")
        (model / file).write_text((model / file).read_text().replace(old, new, 1))
        with caplog.at_level(logging.WARNING), DuetClient.from_pair(folder) as duet:
            for _ in range(2):
                duet.chat("How many?", mode="signal")
        told = [
            record.getMessage()
            for record in caplog.records
            if "differs from the one the pair was trained with" in record.message
        ]
        assert len(told) == 1
        assert f"({part});" in told[0]
        with DuetClient.from_pair(folder, strict=True) as duet:
            for _ in range(2):
                with pytest.raises(PairError, match=rf"differs from the one the pair was trained with \({part}\)"):
                    duet.chat("How many?", mode="signal")

    def test_another_quantisation_is_told(self, model, tmp_path, caplog):
        pair = Pair.load(self.named(model, tmp_path / "pair"))
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
        conformity = pair.conformity(strict=True)

        with pytest.raises(PairError, match=r"\(quantisation\)"):
            asyncio.run(conformity.check_model("reasoner", Scripted()))

    @pytest.mark.parametrize("strict", [False, True])
    async def test_a_servers_template_is_told_by_the_ids_that_it_makes(self, model, tmp_path, caplog, strict):
        folder = self.named(model, tmp_path / "pair")
        files = TokenizerFiles.from_folder(model)
        other = TokenizerFiles(
            files.tokenizer_json, (files.chat_template or "").replace("\n", " "), files.special_tokens
        )
        for served, deviates in ((files, False), (other, True)):
            async with FaultServer(Answer("17"), files=served) as server:
                values = json.loads((folder / "pair.json").read_text())["reasoner"]
                change(folder, reasoner={**values, "model": f"vllm/m@{server.url}"})
                caplog.clear()
                async with AsyncDuetClient.from_pair(folder, strict=strict) as duet:
                    if strict and deviates:
                        with pytest.raises(PairError, match=r"\(template or tokenizer\)"):
                            await duet.chat("How many?")
                    else:
                        with caplog.at_level(logging.WARNING):
                            assert (await duet.chat("How many?")).text == "fine"
                        assert ("(template or tokenizer)" in caplog.text) == deviates

    def test_tools_on_a_pair_trained_without_are_told_once_and_refused_if_strict(self, tmp_path, caplog):
        Pair.of("scripted/17", "scripted/fine").save(tmp_path / "pair")
        change(tmp_path / "pair", tools=False)
        with caplog.at_level(logging.WARNING), DuetClient.from_pair(tmp_path / "pair") as duet:
            for _ in range(2):
                duet.chat("How many?", tools=[TOOL])
        assert caplog.text.count("the pair was trained without them") == 1
        with DuetClient.from_pair(tmp_path / "pair", strict=True) as duet:
            assert duet.chat("How many?").text == "fine"
            with pytest.raises(PairError, match="trained without them"):
                duet.chat("How many?", tools=[TOOL])

    @pytest.mark.parametrize("tools", [None, True])
    def test_tools_are_fine_where_the_pair_had_them_or_nobody_knows(self, tmp_path, tools):
        Pair.of("scripted/17", "scripted/fine").save(tmp_path / "pair")
        change(tmp_path / "pair", tools=tools)
        with DuetClient.from_pair(tmp_path / "pair", strict=True) as duet:
            assert duet.chat("How many?", tools=[TOOL]).text == "fine"

    def test_the_pinned_conversation_is_the_one_that_serving_renders(self, model, tmp_path):
        from duet_sdk.pair.fingerprint import CONVERSATION, sum_of_ids

        pair = Pair.load(self.named(model, tmp_path / "pair"))
        ids = Renderer(TokenizerFiles.from_folder(model)).chat_ids(CONVERSATION)
        assert pair.manifest.reasoner.conversation == sum_of_ids(ids)
        assert CONVERSATION[0] == Message("user", "How many primes are below 60?")


# huggingface_hub 2.4 uses an argument of httpx that is on its way out.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
class TestUpload:
    """A pair to the hub and back."""

    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        pytest.importorskip("huggingface_hub", reason="needs the extra 'local'")
        monkeypatch.setenv("DUET_CACHE_DIR", str(tmp_path / "cache"))
        (tmp_path / "remote").mkdir()
        with serving({"me/pair": tmp_path / "remote"}) as server:
            monkeypatch.setattr("duet_sdk.pair.hub.Repository", partial(Repository, endpoint=server.url))
            monkeypatch.setenv("HF_TOKEN", "hf_test")
            # The library's newer way for large files is binary; the older one over HTTP can be scripted.
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
            yield server

    def test_a_pair_that_is_uploaded_is_loaded_from_the_hub(self, trained, hub: Hub):
        assert push(trained, "me/pair", endpoint=hub.url) == "b" * 40
        assert hub.made[0]["visibility"] == "private"
        loaded = Pair.load("me/pair")
        assert loaded.manifest == trained.manifest
        assert (loaded.folder / "reasoner" / "model.safetensors").read_bytes() == WEIGHTS
        assert (hub.repositories["me/pair"] / "README.md").is_file()

    def test_weights_go_as_large_files_and_all_in_one_commit(self, trained, hub: Hub):
        push(trained, "me/pair", endpoint=hub.url)
        (commit,) = hub.commits
        kinds = {one["value"]["path"]: one["key"] for one in commit if one["key"] != "header"}
        assert kinds["reasoner/model.safetensors"] == "lfsFile"
        assert set(kinds) == {"pair.json", "README.md", *trained.manifest.files}

    def test_what_lay_in_a_models_folder_there_is_removed(self, trained, hub: Hub):
        remote = hub.repositories["me/pair"]
        (remote / "reasoner").mkdir()
        (remote / "reasoner" / "old.safetensors").write_bytes(WEIGHTS)
        (remote / "notes.md").write_text("kept")
        push(trained, "me/pair", endpoint=hub.url)
        assert not (remote / "reasoner" / "old.safetensors").exists()
        assert (remote / "notes.md").read_text() == "kept"
        assert Pair.load("me/pair").manifest == trained.manifest

    def test_notes_beside_a_pair_stay_here(self, trained, hub: Hub):
        (trained.folder / "secret.txt").write_text("hf_…")
        push(trained, "me/pair", endpoint=hub.url)
        assert not (hub.repositories["me/pair"] / "secret.txt").exists()

    def test_a_damaged_pair_is_not_uploaded(self, trained, hub: Hub):
        (trained.folder / "reasoner" / "tokenizer.json").write_text("[]")
        with pytest.raises(PairError, match="the SHA-256 of .* differs from"):
            push(trained, "me/pair", endpoint=hub.url)
        assert hub.asked == []

    def test_a_pair_with_a_model_of_this_machine_is_not_uploaded(self, hub: Hub, tmp_path):
        one = model_folder(tmp_path / "one")
        pair = Pair.of(f"transformers/{one}", "scripted/x").save(tmp_path / "named")
        with pytest.raises(PairError, match="which exists only on this machine; bundle the pair first"):
            push(pair, "me/pair", endpoint=hub.url)

    @pytest.mark.parametrize("name", ["pair", "me/pair@v1", "a/b/c", ""])
    def test_what_is_no_name_of_a_repository_is_refused(self, trained, name):
        with pytest.raises(PairError, match="does not name a repository"):
            push(trained, name)

    def test_a_token_that_may_not_write_is_told(self, trained, hub: Hub):
        hub.error = (403, "Forbidden")
        with pytest.raises(Authentication, match="refused to write 'me/pair'; set HF_TOKEN"):
            push(trained, "me/pair", endpoint=hub.url)

    def test_a_hub_that_does_not_answer_is_told(self, trained, hub: Hub):
        with pytest.raises(ConnectFailed, match="uploading 'me/pair' failed"):
            push(trained, "me/pair", endpoint="http://127.0.0.1:9")


def asked(server: FaultServer) -> list[dict[str, object]]:
    """The bodies of all requests for output."""
    return [seen.body for seen in server.seen if seen.body and "max_tokens" in seen.body]


class TestServed:
    """A pair whose models others serve: handoff and limits of its manifest, its tokenizer, its checks."""

    @pytest.fixture
    def pair(self, tmp_path: Path) -> Pair:
        model = random_weights(tmp_path / "model")
        return save_trained(
            tmp_path / "pair",
            reasoner=TrainedModel(model),
            generator=TrainedModel(model),
            facts=TrainingFacts(signal_tokens=4, answer_tokens=5),
        )

    async def test_servers_take_the_place_of_both_models_and_the_manifests_limits_hold(self, pair):
        files = TokenizerFiles.from_folder(pair.folder / "reasoner")
        async with (
            FaultServer(Answer("17"), files=files) as one,
            FaultServer(Answer("There are 17."), files=files) as two,
        ):
            async with AsyncDuetClient.from_pair(
                pair, reasoner=f"vllm/m@{one.url}", generator=f"vllm/m@{two.url}", strict=True, handoff="instruct"
            ) as duet:
                reply = await duet.chat("How many?")
        assert reply.text == "There are 17."
        assert dict(duet.models) == {"reasoner": "vllm/m", "generator": "vllm/m"}
        assert [asked(server)[-1]["max_tokens"] for server in (one, two)] == [4, 5]

    async def test_a_server_of_another_model_is_refused_if_strict(self, pair):
        files = TokenizerFiles.from_folder(pair.folder / "reasoner")
        other = TokenizerFiles(
            files.tokenizer_json, (files.chat_template or "").replace("\n", " "), files.special_tokens
        )
        async with FaultServer(Answer("17"), files=other) as server:
            duet = AsyncDuetClient.from_pair(
                pair, reasoner=f"vllm/m@{server.url}", generator="scripted/x", strict=True, handoff="instruct"
            )
            async with duet:
                with pytest.raises(PairError, match="reasoner vllm/m differs from the one the pair was trained with"):
                    await duet.chat("How many?")

    def test_a_served_adapter_need_not_be_merged(self, tmp_path):
        pair = save_trained(
            tmp_path / "pair",
            reasoner=TrainedModel(adapter_folder(tmp_path / "lora"), base="Qwen/Qwen3-4B"),
            generator=TrainedModel(model_folder(tmp_path / "small")),
            facts=FACTS,
        )
        with DuetClient.from_pair(
            pair, reasoner="scripted/17", generator="scripted/There are 17.", handoff="instruct"
        ) as duet:
            assert duet.chat("How many?").text == "There are 17."


async def test_a_tokenizer_is_added_where_a_server_names_none(tmp_path):
    async with FaultServer(Answer("17")) as server:
        own = Endpoint(model="vllm/m", base_url=server.url, options={"tokenizer": "elsewhere"})
        assert with_tokenizer(own, tmp_path) is own
        assert with_tokenizer("scripted/a", tmp_path) == "scripted/a"
        assert with_tokenizer(plain := Scripted("17"), tmp_path) is plain
        named = f"vllm/m@{server.url}"
        for given in (named, Endpoint(model="vllm/m", base_url=server.url)):
            backend = with_tokenizer(given, tmp_path)
            with pytest.raises(ConfigError, match=f"there is no tokenizer '{tmp_path}'"):
                await backend.connect()
            await backend.aclose()
        first, second = with_tokenizer([named, "scripted/b"], tmp_path)
        assert (first.model, second) == ("m", "scripted/b")

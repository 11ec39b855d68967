"""Adapters merged into their bases: the merged model says what base and adapter together say, and loads anywhere."""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from toy_pair import family, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from duet_sdk import DuetClient, FailurePolicy, Pair
from duet_sdk.errors import PairError
from duet_sdk.pair import TrainedModel, TrainingFacts, merge_adapters, save_trained

# peft 0.21 asks by the name that transformers 5.24 has renamed; both work up to transformers 6.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

IDS = torch.tensor([[3, 5, 7, 11, 13]])


def train_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """An adapter whose weights differ from those it starts with, so that merging changes something."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype="auto"),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(pair: Path, tmp_path: Path) -> Pair:
    """A pair whose reasoner is an adapter on a toy model, and whose generator is whole."""
    lora = train_adapter(pair / "reasoner", tmp_path / "lora", seed=1)
    return save_trained(
        tmp_path / "adapters",
        reasoner=TrainedModel(lora, base=str(pair / "reasoner")),
        generator=TrainedModel(pair / "generator"),
        facts=TrainingFacts(signal_tokens=16, answer_tokens=8, metrics={"guided": 0.5}),
    )


def test_the_merged_model_says_what_base_and_adapter_say(adapters, pair, tmp_path):
    merged = merge_adapters(adapters, tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(pair / "reasoner", dtype=torch.float32)
    with torch.no_grad():
        before = base(IDS).logits
        expected = PeftModel.from_pretrained(base, adapters.adapter_folder("reasoner"))(IDS).logits
        found = AutoModelForCausalLM.from_pretrained(merged.folder / "reasoner", dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - before).abs().max() > 0.1


def test_the_merged_pair_is_whole_and_keeps_its_facts(adapters, pair, tmp_path):
    merged = merge_adapters(adapters, tmp_path / "merged")
    again = Pair.load(tmp_path / "merged")
    assert again == merged
    entry = again.manifest.reasoner
    assert (entry.folder, entry.adapter, entry.model) == ("reasoner", None, None)
    assert (entry.tokenizer, entry.chat_template) == (
        adapters.manifest.reasoner.tokenizer,
        adapters.manifest.reasoner.chat_template,
    )
    assert (again.manifest.metrics, again.manifest.limits.signal_tokens) == ({"guided": 0.5}, 16)
    assert not list((tmp_path / "merged").rglob("adapter_*"))
    assert (tmp_path / "merged" / "generator" / "model.safetensors").read_bytes() == (
        pair / "generator" / "model.safetensors"
    ).read_bytes()


def test_merging_needs_no_room_but_where_the_pair_goes(adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    merged = merge_adapters(adapters, tmp_path / "new" / "merged")
    assert [path.name for path in merged.folder.parent.iterdir()] == ["merged"]


def test_a_full_disk_is_told_in_words_and_leaves_nothing(adapters, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(PairError, match="cannot write the merged pair to "):
            merge_adapters(adapters, tmp_path / "new" / "merged")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_merged_pair_answers_and_is_what_it_pins(adapters, tmp_path):
    merge_adapters(adapters, tmp_path / "merged")
    question = family.chains(3, 1, lengths=[1])[0].question()
    # Random weights may write nothing but a think tag: here it counts that both models ran.
    kept = FailurePolicy(answer_empty="keep")
    with DuetClient.from_pair(tmp_path / "merged", strict=True, on_failure=kept) as duet:
        reply = duet.chat(list(question.messages))
    assert (reply.handoff, reply.usage.generator.output_tokens > 0) == ("think", True)


def test_a_pair_without_adapters_has_nothing_to_merge(pair, tmp_path):
    whole = save_trained(
        tmp_path / "whole",
        reasoner=TrainedModel(pair / "reasoner"),
        generator=TrainedModel(pair / "generator"),
        facts=TrainingFacts(),
    )
    with pytest.raises(PairError, match="has no adapters"):
        merge_adapters(whole, tmp_path / "merged")


def test_an_adapter_of_another_model_is_refused_and_nothing_is_left(adapters, tmp_path):
    models.save(tmp_path / "wider", hidden=64, layers=1, seed=5)
    place = adapters.folder / "pair.json"
    values = json.loads(place.read_text())
    values["reasoner"]["model"] = f"transformers/{tmp_path / 'wider'}"
    place.write_text(json.dumps(values))
    with pytest.raises(PairError, match="does not fit its base"):
        merge_adapters(Pair.load(adapters.folder), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()

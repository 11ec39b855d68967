"""What of a run goes into its pair: the hub's names, counts and rights, and nothing that tells of a machine."""

from __future__ import annotations

import json
from pathlib import Path

from duet_sdk.trainer.config import Data, TrainConfig
from duet_sdk.trainer.data import DataReport, Leak
from duet_sdk.trainer.result import published_config, published_data


def test_data_keep_counts_and_rights_and_name_the_hubs_sets_only():
    report = DataReport(
        read=12, train=8, validation=2, fingerprint="ab", rights="ours", unreadable_sources=["/home/me/a.jsonl, line 3"],
        leaks=[Leak("/home/me/a.jsonl, line 4", "owner/test, row 1", "how many primes are below sixty")],
    )  # fmt: skip
    data = Data(train="owner/questions:hard#train", validation="/home/me/v.jsonl")
    found = published_data(report.facts(), data)
    assert found["datasets"] == ["owner/questions"]
    assert (found["read"], found["train"], found["fingerprint"], found["rights"]) == (12, 8, "ab", "ours")
    assert "home" not in json.dumps(found)
    assert "primes" not in json.dumps(found)
    assert "datasets" not in published_data(report.facts(), Data(train="/home/me/a.jsonl"))


def test_the_configuration_keeps_last_names_of_files_and_whole_names_of_the_hub(tmp_path: Path):
    (tmp_path / "big").mkdir()
    config = TrainConfig.model_validate(
        {
            "output": str(tmp_path / "run"),
            "reasoner": {"model": str(tmp_path / "big")},
            "generator": {"model": "owner/small"},
            "data": {
                "train": str(tmp_path / "a.jsonl"),
                "validation": "owner/set#test",
                "leak_against": [str(tmp_path / "folder") + "#test"],
            },
        }
    )
    found = published_config(config)
    assert (found["reasoner"]["model"], found["generator"]["model"]) == ("big", "owner/small")
    assert [found["data"][name] for name in ("train", "validation", "leak_against")] == [
        "a.jsonl", "owner/set#test", ["folder#test"],
    ]  # fmt: skip
    assert str(tmp_path) not in json.dumps(found)

"""A run's batches are fitted to the card, or the machine, that it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from duet_sdk.trainer import machine
from duet_sdk.trainer.build import Start
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.plan import Hardware

Configure = Callable[..., TrainConfig]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Hardware]:
    """The hardware that runs are fitted to, with two cards of different size in the machine."""
    cards = [SimpleNamespace(total_memory=80_000_000_000), SimpleNamespace(total_memory=24_000_000_000)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    found: list[Hardware] = []
    fitted = machine.fitted
    monkeypatch.setattr(machine, "fitted", lambda *given: (found.append(given[2]), fitted(*given))[1])
    return found


def test_the_smallest_card_decides(configure: Configure, pair: Path, seen: list[Hardware]) -> None:
    config = configure(training={"use_cpu": False})
    machine.for_this_machine(config, Start(pair / "reasoner", pair / "generator"), processes=2)
    assert seen == [Hardware(gpus=2, gpu_gb=24)]


def test_accelerates_fsdp_is_known(
    configure: Configure, pair: Path, seen: list[Hardware], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = configure(training={"use_cpu": False})
    machine.for_this_machine(config, Start(pair / "reasoner", pair / "generator"), processes=2)
    assert seen[0].sharded


def test_processes_on_a_cpu_share_the_machine(configure: Configure, pair: Path, seen: list[Hardware]) -> None:
    for processes in (1, 2):
        machine.for_this_machine(configure(), Start(pair / "reasoner", pair / "generator"), processes=processes)
    one, two = seen
    assert one.gpus == 0
    assert two.gpu_gb == pytest.approx(one.to_fill_gb / 2)


def test_a_model_of_unknown_shape_gets_one_sequence_a_pass(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_embd": 8, "n_layer": 1}')
    config = machine.for_this_machine(configure(), Start(tmp_path, tmp_path), processes=1)
    assert (config.reasoner.gradient_accumulation, config.generator.gradient_accumulation) == (8, 16)
    assert (config.reasoner.sampled_at_once, config.generator.sampled_at_once) == (8, 16)

"""`plan`: from a configuration and hardware to what a run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import JsonValue

from duet_sdk.trainer.config import Model, TrainConfig
from duet_sdk.trainer.engine import missing_engine
from duet_sdk.trainer.plan.advice import memory, what_fits
from duet_sdk.trainer.plan.arithmetic import Batches, batches
from duet_sdk.trainer.plan.fit import fitted
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.launch import launch_lines
from duet_sdk.trainer.plan.lengths import length_problems, longest_sequences
from duet_sdk.trainer.plan.look import look_at
from duet_sdk.trainer.plan.memory import MemoryUse, engine_problem, peak
from duet_sdk.trainer.plan.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take; computed, not measured."""

    hardware: Hardware
    batches: Batches
    shapes: dict[str, ModelShape | None]
    """By stage; None if the model's shape is not known here."""
    parts: tuple[MemoryUse, ...]
    """Memory of each training GPU, by part; empty where a shape is not known."""
    launch: tuple[str, ...]
    """Command lines, in the order to start them."""
    problems: tuple[str, ...]
    """What does not fit; the run would fail."""
    notes: tuple[str, ...]
    """What is worth knowing before a start."""

    @property
    def peak_gb(self) -> float | None:
        """Most that a training GPU holds, in 10⁹ bytes: what is held all the time, and the larger of what is not.

        None where a shape is not known.
        """
        return peak(self.parts) if self.parts else None

    @property
    def fits(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, JsonValue]:
        """The plan as JSON has it."""
        return {
            "hardware": {**asdict(self.hardware), "processes": self.hardware.processes},
            "batches": asdict(self.batches),
            "parameters": {stage: None if shape is None else shape.parameters for stage, shape in self.shapes.items()},
            "memory": [asdict(part) for part in self.parts],
            "peak_gb": self.peak_gb,
            "launch": list(self.launch),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "fits": self.fits,
        }


def plan(
    config: TrainConfig,
    hardware: Hardware | None = None,
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    questions: int | None = None,
) -> Plan:
    """What a run will take.

    Args:
        config: the run.
        hardware: what it will run on; one GPU of 80 GB by default, or the CPU where the configuration says so.
        file: the configuration's file, for the launch line.
        overrides: values of the command line that ``config`` has over the file's, for the launch line.
        questions: to train on, where known.
    """
    machine = hardware or (Hardware.this_cpu() if config.training.use_cpu else Hardware())
    stages: dict[str, Model] = {"reasoner": config.reasoner, "generator": config.generator}
    found = {stage: look_at(stage, part) for stage, part in stages.items()}
    shapes = {stage: one.shape for stage, one in found.items()}
    run = fitted(config, shapes, machine)
    made = batches(run, processes=machine.processes, questions=questions)
    made = batches(run, processes=machine.processes, questions=questions)
    # Of what was given: the numbers that auto became are not to be mended.
    shared_out = batches(config, processes=machine.processes, questions=questions).problems
    problems = [problem for one in found.values() for problem in one.problems] + [*shared_out]
    notes = [note for one in found.values() for note in one.notes]
    problems += length_problems(config, {stage: None if one is None else one.window for stage, one in shapes.items()})
    for stage, longest in longest_sequences(config).items():
        if (shape := shapes[stage]) is not None:
            part = stages[stage]
            if machine.gpus and (problem := engine_problem(stage, part, shape, longest=longest, gpu_gb=machine.gpu_gb)):
                problems.append(problem)
    problems += _server_problems(stages, machine)
    notes += [*_sampling_notes(run, made, machine), *_notes(config, machine)]
    known = {stage: shape for stage, shape in shapes.items() if shape is not None}
    parts = memory(run, known, machine) if len(known) == len(stages) else []
    if parts and peak(parts) > machine.most_gb:
        told = problems if peak(parts) > machine.gpu_gb else notes
        told.append(f"{_too_much(parts, machine)}; {what_fits(config, known, machine)}")
    return Plan(
        hardware=machine,
        batches=made,
        shapes=shapes,
        parts=tuple(parts),
        launch=tuple(launch_lines(config, machine, file or Path("run.yaml"), overrides)),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _server_problems(stages: dict[str, Model], machine: Hardware) -> list[str]:
    needed = sum(
        part.vllm.tensor_parallel_size
        for part in stages.values()
        if part.vllm is not None and part.vllm.mode == "server"
    )
    found = []
    if needed and machine.nodes > 1:
        found.append(
            "vLLM servers are planned for one machine only: on several, start them yourself and name each in "
            "vllm.server_base_url, or use mode: colocate"
        )
    if needed > machine.server_gpus:
        found.append(
            f"vLLM servers need {needed} GPUs of their own and have {machine.server_gpus}: a server cannot share a GPU "
            "with a training process"
        )
    return found


def _notes(config: TrainConfig, machine: Hardware) -> list[str]:
    notes = []
    if machine.processes > 1 and not machine.sharded:
        notes.append("each process holds all of both models (DDP); FSDP2 shards them")
    if config.objective.reward == "additive" and config.objective.schedule == "dual":
        notes.append("the paper's reward with dual ascent: collapses where budget_tokens is below what the task needs")
    if config.training.use_cpu and (config.reasoner.vllm or config.generator.vllm):
        notes.append("vLLM computes from packed weights on some CPUs and then takes no new ones: omit vllm there")
    if (missing := missing_engine(config)) is not None:
        notes.append(missing)
    if config.rollout.unguided == 0:
        notes.append("answers without a signal are sampled in validation only (rollout.unguided is 0)")
    return notes


def _sampling_notes(config: TrainConfig, made: Batches, machine: Hardware) -> list[str]:
    """Where a GPU would wait for transformers' generation, which writes token by token for few sequences."""
    steps = {}
    for stage, part, batch in (
        ("reasoner", config.reasoner, made.reasoner),
        ("generator", config.generator, made.generator),
    ):
        calls = -(-batch.samples_per_process // batch.sampled_at_once)
        if part.vllm is None and machine.gpus and calls > 1:
            steps[stage] = f"{stage} {calls} × {part.max_new_tokens}"
    if not steps:
        return []
    return [
        f"transformers samples a round in up to ({', '.join(steps.values())}) steps, one after the other; vLLM "
        f"({' '.join(f'{stage}.vllm={{}}' for stage in steps)}) or a lower rollout.questions makes rounds shorter"
    ]


def _too_much(parts: list[MemoryUse], machine: Hardware) -> str:
    has, most = machine.gpu_gb, peak(parts)
    if most > has:
        what = "a GPU" if machine.gpus else "this machine"
        return f"{what} has {has:.0f} GB and the run needs about {most:.0f} ({_largest(parts)})"
    return (
        f"the run fills about {most:.1f} of a GPU's {has:.0f} GB ({_largest(parts)}); above nine tenths "
        f"({machine.most_gb:.1f}) it may run out, as this is an estimate"
    )


def _largest(parts: list[MemoryUse]) -> str:
    largest = sorted((part for part in parts if part.stage != "both"), key=lambda part: -part.gb)[:3]
    return ", ".join(f"{part.stage}'s {part.name} {part.gb:.1f}" for part in largest)

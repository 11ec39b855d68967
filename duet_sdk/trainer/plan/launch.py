"""How a run is started on given hardware."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from duet_sdk.trainer.config import Model, TrainConfig, Vllm
from duet_sdk.trainer.plan.hardware import Hardware
from duet_sdk.trainer.plan.lengths import longest_prompts

FSDP2 = "recipes/fsdp2.yaml"
"""accelerate's configuration for FSDP2, in the repository."""


def launch_lines(config: TrainConfig, hardware: Hardware, file: Path, overrides: Sequence[str] = ()) -> Iterator[str]:
    """The command lines, servers first; on several machines the last one runs on each of them.

    Args:
        config: the run.
        hardware: what it runs on; servers are placed on one machine only.
        file: the configuration's file.
        overrides: values of the command line that ``config`` has over the file's.
    """
    prompts, given = longest_prompts(config), shlex.join([str(file), *overrides])
    gpu = hardware.processes
    for stage, part in (("reasoner", config.reasoner), ("generator", config.generator)):
        if part.vllm is not None and part.vllm.mode == "server":
            size = part.vllm.tensor_parallel_size
            longest = prompts[stage] + part.max_new_tokens
            yield _server(part, part.vllm, gpus=range(gpu, gpu + size), longest=longest)
            gpu += size
    own = hardware.processes // hardware.nodes
    run = f"-m duet_sdk train run {given}"
    if hardware.processes == 1:
        yield f"duet train run {given}"
    elif hardware.sharded:
        across = ""
        if hardware.nodes > 1:
            across = (
                f" --num_machines {hardware.nodes} --machine_rank $RANK_OF_MACHINE --main_process_ip $FIRST_MACHINE "
                "--main_process_port 29500"
            )
        yield f"accelerate launch --config_file {FSDP2} --num_processes {hardware.processes}{across} {run}"
    else:
        across = ""
        if hardware.nodes > 1:
            across = (
                f" --nnodes {hardware.nodes} --node-rank $RANK_OF_MACHINE --master-addr $FIRST_MACHINE "
                "--master-port 29500"
            )
        yield f"torchrun --nproc-per-node {own}{across} {run}"


def _server(model: Model, vllm: Vllm, *, gpus: range, longest: int) -> str:
    port = (vllm.server_base_url or "http://127.0.0.1:8000").rstrip("/").rpartition(":")[2]
    visible = ",".join(map(str, gpus))
    named = ["--model", model.model, *(["--revision", model.revision] if model.revision else [])]
    return (
        f"CUDA_VISIBLE_DEVICES={visible} trl vllm-serve {shlex.join(named)} --port {port} "
        f"--tensor_parallel_size {vllm.tensor_parallel_size} --max_model_len {vllm.max_model_length or longest}"
    )

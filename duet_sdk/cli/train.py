"""The commands ``duet train …``: begin, warm up, train, report. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duet_sdk.cli.terminal import AsJson, Screen, print_json, reporting
from duet_sdk.errors import ConfigError, MissingExtra, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from duet_sdk.trainer.config import TrainConfig
    from duet_sdk.trainer.joint import Trained
    from duet_sdk.trainer.plan import Hardware

train_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train a pair together.")

RunFile = Annotated[Path, typer.Argument(help="YAML file of the run.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Values over the file's, as section.key=value.")]


def _gigabytes(given: str | float) -> float:
    """Memory of a card, in 10⁹ bytes."""
    try:
        size = float(given)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise typer.BadParameter(f"{given} is no size of a card; write its gigabytes as a number, such as 24")
    return size


@train_app.command("init", epilog="Example: duet train init run.yaml --data questions.jsonl --gpu-gb 24")
def train_init(
    file: Annotated[Path, typer.Argument(help="YAML file to write.")] = Path("run.yaml"),
    reasoner: Annotated[str, typer.Option(help="Folder or hub id of the model that writes signals.")] = (
        "Qwen/Qwen3-1.7B"
    ),
    generator: Annotated[str, typer.Option(help="Folder or hub id of the model that answers.")] = "Qwen/Qwen3-0.6B",
    data: Annotated[str, typer.Option(help="JSONL file or hub data set of questions.")] = "questions.jsonl",
    prompt_column: Annotated[str | None, typer.Option(help="Column of the question; looked for if not given.")] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of the answer; looked for if not given.")] = None,
    grader: Annotated[str | None, typer.Option(help="math, exact, choice, or module:function.")] = None,
    gpu_gb: Annotated[float, typer.Option(help="Memory of the GPU.", parser=_gigabytes, metavar="GB")] = 24.0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU.")] = False,
) -> None:
    """Write the YAML of a first run that fits the card, with comments. Writes over nothing."""
    with reporting():
        from duet_sdk.trainer.first_run import FirstRun, write_first_run

        size = None if cpu else gpu_gb
        # After the file: two runs in one folder would be taken for one that was changed.
        output = f"runs/{file.stem}"
        wanted = FirstRun(reasoner, generator, data, prompt_column, answer_column, grader, size, output)
        unseen, screen = write_first_run(file, wanted), Screen(stderr=True)
        for one in unseen:
            screen.print(f"note: {one}", soft_wrap=True)
        screen.print(f"wrote {file}; next: duet train run {file} --dry-run{_on(size)}", soft_wrap=True)


@train_app.command("run", epilog="Example: duet train run run.yaml objective.alpha=0.2 training.rounds=100")
def train_run(
    file: RunFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the run takes, and load nothing.")] = False,
    gpus: Annotated[int | None, typer.Option(help="For --dry-run: GPUs of a machine; 0 for the CPU.", min=0)] = None,
    nodes: Annotated[int, typer.Option(help="For --dry-run: machines.", min=1)] = 1,
    gpu_gb: Annotated[
        float | None,
        typer.Option(
            help="For --dry-run: memory of a GPU; 80 if not given, and the machine's for the CPU.",
            parser=_gigabytes,
            metavar="GB",
        ),
    ] = None,
    server_gpus: Annotated[int, typer.Option(help="For --dry-run: GPUs that vLLM servers have.", min=0)] = 0,
    fsdp2: Annotated[bool, typer.Option("--fsdp2", help="For --dry-run: shared out by FSDP2.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train both models as the file says; ends in a pair that `duet ask --pair` loads.

    With propose.cycles the reasoner first learns shorter forms of its signals.
    """
    with reporting():
        from duet_sdk.trainer.files import load_config

        config = load_config(file, overrides or ())
        if dry_run:
            from duet_sdk.trainer.plan import Hardware

            if gpus is None:
                gpus = 0 if config.training.use_cpu else 1
            usual = Hardware() if gpus else Hardware.this_cpu()
            hardware = Hardware(gpus, nodes, gpu_gb or usual.gpu_gb, server_gpus, fsdp2)
            assumed = gpus > 0 and gpu_gb is None
            _show_plan(config, file, overrides or (), hardware, as_json=as_json, assumed=assumed)
            return
        trained = _train(config, file.resolve().parent, resume=resume)
        facts = json.loads((config.output / "result.json").read_text("utf-8")) if trained.pair else {}
        facts |= {"stopped": trained.stopped, "pair": str(trained.pair.folder) if trained.pair else None}
        if as_json:
            print_json(facts)
        screen = Screen(stderr=True)
        if trained.stopped == "signal":
            screen.print(f"stopped and saved after round {trained.rounds}; continue with --resume")
            raise typer.Exit(143)  # as shells tell of a process that SIGTERM ended
        if trained.stopped is not None:
            raise TrainingError(
                f"the run collapsed and was ended after round {trained.rounds}: {trained.stopped}; "
                f"{config.output}/decisions.jsonl has what was tried"
            )
        if trained.pair is not None:
            rounds = "1 round" if trained.rounds == 1 else f"{trained.rounds} rounds"
            screen.print(f"trained {rounds}; the pair is in {trained.pair.folder}")


@train_app.command("warmup", epilog="Example: duet train warmup run.yaml warmup.questions=1024")
def train_warmup(file: RunFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Teach both models signals of varied length, from the reasoner's own long ones.

    The tuned models go to OUTPUT/warm/reasoner and OUTPUT/warm/generator; name them as models of the run.
    """
    with reporting():
        from duet_sdk.trainer.files import load_config

        config = load_config(file, overrides or ())
        _needs_extra()
        from duet_sdk.trainer.joint import JointTrainer
        from duet_sdk.trainer.stages import run_warmup

        trainer = JointTrainer(config, beside=file.resolve().parent)
        try:
            report = run_warmup(config, trainer=trainer)
        finally:
            trainer.close()
        if as_json:
            print_json(report)
        Screen(stderr=True).print(f"the warmed-up models are in {config.output / 'warm'}")


@train_app.command("report", epilog="Example: duet train report runs/first")
def train_report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, also of one that is under way.")],
    to: Annotated[Path | None, typer.Option(help="File to write; RUN/report.html if not given.")] = None,
) -> None:
    """Make a page with a run's curves, decisions and samples."""
    with reporting():
        from duet_sdk.trainer.report import write_report

        if not run.is_dir():
            raise ConfigError(f"there is no folder {run}; name the output folder of a run")
        sys.stdout.write(f"{write_report(run, to)}\n")


def _on(gpu_gb: float | None) -> str:
    return "" if gpu_gb is None else f" --gpu-gb {gpu_gb:g}"


def _train(config: TrainConfig, beside: Path, *, resume: bool) -> Trained:
    from duet_sdk.trainer.engine import check_engine

    _needs_extra()
    check_engine(config)
    from accelerate import PartialState

    from duet_sdk.trainer.joint import JointTrainer
    from duet_sdk.trainer.report.lines import batches_line, round_line
    from duet_sdk.trainer.stages import run_training

    screen = Screen(stderr=True)

    def tell(row: Mapping[str, JsonValue]) -> None:
        if (line := round_line(row, trainer.rounds)) is not None:
            screen.print(line, soft_wrap=True)

    trainer = JointTrainer(config, beside=beside, tell=tell)
    if trainer.journal.writes:
        screen.print(batches_line(trainer.config), soft_wrap=True)
    trained = run_training(config, resume=resume, trainer=trainer)
    # A process group that is left open can abort a process at its exit, after all is saved.
    PartialState().destroy_process_group()
    return trained


def _show_plan(
    config: TrainConfig, file: Path, overrides: Sequence[str], hardware: Hardware, *, as_json: bool, assumed: bool
) -> None:
    from duet_sdk.trainer.data import grader_problem, questions_ahead
    from duet_sdk.trainer.plan import plan, print_plan
    from duet_sdk.trainer.plan.look import prompts_here

    questions, unread = None, []
    prompts = prompts_here(config)
    count = None if prompts is None else lambda question: len(prompts.ask_ids(question.messages))
    try:
        questions = questions_ahead(config.data, seed=config.seed, count_tokens=count)
    except TrainingError as err:
        unread.append(str(err))
    if (problem := grader_problem(config.data, beside=file.resolve().parent)) is not None:
        unread.append(problem)
    made = plan(config, hardware, file=file, overrides=overrides, questions=questions)
    notes = (f"a GPU of {hardware.gpu_gb:g} GB was assumed; name yours with --gpu-gb",) if assumed else ()
    made = replace(made, problems=(*made.problems, *unread), notes=(*notes, *made.notes))
    if as_json:
        print_json(made.to_dict())
    else:
        print_plan(made, Screen())
    if not made.fits:
        raise typer.Exit(1)


def _needs_extra() -> None:
    """Refuse in words where the libraries of training are missing.

    Raises:
        MissingExtra: one is.
    """
    from importlib.util import find_spec

    for library in ("torch", "trl", "greenlet", "datasets", "peft"):
        if find_spec(library) is None:
            raise MissingExtra(f"training ({library} is missing)", extra="train")

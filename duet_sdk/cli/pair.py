"""The commands ``duet pair …``: show, save, check, merge and push pairs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from duet_sdk.backends.connect import split_name
from duet_sdk.cli.pair_facts import facts_table
from duet_sdk.cli.terminal import AsJson, Screen, print_json, progress_bar, reporting
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.client import AsyncDuetClient
from duet_sdk.errors import EvaluationError, PairError
from duet_sdk.pair import Pair, merge_adapters, push
from duet_sdk.policies import Budget
from duet_sdk.types import HandoffName, Stage

pair_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Pairs on disk.")

Folder = Annotated[str, typer.Argument(help="Folder or hub id.")]


@pair_app.command("show", epilog="Example: duet pair show ./my-pair --json")
def pair_show(folder: Folder, as_json: AsJson = False) -> None:
    """Show what a pair is made of, and check its files; --json has the whole manifest."""
    with reporting():
        pair = Pair.load(folder)
        if as_json:
            print_json(pair.manifest.model_dump(mode="json", exclude_none=True))
        else:
            Screen().print(facts_table(pair))


@pair_app.command(
    "save", epilog="Example: duet pair save ./my-pair --reasoner transformers/./big --generator transformers/./small"
)
def pair_save(
    folder: Annotated[Path, typer.Argument(help="Where the pair goes.")],
    reasoner: Annotated[str, typer.Option(help="Model that writes the signal, as backend/model.")],
    generator: Annotated[str, typer.Option(help="Model that writes the answer, as backend/model.")],
    handoff: Annotated[HandoffName, typer.Option(help="How the signal reaches the generator.")] = "instruct",
    signal_tokens: Annotated[int | None, typer.Option(help="Limit of the signal in tokens.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="Limit of the answer in tokens.")] = None,
    bundle: Annotated[bool, typer.Option("--bundle", help="Copy models that are named as folders.")] = False,
) -> None:
    """Write a pair that `duet ask --pair` and DuetClient.from_pair load."""
    with reporting():
        for name in (reasoner, generator):
            split_name(name)  # a pair holds any backend's names, also those that are not installed here
        pair = Pair.of(
            reasoner,
            generator,
            handoff=handoff,
            budget=Budget(signal_tokens=signal_tokens, answer_tokens=answer_tokens),
        )
        if bundle and not any(pair.tokenizer_folder(stage) for stage in pair.manifest.stages):
            raise PairError(
                "--bundle copies models that are local folders, and neither is one: pull them, and name their folders, "
                'such as --reasoner "transformers/$(duet models pull embedded)"; or save the names, without --bundle'
            )
        saved = pair.bundle(folder) if bundle else pair.save(folder)
        _done(f"saved {saved.folder}")
        if bundle:
            _tell_what_is_not_copied(saved)


@pair_app.command("check", epilog="Example: duet pair check ./my-pair --questions held-out.jsonl --at-least 0.1")
def pair_check(
    folder: Folder,
    questions: Annotated[str, typer.Option(help="JSONL file or hub data set, held out from training.")],
    prompt_column: Annotated[str, typer.Option(help="Column of the question.")] = "prompt",
    answer_column: Annotated[str, typer.Option(help="Column of the right answer.")] = "answer",
    grader: Annotated[str, typer.Option(help="math, exact, choice, or module:function.")] = "exact",
    most: Annotated[int, typer.Option(help="Most questions to ask, the first of them.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of both models' sampling.")] = 0,
    at_least: Annotated[
        float | None, typer.Option(help="Utility that the interval must lie above, else the exit code is 1.")
    ] = None,
    reasoner: Annotated[str | None, typer.Option(help="Model that serves the pair's reasoner.")] = None,
    generator: Annotated[str | None, typer.Option(help="Model that serves the pair's generator.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse models that differ from the training's.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure what the signal is worth on held-out questions, with 95 % intervals: after a model or server changed."""
    from duet_sdk.evaluation.datasets import read_questions
    from duet_sdk.evaluation.grading import find_grader
    from duet_sdk.evaluation.rows import MissingColumn
    from duet_sdk.evaluation.utility import Utility, measure_utility

    async def work(tell: Any) -> Utility:
        async with AsyncDuetClient.from_pair(
            pair, reasoner=reasoner, generator=generator, strict=strict, settings=read
        ) as client:
            return await measure_utility(client, asked, judge, recorded=_recorded(pair), seed=seed, tell=tell)

    with reporting():
        read = settings(config)
        pair = Pair.load(folder)
        try:
            asked = read_questions(questions, prompt_column=prompt_column, answer_column=answer_column)[:most]
        except MissingColumn as err:
            raise MissingColumn(err.what, instead="name them with --prompt-column and --answer-column") from err
        judge = find_grader(grader, beside=Path.cwd())
        try:
            with progress_bar() as tell:
                found = asyncio.run(work(tell))
        finally:
            judge.close()
        if as_json:
            print_json(found.to_dict())
        else:
            _print_utility(found)
        if at_least is not None and found.utility.low < at_least:
            raise EvaluationError(
                f"the signal's utility is {found.utility.value:.3f}, its 95 % interval begins at "
                f"{found.utility.low:.3f}, and --at-least asks for {at_least:g}"
            )


@pair_app.command("merge", epilog="Example: duet pair merge ./my-pair ./my-pair-merged")
def pair_merge(folder: Folder, target: Annotated[Path, typer.Argument(help="Where the merged pair goes.")]) -> None:
    """Merge a pair's LoRA adapters into copies of their bases."""
    with reporting():
        merged = merge_adapters(Pair.load(folder), target)
        _done(f"saved {merged.folder}")


@pair_app.command("push", epilog="Example: duet pair push ./my-pair me/my-pair")
def pair_push(
    folder: Folder,
    hub_id: Annotated[str, typer.Argument(help="Repository, as owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="For a repository that is made now.")] = False,
) -> None:
    """Upload a pair to the hub, both models in one repository; needs HF_TOKEN."""
    with reporting():
        commit = push(Pair.load(folder), hub_id, private=not public)
        _done(f"uploaded {hub_id}@{commit}")


def _print_utility(found: Any) -> None:
    table = Table("", "share", "95 % interval")
    for name in ("guided", "alone", "utility"):
        interval = getattr(found, name)
        table.add_row(name, f"{interval.value:.3f}", f"{interval.low:.3f} – {interval.high:.3f}")
    recorded = "" if found.recorded is None else f" · {found.recorded:.3f} at training"
    table.caption = (
        f"{found.questions} questions, {found.failed} failed · {found.signal_tokens:.1f} signal tokens · "
        f"verdict {found.verdict}{recorded}"
    )
    Screen().print(table)


def _tell_what_is_not_copied(pair: Pair) -> None:
    specs: dict[Stage, str] = {"reasoner": pair.reasoner_spec, "generator": pair.generator_spec}
    for stage, spec in specs.items():
        if pair.model_folder(stage) is None:
            _done(
                f"note: the {stage} stays a name, {spec}: only a model that is named as a folder is copied"
                + ("; `duet models` shows the folders of the cache" if spec.startswith("transformers/") else "")
            )


def _recorded(pair: Pair) -> float | None:
    metrics = pair.manifest.metrics
    value = metrics.get("utility") if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _done(what: str) -> None:
    Screen(stderr=True).print(what)

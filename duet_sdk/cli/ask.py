"""The command ``duet``: answers on standard output, everything else on standard error.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from duet_sdk import models
from duet_sdk.cli.ledger import ledger_app
from duet_sdk.cli.pair import pair_app
from duet_sdk.cli.terminal import AsJson, Screen, print_json, progress_bar, reporting, safe_streams, write_exactly
from duet_sdk.cli.train import train_app
from duet_sdk.cli.trust import ConfigFile, settings, trust
from duet_sdk.client import EMBEDDED
from duet_sdk.errors import DuetError, InvalidRequest
from duet_sdk.events import AnswerDelta, Event, FellBack, Retried, SignalDelta, SignalDone
from duet_sdk.options import ClientOptions
from duet_sdk.policies import Budget
from duet_sdk.reply import Reply
from duet_sdk.sync import DuetClient, SyncRun
from duet_sdk.telemetry import configure
from duet_sdk.telemetry.tree import span_tree
from duet_sdk.types import Mode

app = typer.Typer(
    name="duet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,  # they may hold keys
)
models_app = typer.Typer(no_args_is_help=False, rich_markup_mode=None, help="Local models in the cache.")
app.add_typer(pair_app, name="pair")
app.add_typer(models_app, name="models")
app.add_typer(ledger_app, name="ledger")
app.add_typer(train_app, name="train")
app.command(epilog="Example: duet trust .")(trust)

Reasoner = Annotated[str | None, typer.Option(help="Model that writes the signal, as backend/model.")]
Generator = Annotated[str | None, typer.Option(help="Model that writes the answer, as backend/model.")]
PairName = Annotated[
    str | None, typer.Option("--pair", help="Folder or hub id of a pair; models named as well serve the pair's.")
]
ModeName = Annotated[Mode, typer.Option(help="Who is asked: the pair, one of them, or for a signal alone.")]
SignalTokens = Annotated[int | None, typer.Option(help="Limit of the signal in tokens.")]
AnswerTokens = Annotated[int | None, typer.Option(help="Limit of the answer in tokens.")]
DeadlineS = Annotated[float | None, typer.Option("--deadline", help="Seconds for the whole request.")]
Otlp = Annotated[
    str | None, typer.Option("--otlp", help="Collector that gets traces and metrics, such as http://127.0.0.1:4318.")
]


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def every_command(context: typer.Context) -> None:
    """A large reasoner writes a short signal, a light generator writes the answer."""
    if context.invoked_subcommand != "train":  # its libraries draw bars, and write nothing of servers
        context.with_resource(safe_streams())


@app.command(epilog='Example: duet ask "How many primes are below 60?" --signal-tokens 128')
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    reasoner: Reasoner = None,
    generator: Generator = None,
    pair: PairName = None,
    mode: ModeName = "duet",
    signal_tokens: SignalTokens = None,
    answer_tokens: AnswerTokens = None,
    deadline_s: DeadlineS = None,
    config: ConfigFile = None,
    otlp: Otlp = None,
    trace: Annotated[bool, typer.Option("--trace", help="Print the request's spans: tokens, cost, time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask one question, and show signal and answer as they are written."""
    last_lines = print_tree if trace else print_figures
    with reporting(), exporting(otlp):
        text = _standard_input() if question == "-" else question
        budget = Budget(signal_tokens=signal_tokens, answer_tokens=answer_tokens, deadline_s=deadline_s)
        with _client(reasoner, generator, pair, budget, config) as duet:
            if as_json:
                reply = duet.chat(text, mode=mode)
                print_json(reply.to_dict())
                say_how_it_ended(Screen(stderr=True), reply)
                if trace:
                    print_tree(Screen(stderr=True), reply)
            else:
                reply = show(duet.stream(text, mode=mode), last_lines)
        if reply.is_empty:
            raise typer.Exit(1)


@app.command(epilog="Example: duet chat --system 'Answer in French.'")
def chat(
    reasoner: Reasoner = None,
    generator: Generator = None,
    pair: PairName = None,
    mode: ModeName = "duet",
    signal_tokens: SignalTokens = None,
    answer_tokens: AnswerTokens = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    config: ConfigFile = None,
    otlp: Otlp = None,
) -> None:
    """Talk to a pair, turn by turn; an empty line or end of input ends it."""
    screen = Screen(stderr=True)
    with reporting(), exporting(otlp):
        budget = Budget(signal_tokens=signal_tokens, answer_tokens=answer_tokens)
        with _client(reasoner, generator, pair, budget, config) as duet:
            talk = duet.conversation(system=system)
            while text := _next_line(screen):
                show(talk.stream(text, mode=mode), print_figures)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not UTF-8 text") from None


def _next_line(screen: Screen) -> str:
    screen.print(Text("you ", "bold"), end="")
    return sys.stdin.readline().strip()


@contextmanager
def exporting(url: str | None) -> Iterator[None]:
    """Export traces and metrics to that collector, where there is one, and say what did not reach it."""
    if url is None:
        yield
        return
    export = configure(url)
    try:
        yield
    finally:
        export.shutdown()
        if lost := export.spans.undelivered:
            Screen(stderr=True).print(f"{lost} spans did not reach {url}", style="yellow")


def show(run: SyncRun, last_lines: Callable[[Screen, Reply], None]) -> Reply:
    """Stream one request to the terminal: the answer to standard output, signal and figures to standard error."""
    screen = Screen(stderr=True)
    heading, answer = "", ""
    try:
        with run:
            for event in run:
                heading = _show_event(screen, event, heading)
                if isinstance(event, AnswerDelta) and event.index == 0:
                    answer += event.text
                elif isinstance(event, Retried | FellBack) and event.discard:
                    answer = ""
    except DuetError:
        last_lines(screen, run.reply)  # what it had cost until then
        raise
    sys.stdout.write(run.reply.signal.text + "\n" if run.reply.mode == "signal" else "\n")
    sys.stdout.flush()
    if run.reply.mode != "signal" and answer.strip() != run.reply.text.strip():
        screen.print("that began with thinking; the answer:", style="yellow")
        sys.stdout.write(run.reply.text.strip() + "\n")
        sys.stdout.flush()
    say_how_it_ended(screen, run.reply)
    last_lines(screen, run.reply)
    return run.reply


def say_how_it_ended(screen: Screen, reply: Reply) -> None:
    """Say why an answer is not whole, where it is not."""
    if reply.finish_reason not in ("stop", "tool_calls"):
        screen.print(reply.why, style="yellow")


def _show_event(screen: Screen, event: Event, heading: str) -> str:
    """Print an event; return the heading that is open now."""
    match event:
        case SignalDelta(text):
            if heading != "signal":
                screen.print(Text("signal ", "bold cyan"), end="")
            screen.print(text, style="dim", end="", soft_wrap=True)
            return "signal"
        case SignalDone(signal):
            by_limit = f" at {signal.limit} tokens" if signal.tokens >= signal.limit else ""
            cut = f" (cut{by_limit})" if signal.truncated else ""
            screen.print(f"{cut}\n", style="dim")
            return ""
        case FellBack(stage, served_by, error_type, error=error):
            screen.print(f"{stage} failed ({error_type}: {error}): going on as {served_by}", style="yellow")
        case Retried(stage, error=error):
            screen.print(f"{stage} starts over ({error})" if error else f"{stage} starts over", style="yellow")
            return ""
        case AnswerDelta(text, 0):
            if heading != "answer":
                screen.print(Text("answer ", "bold green"), end="")
            sys.stdout.write(text)
            sys.stdout.flush()
            return "answer"
        case _:
            pass
    return heading


def print_tree(screen: Screen, reply: Reply) -> None:
    """Print the request's spans; their lines are longer than the screen is wide rather than broken."""
    screen.print(span_tree(reply), soft_wrap=True)


def print_figures(screen: Screen, reply: Reply) -> None:
    """Print tokens, limit, cost and time by stage."""
    table = Table("stage", "model", "input", "output", "limit", "USD", "seconds", title_justify="left")
    for attempt in reply.receipt.attempts:
        limit = str(reply.signal.limit) if attempt.stage == "reasoner" and reply.signal.limit else ""
        usd = "unknown" if attempt.usd is None else f"{attempt.usd:f}"
        usage, about = attempt.usage, "~" if attempt.usage.estimated else ""
        tokens = (f"{about}{usage.input_tokens}", f"{about}{usage.output_tokens}")
        table.add_row(attempt.stage, attempt.model, *tokens, limit, usd, f"{attempt.duration_s:.2f}")
    usd = "unknown" if reply.cost.usd is None else f"{reply.cost.usd:f}"
    total = f"{reply.usage.total_tokens} tokens, {usd} USD, {reply.receipt.duration_s:.2f} s"
    table.caption = f"served by {reply.served_by} · {total}"
    screen.print(table)


@models_app.callback(invoke_without_command=True, epilog="Example: duet models --json")
def models_list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models in the cache: where they are, and their size."""
    if context.invoked_subcommand is not None:
        return
    with reporting():
        found = models.listing()
        if as_json:
            rows = [asdict(model) | {"path": str(model.path)} for model in found]
            print_json(rows)
            return
        table = Table("model", "MB", "source", "path", caption=str(models.cache_folder()))
        for model in found:
            table.add_row(model.name, f"{model.size_bytes / 1e6:.0f}", model.source, str(model.path))
        Screen().print(table)


@models_app.command("pull", epilog="Example: duet models pull embedded")
def models_pull(
    name: Annotated[str, typer.Argument(help="Hub id, or 'embedded'.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch a model into the cache."""
    with reporting(), progress_bar() as tell:
        path = (
            models.embedded(progress=tell)
            if name == "embedded"
            else models.pull(name, revision=revision, progress=tell)
        )
    print(path)


@models_app.command("remove", epilog="Example: duet models remove embedded")
def models_remove(name: Annotated[str, typer.Argument(help="As `duet models` lists it, or 'embedded'.")]) -> None:
    """Remove a model from the cache."""
    with reporting():
        models.remove(models.EMBEDDED if name == "embedded" else name)


@models_app.command("template", epilog="Example: duet models template Qwen/Qwen3-0.6B > duet.jinja")
def models_template(
    name: Annotated[str, typer.Argument(help="Hub id, folder, or 'embedded'.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Print a model's chat template made to take a signal, for `vllm serve --chat-template`."""
    from duet_sdk.rendering import TokenizerFiles, signal_template

    with reporting():
        write_exactly(signal_template(TokenizerFiles.from_folder(models.locate(name, revision=revision))) + "\n")


def _client(
    reasoner: str | None, generator: str | None, pair: str | None, budget: Budget, config: Path | None
) -> DuetClient:
    options: ClientOptions = {"budget": budget}
    read = settings(config)
    if pair is not None:
        return DuetClient.from_pair(pair, reasoner=reasoner, generator=generator, settings=read, **options)
    duet = DuetClient(reasoner, generator, settings=read, **options)
    if EMBEDDED in duet.models.values():
        with progress_bar() as tell:
            models.embedded(progress=tell)
    return duet

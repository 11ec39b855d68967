"""What `duet ask` and `duet chat` take in common: which pair, how it is asked, and within which limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

import typer

from duet_sdk import models
from duet_sdk.cli.terminal import Screen, progress_bar
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.client import EMBEDDED
from duet_sdk.options import CallOptions, ClientOptions
from duet_sdk.policies import Budget
from duet_sdk.sync import DuetClient
from duet_sdk.types import GateName, HandoffName, Mode


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The options that `duet ask` and `duet chat` share: each field is one, see `taking`."""

    reasoner: Annotated[
        str | None, typer.Option("--reasoner", "-r", help="Model that writes the signal, as backend/model.")
    ] = None
    generator: Annotated[
        str | None, typer.Option("--generator", "-g", help="Model that writes the answer, as backend/model.")
    ] = None
    pair: Annotated[
        str | None,
        typer.Option("--pair", "-p", help="Folder or hub id of a pair; models named as well serve the pair's."),
    ] = None
    mode: Annotated[
        Mode, typer.Option("--mode", "-m", help="Who is asked: the pair, one of them, or for a signal alone.")
    ] = "duet"
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.")] = None
    signal_tokens: Annotated[int | None, typer.Option(help="Limit of the signal in tokens.")] = None
    answer_tokens: Annotated[int | None, typer.Option(help="Limit of the answer in tokens.")] = None
    total_tokens: Annotated[int | None, typer.Option(help="Limit of all tokens, prompts included.")] = None
    cost_usd: Annotated[str | None, typer.Option(help="Limit in USD, as an exact number.")] = None
    deadline: Annotated[float | None, typer.Option(help="Seconds for the whole request.")] = None
    signal_deadline: Annotated[float | None, typer.Option(help="Seconds until the signal must be done.")] = None
    gate: Annotated[GateName | None, typer.Option(help="Whether the reasoner is asked.")] = None
    handoff: Annotated[HandoffName | None, typer.Option(help="How the signal reaches the generator.")] = None
    on_failure: Annotated[
        Literal["answer", "raise"] | None,
        typer.Option(help="When a model fails: go on with the other one, or end with the error."),
    ] = None
    temperature: Annotated[float | None, typer.Option(help="How freely the answer is sampled; 0 is greedy.")] = None
    tenant: Annotated[str | None, typer.Option(help="Who pays in the ledger: the scope tenant:NAME.")] = None
    config: ConfigFile = None
    otlp: Annotated[
        str | None, typer.Option(help="Collector that gets traces and metrics, such as http://127.0.0.1:4318.")
    ] = None

    def client(self) -> DuetClient:
        """The client for this pair; the embedded model is fetched first, with a bar.

        Raises:
            ConfigError: a name or a value that cannot work.
            PairError: the pair cannot be used.
        """
        budget = Budget(
            signal_tokens=self.signal_tokens,
            answer_tokens=self.answer_tokens,
            total_tokens=self.total_tokens,
            cost_usd=self.cost_usd,  # type: ignore[arg-type]  # Budget reads the text itself
            deadline_s=self.deadline,
            signal_deadline_s=self.signal_deadline,
        )
        options = ClientOptions(budget=budget, gate=self.gate, handoff=self.handoff, on_failure=self.on_failure)
        read = settings(self.config)
        if self.tenant is not None and read.ledger is None:
            Screen(stderr=True).print(f"no ledger is set, so nothing is booked on tenant {self.tenant!r}", style="dim")
        if self.pair is not None:
            return DuetClient.from_pair(
                self.pair, reasoner=self.reasoner, generator=self.generator, settings=read, **options
            )
        duet = DuetClient(self.reasoner, self.generator, settings=read, **options)
        if EMBEDDED in duet.models.values():
            with progress_bar() as tell:
                models.embedded(progress=tell)
        return duet

    def call(self, *, n: int = 1) -> CallOptions:
        """What a request for ``n`` answers is asked with."""
        return CallOptions(mode=self.mode, n=n, temperature=self.temperature, tenant=self.tenant)


def taking(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take an object of this dataclass as ``options``: each of its fields is an option of the command.

    Typer reads a command's own parameters only; this writes the fields among them.
    """
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(kind)
    ]

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in inspect.signature(command, eval_str=True).parameters.values()
            if one.name != "options"
        ]

        def run(**given: Any) -> None:
            options = {one.name: given.pop(one.name) for one in shared}
            command(options=kind(**options), **given)

        first = [one for one in own if one.default is inspect.Parameter.empty]
        rest = [one for one in own if one.default is not inspect.Parameter.empty]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([*first, *shared, *rest])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*first, *shared, *rest)}
        return run

    return wrap

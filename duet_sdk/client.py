"""`AsyncDuetClient`: builds a pair from the models and options given, and owns its lifetime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack, cast, get_args

from typing_extensions import override

from duet_sdk._checks import one_of, seconds
from duet_sdk._foreign import Client, OnlyAsync, with_completions
from duet_sdk._signatures import shows, with_attributes
from duet_sdk.backends.base import Backend
from duet_sdk.backends.connect import ModelLike, connect, split_name, with_tokenizer
from duet_sdk.backends.resilience import Breaker
from duet_sdk.backends.shared import one_client
from duet_sdk.budget import RequestBudget, connect_ledger
from duet_sdk.context import context_policy
from duet_sdk.conversation import AsyncConversation
from duet_sdk.errors import BoundaryRefused, BudgetExceeded, ConfigError, InvalidRequest
from duet_sdk.gate import Always, GateLike, find_gate
from duet_sdk.messages import MessagesLike, check_tools, parse_messages
from duet_sdk.options import TABLES, CallOptions, ClientOptions, dial, expect, over, request_of
from duet_sdk.pipeline.admission import told_prompt_tokens
from duet_sdk.pipeline.charging import Charging, scopes_of
from duet_sdk.pipeline.degraded import Degraded
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.models import DEFAULT_GATE_DEADLINE_S, Parts, StageModel
from duet_sdk.pipeline.outbox import Outbox
from duet_sdk.pipeline.request import answer
from duet_sdk.policies import (
    DEFAULT_BUDGET,
    BreakerPolicy,
    Budget,
    Progressive,
    Prompts,
    ResolvedBudget,
    Retry,
    Sampling,
    failure_policy,
    run_scope,
)
from duet_sdk.pricing import PriceBook
from duet_sdk.reply import Reply
from duet_sdk.request import Request
from duet_sdk.signal import cut_policy
from duet_sdk.stream import Run, attach_reply, tell_part
from duet_sdk.telemetry.dialects import check_dialects
from duet_sdk.types import HandoffName, Json, Stage

if TYPE_CHECKING:
    from duet_sdk.budget import BaseLedger, LedgerLike
    from duet_sdk.gate.calibration import Calibration
    from duet_sdk.pair import Pair
    from duet_sdk.pair.conformity import Conformity
    from duet_sdk.pipeline.observer import Observer
    from duet_sdk.policies import OnFailure, SignalScope
    from duet_sdk.pricing import Price
    from duet_sdk.settings import Settings

_log = logging.getLogger(__name__)

EMBEDDED = "transformers/embedded"
_Options = TypeVar("_Options", ClientOptions, CallOptions)


class AsyncDuetClient(Client, OnlyAsync):
    """A pair of models that answers questions; one client serves many tasks of an event loop.

    Use it as an async context manager, or call `aclose` when done.

    >>> import asyncio
    >>> async def ask() -> str:
    ...     async with AsyncDuetClient(reasoner="scripted/17", generator="scripted/There are 17.") as duet:
    ...         return (await duet.chat("How many primes are below 60?")).text
    >>> asyncio.run(ask())
    'There are 17.'

    Args:
        reasoner: the model that writes the signal, as ``backend/model`` or an object.
        generator: the model that answers. With neither named, settings are read, and without any the embedded pair
            is used.
        options: see `duet_sdk.options.ClientOptions`.

    Raises:
        ConfigError: a name, option or combination that cannot work; nothing has been loaded or sent.
    """

    _other = MappingProxyType({"close": "write await duet.aclose()"})

    @shows(ClientOptions)
    def __init__(
        self,
        reasoner: ModelLike | None = None,
        generator: ModelLike | None = None,
        *,
        settings: Settings | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        conformity: Conformity | None = None
        options = over(_with_objects(options, ConfigError), {})
        reasoner, generator = _model_of("reasoner", reasoner), _model_of("generator", generator)
        if settings is None and reasoner is None and generator is None:
            from duet_sdk.settings import load_settings

            settings = load_settings()
        if settings is not None and not callable(getattr(settings, "client_options", None)):
            raise ConfigError(
                f"settings must be Settings, as load_settings(path) reads them, got {type(settings).__name__}"
            )
        if settings is not None:
            options = over(options, _options_of(settings, reasoner, generator))
            if settings.pair is not None and reasoner is None and generator is None:
                from duet_sdk.pair import Pair

                pair = Pair.load(settings.pair)
                conformity = pair.conformity()
                reasoner, generator = pair.reasoner_spec, pair.generator_spec
                options = over(options, pair.client_options())
            reasoner, generator = reasoner or settings.reasoner, generator or settings.generator
        if reasoner is None and generator is None:
            reasoner = generator = EMBEDDED
        if reasoner is None or generator is None:
            missing = "reasoner" if reasoner is None else "generator"
            raise ConfigError(f"the {missing} is not named: name both models of a pair, or none for the embedded one")
        self._base = _base_request(options)
        with one_client():
            self._parts = _build_parts(reasoner, generator, options)
        self._parts.prices.check_names([model.name for model in self._parts.models()])
        self._is_limit_looked_at = False
        self._look_at_limit(self._base.budget.cost_usd)
        named = options.get("ledger")
        self._ledger = None if named is None else connect_ledger(cast("LedgerLike", named))
        self._owns_ledger = self._ledger is not named
        self._ledger_wait_s = options.get("ledger_wait_s") or 0.0
        seconds("ledger_wait_s", self._ledger_wait_s, or_zero=True)
        from duet_sdk.telemetry.request import observer_of  # OpenTelemetry is imported with the first client

        dialects = check_dialects(options.get("trace_dialects") or ())
        self._observer_of: Callable[[Request], Observer] = partial(observer_of, dialects=dialects)
        self._closed = False
        self._conformity: Conformity | None = None
        if conformity is not None:
            self._expect(conformity)

    @classmethod
    @shows(ClientOptions)
    def from_pair(
        cls,
        pair: str | Path | Pair,
        *,
        reasoner: ModelLike | None = None,
        generator: ModelLike | None = None,
        strict: bool = False,
        settings: Settings | None = None,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """A client for a pair on disk or on the hub, with the handoff, limits and prompts of its manifest.

        Options override settings, and settings override the manifest. When a model connects, its tokenizer, template
        and quantisation are compared with those of the training, as far as they are known on both sides.

        Args:
            pair: a folder, a hub name, or a pair.
            reasoner: what serves the pair's reasoner, such as a vLLM server that was started on its folder; the pair's
                own copy, in this process, by default. A server's prompts are made with the pair's tokenizer where the
                server agrees to it.
            generator: the same for its generator.
            strict: refuse other models than those of the training, and tools where the pair was trained without,
                with a PairError; by default both are logged as warnings.
            settings: override the manifest.
            options: see `duet_sdk.options.ClientOptions`.

        Raises:
            PairError: the folder is not a pair, or differs from its manifest, or a model is an unmerged adapter and
                nothing serves it.
        """
        from duet_sdk.pair import Pair

        if not isinstance(pair, str | Path | Pair):
            raise ConfigError(f"from_pair takes a folder, a hub name or a Pair, got {type(pair).__name__}")
        loaded = pair if isinstance(pair, Pair) else Pair.load(pair)
        if settings is not None:
            options = over(
                options, _options_of(settings, reasoner or loaded.reasoner_spec, generator or loaded.generator_spec)
            )
        with one_client():
            client = cls(
                loaded.reasoner_spec if reasoner is None else _served(loaded, "reasoner", reasoner),
                loaded.generator_spec if generator is None else _served(loaded, "generator", generator),
                **over(options, loaded.client_options()),
            )
        client._expect(loaded.conformity(strict=strict, elsewhere={"reasoner": reasoner, "generator": generator}))
        return client

    @with_completions
    @shows(CallOptions)
    async def chat(
        self, messages: MessagesLike, *, gate: GateLike | Json | None = None, **options: Unpack[CallOptions]
    ) -> Reply:
        """Answer, and return the reply once it is complete.

        Args:
            messages: a question, or a conversation that ends with the user or with a tool's result.
            gate: in place of the client's.
            options: see `duet_sdk.options.CallOptions`.

        Raises:
            InvalidRequest: the request cannot be answered as it stands; nothing was spent.
            ContextOverflow: prompt and limits do not fit a model; nothing was spent.
            BudgetExceeded: a limit is used up; its ``reply`` has what was written before.
            BackendError: a model failed, and no rung of the failure ladder was left.
        """
        parts, draft, observer = self._prepare(messages, gate, whole=True, **options)
        try:
            return await answer(parts, draft, Outbox(observer, is_read=False))
        except BaseException as error:
            if isinstance(error, BudgetExceeded):
                attach_reply(error, draft)
            tell_part(draft, "error" if isinstance(error, Exception) else "cancelled")
            raise

    @shows(CallOptions)
    def stream(
        self, messages: MessagesLike, *, gate: GateLike | Json | None = None, **options: Unpack[CallOptions]
    ) -> Run:
        """Answer, event by event: ``async with duet.stream(…) as run: async for event in run: …``.

        Raises:
            InvalidRequest: the request cannot be answered as it stands; the rest is raised while iterating.
        """
        return Run(*self._prepare(messages, gate, whole=False, **options))

    @property
    def models(self) -> Mapping[Stage, str]:
        """The full names of both models."""
        return {"reasoner": self._parts.reasoners[0].name, "generator": self._parts.generators[0].name}

    async def count_tokens(
        self,
        messages: MessagesLike,
        *,
        tools: Sequence[Json] = (),
        stage: Stage = "generator",
        boundary: Sequence[str] | None = None,
    ) -> int:
        """Prompt tokens that these messages make for a stage: by its model's tokenizer or server, else a guess.

        Nothing is charged; a signal, which the generator reads too, is not counted.

        Args:
            messages: of the prompt.
            tools: in OpenAI form; they are part of the prompt.
            stage: whose model counts.
            boundary: where the messages may go; None for wherever this model is.

        Raises:
            InvalidRequest: the messages or tools cannot be used.
            BoundaryRefused: the model is beyond ``boundary``; nothing was sent there.
        """
        model = self._parts.chain(stage)[0]
        if boundary is not None and not {"any", model.backend.boundary} & {"local", *boundary}:
            allowed = frozenset(boundary)
            raise BoundaryRefused(model=model.name, boundary=model.backend.boundary, allowed=allowed)
        return await told_prompt_tokens(model.backend, parse_messages(messages), check_tools(tools))

    def keep_tenants_apart(self, secret: bytes) -> None:
        """Have vLLM servers share no prefix cache between tenants of requests, unless an endpoint has a ``cache_salt``.

        Args:
            secret: names of tenants are hashed with it.
        """
        for model in self._parts.models():
            model.backend.keep_tenants_apart(secret)

    @property
    def budget(self) -> ResolvedBudget:
        """The limits of a request that sets none of its own."""
        return self._base.budget

    @property
    def ledger(self) -> BaseLedger:
        """The limits over many requests, to be set, and what was spent, to be read: ``await duet.ledger.set_limit(…)``.

        Raises:
            ConfigError: the client was made without one.
        """
        if self._ledger is None:
            raise ConfigError(
                "this client has no ledger; make it with one, such as DuetClient(…, ledger='sqlite:///ledger.db'), or "
                'write ledger = "sqlite:///ledger.db" into duet.toml'
            )
        return self._ledger

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}(reasoner={self.models['reasoner']!r}, generator={self.models['generator']!r})"

    def conversation(self, *, system: str | None = None) -> AsyncConversation:
        """A conversation that keeps its messages, and signals only until the next question.

        Raises:
            InvalidRequest: a system prompt that is not a text.
        """
        expect(str, system=system)
        return AsyncConversation(self, system=system)

    def _expect(self, conformity: Conformity) -> None:
        """Compare models when they connect, and requests when they are made, with a pair's manifest."""
        self._conformity = conformity
        for model in (self._parts.reasoners[0], self._parts.generators[0]):
            model.expected = conformity.check_model

    def _look_at_limit(self, cost_usd: Decimal | None) -> None:
        """Warn, once, of a limit in money that no request of the client can reach."""
        if cost_usd is None:
            return
        self._is_limit_looked_at, prices = True, self._parts.prices
        models = self._parts.models()
        if not all(prices.is_free(model.name, model.backend.price) for model in models):
            return
        message = (
            f"cost_usd is limited to {cost_usd}, but every model of this client is free, so that the limit is never "
            "reached: give their prices (prices=, or the price of an Endpoint), or limit total_tokens"
        )
        if all(model.backend.name == "scripted" for model in models):  # nobody expects these to cost anything
            _log.warning("%s", message)
        else:
            self._parts.degraded.tell("cost_usd", message)

    def _prepare(
        self, messages: MessagesLike, gate: GateLike | Json | None, *, whole: bool, **options: Unpack[CallOptions]
    ) -> tuple[Parts, Draft, Observer]:
        if self._closed:
            raise ConfigError("this client is closed; make a new one")
        if self._conformity is not None:
            self._conformity.check_tools(options.get("tools"))
        parts = self._parts
        if gate is not None:
            given = _with_objects(ClientOptions(gate=gate), InvalidRequest)
            parts = replace(parts, gate=find_gate(cast("GateLike", given["gate"]), parts.calibration))
        options = _with_objects(options, InvalidRequest)
        request = request_of(messages, options, base=self._base, whole=whole)
        if not self._is_limit_looked_at:
            self._look_at_limit(request.budget.cost_usd)
        charging = None
        if self._ledger is not None:
            charging = Charging(self._ledger, scopes_of(request.labels), wait_s=self._ledger_wait_s)
        budget = RequestBudget(request.budget, charged=charging is not None)
        return parts, Draft(request, budget, self.models, charging=charging), self._observer_of(request)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close both models and the ledger if the client opened it, and wait for streams; safe to call twice."""
        self._closed = True
        async with AsyncExitStack() as closing:  # closes all, also after one that fails
            closing.callback(self._parts.lifetime.end_own)
            if self._ledger is not None and self._owns_ledger:
                closing.push_async_callback(self._ledger.aclose)
            closing.push_async_callback(self._parts.lifetime.finish)  # before that: settles may be owed to the ledger
            for backend in self._parts.backends():
                closing.push_async_callback(backend.aclose)
            closing.push_async_callback(self._parts.lifetime.end)  # first: what runs settles while all is open


AsyncDuetClient.__doc__ = with_attributes(AsyncDuetClient.__doc__, ClientOptions)


def _with_objects(options: _Options, error: type[ConfigError | InvalidRequest]) -> _Options:
    """Options with objects in place of tables, which may be written as in a settings file.

    Raises:
        ConfigError: or the ``error`` given instead: a table that cannot be used.
    """
    tables = {name: value for name, value in options.items() if name in TABLES and _is_table(name, value)}
    if not tables:
        return options
    from duet_sdk.settings import from_tables

    return cast("_Options", {**options, **from_tables(tables, error=error)})


def _is_table(name: str, value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return name != "prices" or any(isinstance(price, Mapping) for price in value.values())


def _model_of(stage: Stage, given: ModelLike | Mapping[str, object] | None) -> ModelLike | None:
    """A model, or a chain of them, that may be given as a table, such as ``{"model": …, "base_url": …}``.

    Raises:
        ConfigError: a table that cannot be used.
    """
    chain = given if isinstance(given, list | tuple) else (given,)
    if not any(isinstance(one, Mapping) for one in chain):
        return cast("ModelLike | None", given)
    from duet_sdk.settings import from_tables

    return cast("ModelLike", from_tables({stage: given})[stage])


def _base_request(options: ClientOptions) -> Request:
    """What every request of a client begins with.

    Raises:
        InvalidRequest: an option of another kind.
    """
    budget = dial(Budget, options, "budget")
    return Request(
        messages=(),
        budget=DEFAULT_BUDGET if budget is None else budget.over(DEFAULT_BUDGET),
        reasoner_sampling=dial(Sampling, options, "reasoner_params") or Sampling(),
        generator_sampling=dial(Sampling, options, "generator_params") or Sampling(),
        signal_scope=run_scope(cast("SignalScope", options.get("signal_scope") or "run")),
    )


def _options_of(settings: Settings, reasoner: ModelLike | None, generator: ModelLike | None) -> ClientOptions:
    """What settings say for a client of these models: prices of models of theirs that are replaced are of no use."""
    options = settings.client_options()
    own = {*_names(settings.reasoner), *_names(settings.generator)}
    unused = own - {*_names(reasoner or settings.reasoner), *_names(generator or settings.generator)}
    if unused and (prices := options.get("prices")):
        unused |= {name.partition("/")[2] for name in unused}
        options["prices"] = {name: price for name, price in prices.items() if name not in unused}
    return options


def _names(given: ModelLike | None) -> set[str]:
    """The full names of these models."""
    if given is None:
        return set()
    if isinstance(given, Sequence) and not isinstance(given, str):
        return {name for one in given for name in _names(one)}
    if isinstance(given, Backend):
        return {f"{given.name}/{given.model}"}
    backend, model, _ = split_name(given if isinstance(given, str) else given.model)
    return {f"{backend}/{model}"}


def _build_parts(reasoner: ModelLike, generator: ModelLike, options: ClientOptions) -> Parts:
    """The pair with its policies, each option checked and with its default.

    Raises:
        ConfigError: an option or a combination that cannot work.
        InvalidRequest: an option of another kind.
    """
    failure = failure_policy(cast("OnFailure", options.get("on_failure") or "answer"), dial(Retry, options, "retry"))
    measured = _calibration(options.get("calibration"))
    handoff = options.get("handoff") or "instruct"
    one_of("handoff", handoff, get_args(HandoffName))
    gate_deadline_s, prices, signal_cache = (
        options.get("gate_deadline_s"),
        options.get("prices"),
        options.get("signal_cache"),
    )
    if gate_deadline_s is not None:
        seconds("gate_deadline_s", gate_deadline_s)
    expect(Mapping, prices=prices)
    if signal_cache is not None and not all(callable(getattr(signal_cache, name, None)) for name in ("get", "put")):
        raise ConfigError(
            f"signal_cache must be a cache, such as MemorySignalCache(), got {type(signal_cache).__name__}"
        )
    degraded = Degraded()
    parts = Parts(
        reasoners=_stage_models("reasoner", reasoner, failure.breaker, degraded),
        generators=_stage_models("generator", generator, failure.breaker, degraded),
        gate=find_gate(cast("GateLike", options.get("gate")) or (measured.policy if measured else "always"), measured),
        cut=cut_policy(options.get("on_cut") or "sentence"),
        failure=failure,
        context=context_policy(options.get("context") or "all"),
        prices=PriceBook(cast("Mapping[str, Price]", prices or {})),
        prompts=dial(Prompts, options, "prompts") or Prompts(),
        wanted_handoff=handoff,
        signal_cache=signal_cache,
        calibration=measured,
        gate_deadline_s=gate_deadline_s or DEFAULT_GATE_DEADLINE_S,
        progressive=dial(Progressive, options, "progressive"),
        degraded=degraded,
    )
    if measured is not None:
        measured.warn_of_other_models(reasoner=parts.reasoners[0].name, generator=parts.generators[0].name)
    if failure.fallback_pair is not None:
        other_reasoner, other_generator = cast("tuple[ModelLike, ModelLike]", failure.fallback_pair)
        # What was trained and calibrated for the first pair does not suit another one.
        parts.fallback = replace(
            parts,
            reasoners=_stage_models("reasoner", other_reasoner, failure.breaker, degraded),
            generators=_stage_models("generator", other_generator, failure.breaker, degraded),
            wanted_handoff="instruct",
            gate=Always(),
            progressive=None,
            _handoffs={},
        )
    return parts


def _served(pair: Pair, stage: Stage, given: ModelLike) -> ModelLike:
    """What serves a pair's model, with the pair's tokenizer where there is one."""
    folder = pair.tokenizer_folder(stage)
    return given if folder is None else with_tokenizer(given, folder)


def _calibration(given: str | Path | Calibration | None) -> Calibration | None:
    if given is None:
        return None
    from duet_sdk.gate.calibration import Calibration

    expect((str, Path, Calibration), calibration=given)
    return given if isinstance(given, Calibration) else Calibration.load(given)


def _stage_models(
    stage: Stage, given: ModelLike, breaker: BreakerPolicy | None, degraded: Degraded
) -> tuple[StageModel, ...]:
    """A stage's chain; each endpoint has a breaker of its own."""
    chain = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not chain:
        raise ConfigError(f"the {stage}'s list of models is empty")
    return tuple(
        StageModel(stage, name, backend if breaker is None else Breaker(backend, breaker), degraded=degraded)
        for name, backend in map(connect, chain)
    )

"""`AsyncDuetClient`: builds the parts of a pair from what the user names, and owns their lifetime."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict, Unpack, get_args

from duet_sdk.backends.connect import ModelLike, connect, with_tokenizer
from duet_sdk.backends.resilience import Breaker
from duet_sdk.budget import LedgerLike, RequestBudget, connect_ledger
from duet_sdk.cache import SignalCache
from duet_sdk.context import ContextPolicy, context_policy
from duet_sdk.conversation import AsyncConversation
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.gate import Always, GateLike, find_gate
from duet_sdk.messages import MessagesLike, check_tools, parse_messages
from duet_sdk.pipeline.charging import Charging, scopes_of
from duet_sdk.pipeline.draft import Draft
from duet_sdk.pipeline.models import DEFAULT_GATE_DEADLINE_S, OnBreak, OnFailure, Parts, StageModel, ladder
from duet_sdk.policies import DEFAULT_BUDGET, Budget, Progressive, Prompts, Retry, Sampling, SignalScope, run_scope
from duet_sdk.pricing import Price, PriceBook
from duet_sdk.reply import Reply
from duet_sdk.request import Labels, Request
from duet_sdk.signal import CutPolicy, cut_policy
from duet_sdk.stream import Run, whole_reply
from duet_sdk.telemetry.dialects import check_dialects
from duet_sdk.types import HandoffName, Json, Mode, Stage, TraceDialect, Vote

if TYPE_CHECKING:
    from duet_sdk.gate.calibration import Calibration
    from duet_sdk.pair import Pair
    from duet_sdk.pair.conformity import Conformity
    from duet_sdk.pipeline.observer import Observer
    from duet_sdk.settings import Settings

EMBEDDED = "transformers/embedded"
MOST_ANSWERS = 64


class ClientOptions(TypedDict, total=False):
    """What a client is made of; every key can be left out."""

    budget: Budget | None
    """Limits of every request; a request's own go over them."""
    gate: GateLike | None
    """Whether the reasoner is asked: ``always``, ``never``, ``heuristic``, ``confidence``, ``race``, one of these with
    numbers of your own (`GateConfig`), or an object of your own; by default the calibration's, else ``always``."""
    calibration: str | Path | Calibration | None
    """Thresholds measured on your own questions, and what the reasoner alone would have written; an object or a
    file's path."""
    gate_deadline_s: float | None
    """Seconds that a gate's own code may take to decide, 2 by default, and at most a quarter of ``deadline_s``; past
    them the reasoner is asked."""
    progressive: Progressive | None
    """Stops the reasoner as soon as what it has written suffices the generator; off by default."""
    handoff: HandoffName | None
    """``instruct`` (default), or ``think`` for pairs trained together."""
    on_cut: str | CutPolicy | None
    """What a cut signal becomes: ``sentence`` (default), ``keep``, ``wrap_up``, ``error``, or a policy of your own."""
    on_failure: OnFailure | None
    """``answer`` (default) goes on with the stage that works and says so; ``raise`` fails; or a `Ladder`."""
    retry: Retry | None
    """When a model that failed is called again: by default up to three calls, full jitter, Retry-After honoured."""
    on_break: OnBreak | None
    """What follows when a model breaks off part way."""
    signal_cache: SignalCache | None
    """Keeps whole signals for questions asked again; none by default. It stays the caller's to close."""
    ledger: LedgerLike | None
    """Holds limits over many requests, by scopes of their labels; none by default. One named by its URL is opened and
    closed by the client; an object stays the caller's to close."""
    ledger_wait_s: float | None
    """Longest wait for room in the ledger that only others' holds take; by default such a request is refused."""
    fallback_pair: tuple[ModelLike, ModelLike] | None
    """Reasoner and generator that take over when this pair cannot answer, by the ``instruct`` handoff."""
    signal_scope: SignalScope | None
    """How long a signal holds while tools are called: for the ``run`` (default), a ``turn``, or by a `RunScope`."""
    context: str | ContextPolicy | None
    """What each stage sees of a long conversation: ``all`` (default), ``last_turn``, or a function."""
    trace_dialects: Sequence[TraceDialect] | None
    """Names beside the standard's that spans bear for tools that read only those: ``openinference``, ``langfuse``,
    ``mlflow``."""
    prices: Mapping[str, Price] | None
    """Prices by model name; they go before every other source."""
    prompts: Prompts | None
    reasoner_params: Sampling | None
    generator_params: Sampling | None


class CallOptions(TypedDict, total=False):
    """What one request can set; every key can be left out."""

    mode: Mode
    """``duet`` (default: the gate decides), ``reasoner``, ``generator``, or ``signal`` (no answer is written)."""
    budget: Budget | None
    tools: Sequence[Json] | None
    """Functions in OpenAI form; the stage that answers may call them."""
    tool_choice: str | Json | None
    response_format: Json | None
    temperature: float | None
    """This and the next four set the stage that answers."""
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int
    """How many answers to write from one signal."""
    vote: Vote | None
    """Chooses among the ``n`` answers."""
    signal_scope: SignalScope | None
    """In place of the client's."""
    reasoner_params: Sampling | None
    """Sampling of one stage; goes over the values above."""
    generator_params: Sampling | None
    session: str | None
    """This and the next four are labels: for traces, and as scopes ``session:…``, ``tenant:…`` of a ledger."""
    user: str | None
    tenant: str | None
    scopes: Sequence[str]
    """Further scopes of the ledger, ``kind:name`` each."""
    metadata: Json | None
    boundary: str | Sequence[str] | None
    """Where the request may go: ``local``, named regions, or ``any``; by default where the pair's first models are."""


class AsyncDuetClient:
    """A pair of models that answers questions; one client serves many tasks of an event loop.

    Use it as an async context manager, or call `aclose` when done.

    >>> import asyncio
    >>> async def ask() -> str:
    ...     async with AsyncDuetClient(reasoner="scripted/17", generator="scripted/There are 17.") as duet:
    ...         return (await duet.chat("How many primes are below 60?")).text
    >>> asyncio.run(ask())
    'There are 17.'

    Args:
        reasoner: the model that writes the signal, as ``backend/model`` or an object of its own.
        generator: the model that answers. With neither named, settings are read, and without any the embedded pair
            is used.
        options: see `ClientOptions`.

    Raises:
        ConfigError: a name, option or combination that cannot work; nothing has been loaded or sent.
    """

    def __init__(
        self,
        reasoner: ModelLike | None = None,
        generator: ModelLike | None = None,
        *,
        settings: Settings | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        conformity: Conformity | None = None
        if settings is None and reasoner is None and generator is None:
            from duet_sdk.settings import load_settings

            settings = load_settings()
        if settings is not None:
            options = _over(options, settings.client_options())
            if settings.pair is not None and reasoner is None and generator is None:
                from duet_sdk.pair import Pair

                pair = Pair.load(settings.pair)
                conformity = pair.conformity()
                reasoner, generator = pair.reasoner_spec, pair.generator_spec
                options = _over(options, pair.client_options())
            reasoner, generator = reasoner or settings.reasoner, generator or settings.generator
        if reasoner is None and generator is None:
            reasoner = generator = EMBEDDED
        if reasoner is None or generator is None:
            missing = "reasoner" if reasoner is None else "generator"
            raise ConfigError(f"the {missing} is not named: name both models of a pair, or none for the embedded one")
        self._parts = _build_parts(reasoner, generator, **options)
        self._base = Request(
            messages=(),
            budget=(options.get("budget") or Budget()).over(DEFAULT_BUDGET),
            reasoner_sampling=options.get("reasoner_params") or Sampling(),
            generator_sampling=options.get("generator_params") or Sampling(),
            signal_scope=run_scope(options.get("signal_scope") or "run"),
        )
        named = options.get("ledger")
        self._ledger = None if named is None else connect_ledger(named)
        self._owns_ledger = self._ledger is not named
        self._ledger_wait_s = options.get("ledger_wait_s") or 0.0
        from duet_sdk.telemetry.request import observer_of  # OpenTelemetry is imported with the first client

        dialects = check_dialects(options.get("trace_dialects") or ())
        self._observer_of: Callable[[Request], Observer] = partial(observer_of, dialects=dialects)
        self._closed = False
        self._conformity: Conformity | None = None
        if conformity is not None:
            self._expect(conformity)

    @classmethod
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

        Options go over settings, and settings over the manifest. When a model connects, its tokenizer, template and
        quantisation are compared with those of the training, as far as they are known on both sides.

        Args:
            pair: a folder, a hub name, or a pair.
            reasoner: what serves the pair's reasoner, such as a vLLM server that was started on its folder; the pair's
                own copy, in this process, by default. A server's prompts are made with the pair's tokenizer where the
                server agrees to it.
            generator: the same for its generator.
            strict: refuse other models than those of the training, and tools where the pair was trained without,
                with a PairError; by default both are logged as warnings.
            settings: go over the manifest.
            options: see `ClientOptions`.

        Raises:
            PairError: the folder is no pair, or not what its manifest says, or a model is an unmerged adapter and
                nothing serves it.
        """
        from duet_sdk.pair import Pair

        loaded = pair if isinstance(pair, Pair) else Pair.load(pair)
        if settings is not None:
            options = _over(options, settings.client_options())
        client = cls(
            loaded.reasoner_spec if reasoner is None else _served(loaded, "reasoner", reasoner),
            loaded.generator_spec if generator is None else _served(loaded, "generator", generator),
            **_over(options, loaded.client_options()),
        )
        client._expect(loaded.conformity(strict=strict, elsewhere={"reasoner": reasoner, "generator": generator}))
        return client

    async def chat(
        self, messages: MessagesLike, *, gate: GateLike | None = None, **options: Unpack[CallOptions]
    ) -> Reply:
        """Answer, and give the reply when it is complete.

        Args:
            messages: a question, or a conversation that ends with the user or with a tool's result.
            gate: in place of the client's.
            options: see `CallOptions`.

        Raises:
            InvalidRequest: the request cannot be answered as it stands; nothing was spent.
            ContextOverflow: prompt and limits do not fit a model; nothing was spent.
            BudgetExceeded: a limit is used up; its ``reply`` has what was written before.
            BackendError: a model failed, and no rung of the failure ladder was left.
        """
        return await whole_reply(*self._prepare(messages, gate, whole=True, **options))

    def stream(self, messages: MessagesLike, *, gate: GateLike | None = None, **options: Unpack[CallOptions]) -> Run:
        """Answer, event by event: ``async with duet.stream(…) as run: async for event in run: …``.

        Raises:
            InvalidRequest: the request cannot be answered as it stands; the rest is raised while iterating.
        """
        return Run(*self._prepare(messages, gate, whole=False, **options))

    @property
    def models(self) -> Mapping[Stage, str]:
        """Both models' full names."""
        return {"reasoner": self._parts.reasoners[0].name, "generator": self._parts.generators[0].name}

    def conversation(self, *, system: str | None = None) -> AsyncConversation:
        """A conversation that keeps its messages, and signals only until the next question."""
        return AsyncConversation(self, system=system)

    def _expect(self, conformity: Conformity) -> None:
        """Compare models when they connect, and requests when they are made, with a pair's manifest."""
        self._conformity = conformity
        for model in (self._parts.reasoners[0], self._parts.generators[0]):
            model.expected = conformity.check_model

    def _prepare(
        self, messages: MessagesLike, gate: GateLike | None, *, whole: bool, **options: Unpack[CallOptions]
    ) -> tuple[Parts, Draft, Observer]:
        if self._closed:
            raise ConfigError("this client is closed; make a new one")
        if self._conformity is not None:
            self._conformity.check_tools(options.get("tools"))
        parts = self._parts
        if gate is not None:
            parts = replace(parts, gate=find_gate(gate, parts.calibration))
        request = _build_request(
            messages,
            whole=whole,
            base=self._base,
            **options,
        )
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
        """Close both models, the ledger where the client opened it, and wait for streams; harmless when done twice."""
        self._closed = True
        async with AsyncExitStack() as closing:  # closes all, also after one that fails
            closing.push_async_callback(self._parts.lifetime.finish)
            for backend in self._parts.backends():
                closing.push_async_callback(backend.aclose)
            if self._ledger is not None and self._owns_ledger:
                closing.push_async_callback(self._ledger.aclose)
            closing.push_async_callback(self._parts.lifetime.end)  # first: what runs settles while all is open


def _over(options: ClientOptions, base: ClientOptions) -> ClientOptions:
    """The options, with ``base`` where they leave a choice open."""
    given = {key: value for key, value in options.items() if value is not None}
    merged: ClientOptions = {**base, **given}  # type: ignore[typeddict-item]
    if (budget := options.get("budget")) and (below := base.get("budget")):
        merged["budget"] = budget.over(below)
    return merged


def _build_parts(
    reasoner: ModelLike,
    generator: ModelLike,
    *,
    budget: Budget | None = None,  # this, the params, the scope and the ledger are the client's own
    reasoner_params: Sampling | None = None,
    generator_params: Sampling | None = None,
    signal_scope: SignalScope | None = None,
    gate: GateLike | None = None,
    handoff: HandoffName | None = None,
    on_cut: str | CutPolicy | None = None,
    on_failure: OnFailure | None = None,
    context: str | ContextPolicy | None = None,
    prices: Mapping[str, Price] | None = None,
    prompts: Prompts | None = None,
    retry: Retry | None = None,
    on_break: OnBreak | None = None,
    signal_cache: SignalCache | None = None,
    fallback_pair: tuple[ModelLike, ModelLike] | None = None,
    calibration: str | Path | Calibration | None = None,
    gate_deadline_s: float | None = None,
    progressive: Progressive | None = None,
    ledger: LedgerLike | None = None,
    ledger_wait_s: float | None = None,
    trace_dialects: Sequence[TraceDialect] | None = None,
) -> Parts:
    _expect(Budget, budget=budget)
    _expect(Sampling, reasoner_params=reasoner_params, generator_params=generator_params)
    _expect(Prompts, prompts=prompts)
    _expect(Mapping, prices=prices)
    _expect(Retry, retry=retry)
    _expect(OnBreak, on_break=on_break)
    _expect(Progressive, progressive=progressive)
    if gate_deadline_s is not None and not 0 < gate_deadline_s < math.inf:
        raise ConfigError(f"gate_deadline_s must be above 0 and finite, got {gate_deadline_s}")
    _expect((int, float), ledger_wait_s=ledger_wait_s)
    measured = _calibration(calibration)
    handoff = handoff or "instruct"
    if handoff not in get_args(HandoffName):
        raise ConfigError(f"handoff {handoff!r} is unknown; known are {', '.join(get_args(HandoffName))}")
    parts = Parts(
        reasoners=_stage_models("reasoner", reasoner),
        generators=_stage_models("generator", generator),
        gate=find_gate(gate or (measured.policy if measured else "always"), measured),
        cut=cut_policy(on_cut or "sentence"),
        ladder=ladder(on_failure or "answer"),
        context=context_policy(context or "all"),
        prices=PriceBook(prices or {}),
        prompts=prompts or Prompts(),
        wanted_handoff=handoff,
        retry=retry or Retry(),
        on_break=on_break or OnBreak(),
        signal_cache=signal_cache,
        calibration=measured,
        gate_deadline_s=gate_deadline_s or DEFAULT_GATE_DEADLINE_S,
        progressive=progressive,
    )
    if measured is not None:
        measured.warn_of_other_models(reasoner=parts.reasoners[0].name, generator=parts.generators[0].name)
    if fallback_pair is not None:
        # What was trained and calibrated for the first pair does not suit another one.
        parts.fallback = replace(
            parts,
            reasoners=_stage_models("reasoner", fallback_pair[0]),
            generators=_stage_models("generator", fallback_pair[1]),
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


def _expect(kind: type | tuple[type, ...], **given: object) -> None:
    """Refuse arguments of another kind by name, before they fail somewhere inside.

    Raises:
        InvalidRequest: one is neither None nor of that kind.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(one.__name__ for one in kinds)
            raise InvalidRequest(f"{name} must be a {wanted}, got {type(value).__name__}")


def _calibration(given: str | Path | Calibration | None) -> Calibration | None:
    if given is None:
        return None
    from duet_sdk.gate.calibration import Calibration

    _expect((str, Path, Calibration), calibration=given)
    return given if isinstance(given, Calibration) else Calibration.load(given)


def _stage_models(stage: Stage, given: ModelLike) -> tuple[StageModel, ...]:
    """A stage's chain; each endpoint has a breaker of its own."""
    chain = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not chain:
        raise ConfigError(f"the {stage}'s list of models is empty")
    return tuple(StageModel(stage, name, Breaker(backend)) for name, backend in map(connect, chain))


def _build_request(
    messages: MessagesLike,
    *,
    whole: bool,
    base: Request,
    mode: Mode = "duet",
    budget: Budget | None = None,
    tools: Sequence[Json] | None = None,
    tool_choice: str | Json | None = None,
    response_format: Json | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    n: int = 1,
    vote: Vote | None = None,
    signal_scope: SignalScope | None = None,
    reasoner_params: Sampling | None = None,
    generator_params: Sampling | None = None,
    session: str | None = None,
    user: str | None = None,
    tenant: str | None = None,
    scopes: Sequence[str] = (),
    metadata: Json | None = None,
    boundary: str | Sequence[str] | None = None,
) -> Request:
    """The request with every choice made; ``base`` has the client's own, which the request's go over."""
    if mode not in get_args(Mode):
        raise InvalidRequest(f"mode {mode!r} is unknown; known are {', '.join(get_args(Mode))}")
    if type(n) is not int or not 1 <= n <= MOST_ANSWERS:
        raise InvalidRequest(f"n must be a whole number from 1 to {MOST_ANSWERS}, got {n!r}")
    if vote is not None and vote != "majority" and not callable(vote):
        raise InvalidRequest(f"vote must be 'majority' or a function, got {vote!r}")
    _expect(Budget, budget=budget)
    _expect(Sampling, reasoner_params=reasoner_params, generator_params=generator_params)
    _expect((list, tuple), tools=tools)
    _expect((str, list, tuple), stop=stop, scopes=scopes, boundary=boundary)
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    common = Sampling(temperature, top_p, top_k, seed=seed, stop=stops)
    own_reasoner, own_generator = reasoner_params or Sampling(), generator_params or Sampling()
    return Request(
        messages=parse_messages(messages),
        mode=mode,
        budget=(budget or Budget()).over(base.budget),
        tools=check_tools(tools or ()),
        tool_choice=tool_choice,
        response_format=response_format,
        n=n,
        vote=vote,
        signal_scope=base.signal_scope if signal_scope is None else run_scope(signal_scope),
        reasoner_sampling=(own_reasoner.over(common) if mode == "reasoner" else own_reasoner).over(
            base.reasoner_sampling
        ),
        generator_sampling=own_generator.over(common).over(base.generator_sampling),
        labels=Labels(session, user, tenant, tuple(scopes), metadata or {}),
        allowed=None if boundary is None else frozenset([boundary] if isinstance(boundary, str) else boundary),
        whole=whole,
    )

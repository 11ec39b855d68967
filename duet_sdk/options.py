"""What a client is made of, and what one request can set. A new option of the client begins here.

It also needs a field of `duet_sdk.settings.Settings`, where it can stand in a file, and the place that
uses it. ``tests/test_options_parity.py`` names the exceptions.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypedDict, get_args

from duet_sdk._checks import one_of
from duet_sdk.errors import InvalidRequest
from duet_sdk.messages import check_tools, parse_messages
from duet_sdk.policies import Budget, FailurePolicy, Retry, Sampling, run_scope
from duet_sdk.request import Labels, Request
from duet_sdk.types import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from duet_sdk.budget import LedgerLike
    from duet_sdk.cache import SignalCache
    from duet_sdk.context import ContextPolicy
    from duet_sdk.gate import GateLike
    from duet_sdk.gate.calibration import Calibration
    from duet_sdk.messages import MessagesLike
    from duet_sdk.policies import OnFailure, Progressive, Prompts, SignalScope
    from duet_sdk.pricing import Price
    from duet_sdk.signal import CutPolicy
    from duet_sdk.types import HandoffName, Json, TraceDialect, Vote

MOST_ANSWERS = 64
"""Answers of one request: bounds its cost and memory, and a vote gains little beyond that."""


class ClientOptions(TypedDict, total=False):
    """What a client is made of; every key can be left out."""

    budget: Budget | None
    """Limits of every request; a request's own override them."""
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
    """``answer`` (default) continues with the stage that works and says so; ``raise`` fails; or a `FailurePolicy`,
    which also says when to retry, when to stop calling a model for a while, and which pair takes over; or just a
    `Ladder`."""
    retry: Retry | None
    """Short for ``on_failure=FailurePolicy(retry=…)``: by default up to three calls, with full jitter; Retry-After is
    honoured."""
    signal_cache: SignalCache | None
    """Keeps whole signals for questions asked again; none by default. It stays the caller's to close."""
    ledger: LedgerLike | None
    """Holds limits over many requests, by scopes of their labels; none by default. One named by its URL is opened and
    closed by the client; an object stays the caller's to close."""
    ledger_wait_s: float | None
    """Longest wait for room in the ledger that only others' holds take; by default such a request is refused."""
    signal_scope: SignalScope | None
    """How long a signal holds while tools are called: for the ``run`` (default), a ``turn``, or by a `RunScope`."""
    context: str | ContextPolicy | None
    """What each stage sees of a long conversation: ``all`` (default), ``last_turn``, or a function."""
    trace_dialects: Sequence[TraceDialect] | None
    """Further names that spans carry, for tools that do not read the standard's: ``openinference``, ``langfuse``,
    ``mlflow``."""
    prices: Mapping[str, Price] | None
    """Prices by model name; they override every other source."""
    prompts: Prompts | None
    """System prompts by stage, in place of DUET's own."""
    reasoner_params: Sampling | None
    """How the reasoner samples; a request's own values override these. Likewise the next."""
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
    """Sampling of one stage; overrides the values above."""
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


_CLIENT_OPTIONS = frozenset(ClientOptions.__annotations__)
_CALL_OPTIONS = frozenset(CallOptions.__annotations__)


def over(options: ClientOptions, base: ClientOptions) -> ClientOptions:
    """The options, with ``base`` where they leave a choice open; budgets are joined limit by limit.

    Raises:
        TypeError: there is no such option.
    """
    _refuse_unknown(options, _CLIENT_OPTIONS)
    given = {key: value for key, value in options.items() if value is not None}
    merged: ClientOptions = {**base, **given}  # type: ignore[typeddict-item]
    if (budget := options.get("budget")) and (below := base.get("budget")):
        merged["budget"] = budget.over(below)
    # The nearer way to say when to retry wins; both from one source are refused when the client is made.
    policy = merged.get("on_failure")
    if isinstance(policy, FailurePolicy) and policy.retry != Retry():
        if "on_failure" not in given and "retry" in given:
            merged["on_failure"] = replace(policy, retry=Retry())
        elif "on_failure" in given and "retry" not in given:
            merged.pop("retry", None)
    return merged


_AS_IT_IS = Sampling()
_SAMPLED = frozenset({"temperature", "top_p", "top_k", "seed", "stop"})


def request_of(messages: MessagesLike, options: CallOptions, *, base: Request, whole: bool) -> Request:
    """The request with every choice made; ``base`` has the client's own, which the request's override.

    Raises:
        InvalidRequest: it cannot be answered as it stands.
        TypeError: there is no such option.
    """
    _refuse_unknown(options, _CALL_OPTIONS)
    mode, n, vote = options.get("mode", "duet"), options.get("n", 1), options.get("vote")
    one_of("mode", mode, get_args(Mode), error=InvalidRequest)
    if type(n) is not int or not 1 <= n <= MOST_ANSWERS:
        raise InvalidRequest(f"n must be a whole number from 1 to {MOST_ANSWERS}, got {n!r}")
    if vote is not None and vote != "majority" and not callable(vote):
        raise InvalidRequest(f"vote must be 'majority' or a function, got {vote!r}")
    budget, tools, stop = options.get("budget"), options.get("tools"), options.get("stop")
    scopes, boundary, scope = options.get("scopes", ()), options.get("boundary"), options.get("signal_scope")
    expect(Budget, budget=budget)
    expect(Sampling, reasoner_params=options.get("reasoner_params"), generator_params=options.get("generator_params"))
    expect((list, tuple), tools=tools)
    expect((str, list, tuple), stop=stop, scopes=scopes, boundary=boundary)
    common = _AS_IT_IS
    if not _SAMPLED.isdisjoint(options):
        common = Sampling(
            options.get("temperature"),
            options.get("top_p"),
            options.get("top_k"),
            seed=options.get("seed"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        )
    reasoner, generator = options.get("reasoner_params") or _AS_IT_IS, options.get("generator_params") or _AS_IT_IS
    if mode == "reasoner":
        reasoner = reasoner.over(common)
    return Request(
        messages=parse_messages(messages),
        mode=mode,
        budget=base.budget if budget is None else budget.over(base.budget),
        tools=check_tools(tools or ()),
        tool_choice=options.get("tool_choice"),
        response_format=options.get("response_format"),
        n=n,
        vote=vote,
        signal_scope=base.signal_scope if scope is None else run_scope(scope),
        reasoner_sampling=reasoner.over(base.reasoner_sampling),
        generator_sampling=generator.over(common).over(base.generator_sampling),
        labels=Labels(
            options.get("session"),
            options.get("user"),
            options.get("tenant"),
            tuple(scopes),
            options.get("metadata") or {},
        ),
        allowed=None if boundary is None else frozenset([boundary] if isinstance(boundary, str) else boundary),
        whole=whole,
    )


def expect(kind: type | tuple[type, ...], **given: object) -> None:
    """Refuse arguments of another kind by name, before they fail somewhere inside.

    Raises:
        InvalidRequest: one is neither None nor of that kind.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(one.__name__ for one in kinds)
            raise InvalidRequest(f"{name} must be a {wanted}, got {type(value).__name__}")


def _refuse_unknown(given: Iterable[str], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"unexpected keyword argument {name!r}{hint}")

"""What a client is made of, and what one request can set. A new option of the client begins here.

It also needs a field of `duet_sdk.settings.Settings`, where it can stand in a file, and the place that
uses it. ``tests/test_options_parity.py`` names the exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypedDict, TypeVar, cast, get_args

from duet_sdk._checks import one_of
from duet_sdk._foreign import OPTIONS
from duet_sdk.errors import InvalidRequest, UnknownOption
from duet_sdk.messages import check_tool_choice, check_tools, parse_messages
from duet_sdk.policies import Budget, FailurePolicy, Retry, Sampling, failure_policy, run_scope
from duet_sdk.request import Labels, Request
from duet_sdk.schemas import response_form, tool_of
from duet_sdk.types import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from duet_sdk.budget import LedgerLike
    from duet_sdk.cache import SignalCache
    from duet_sdk.context import ContextPolicy
    from duet_sdk.gate import GateLike
    from duet_sdk.gate.calibration import Calibration
    from duet_sdk.messages import MessagesLike
    from duet_sdk.policies import OnFailure, Progressive, Prompts, SignalScope
    from duet_sdk.pricing import Price
    from duet_sdk.schemas import ResponseFormat, ToolLike
    from duet_sdk.signal import CutPolicy
    from duet_sdk.types import HandoffName, Json, TraceDialect, Vote

_Kind = TypeVar("_Kind")

MOST_ANSWERS = 64
"""Answers of one request: bounds its cost and memory, and a vote gains little beyond that."""


class ClientOptions(TypedDict, total=False):
    """What a client is made of; every key can be left out. Dials can also be tables, as a settings file has them.

    Attributes:
        budget: limits of every request; a request's own override them.
        gate: whether the reasoner is asked: ``always``, ``never``, ``heuristic``, ``confidence``, ``race``, one of
            these with numbers of your own (`GateConfig`), or an object of your own; by default the calibration's,
            else ``always``.
        calibration: thresholds measured on your own questions, and what the reasoner alone would have written; an
            object or a file's path.
        gate_deadline_s: seconds that a gate's own code may take to decide, 2 by default, and at most a quarter of
            ``deadline_s``; past them the reasoner is asked.
        progressive: stops the reasoner as soon as what it has written suffices the generator; off by default.
        handoff: ``instruct`` (default), or ``think`` for pairs trained together.
        on_cut: what a cut signal becomes: ``sentence`` (default), ``keep``, ``wrap_up``, ``error``, or a policy of your
            own.
        on_failure: ``answer`` (default) continues with the stage that works and says so; ``raise`` fails; or a
            `FailurePolicy`, which also says when to retry, when to stop calling a model for a while, and which pair
            takes over; or just a `Ladder`.
        retry: short for ``on_failure=FailurePolicy(retry=…)``: by default up to three calls, with full jitter;
            Retry-After is honoured.
        signal_cache: keeps whole signals for questions asked again; none by default. It stays the caller's to close.
        ledger: holds limits over many requests, by scopes of their labels; none by default. One named by its URL is
            opened and closed by the client; an object stays the caller's to close.
        ledger_wait_s: longest wait for room in the ledger that only others' holds take; by default such a request is
            refused.
        signal_scope: how long a signal holds while tools are called: for the ``run`` (default), a ``turn``, or by a
            `RunScope`.
        context: what each stage sees of a long conversation: ``all`` (default), ``last_turn``, or a function.
        trace_dialects: further names that spans carry, for tools that do not read the standard's: ``openinference``,
            ``langfuse``, ``mlflow``.
        prices: prices by model name; they override every other source.
        prompts: system prompts by stage, in place of DUET's own.
        reasoner_params: how the reasoner samples; a request's own values override these.
        generator_params: how the generator samples; likewise.
    """

    budget: Budget | Json | None
    gate: GateLike | Json | None
    calibration: str | Path | Calibration | None
    gate_deadline_s: float | None
    progressive: Progressive | Json | None
    handoff: HandoffName | None
    on_cut: str | CutPolicy | None
    on_failure: OnFailure | Json | None
    retry: Retry | Json | None
    signal_cache: SignalCache | None
    ledger: LedgerLike | Json | None
    ledger_wait_s: float | None
    signal_scope: SignalScope | Json | None
    context: str | ContextPolicy | None
    trace_dialects: Sequence[TraceDialect] | None
    prices: Mapping[str, Price | Json] | None
    prompts: Prompts | Json | None
    reasoner_params: Sampling | Json | None
    generator_params: Sampling | Json | None


class CallOptions(TypedDict, total=False):
    """What one request can set; every key can be left out.

    Attributes:
        mode: ``duet`` (default: the gate decides), ``reasoner``, ``generator``, or ``signal`` (no answer is written).
        budget: limits of this request; what it leaves open is the client's.
        tools: Python functions, or functions in OpenAI form; the stage that answers may call them, DUET never does.
        tool_choice: ``auto``, ``none``, ``required``, or the tool to call, in OpenAI form.
        response_format: the form of the answer: a pydantic model, a TypedDict or another type, for ``reply.parsed``; or
            OpenAI's own form.
        temperature: how freely the stage that answers samples.
        top_p: the share of likely tokens that the stage that answers samples from.
        top_k: the number of likely tokens that the stage that answers samples from.
        seed: makes the sampling of the stage that answers repeatable, where its server can.
        stop: texts that end the answer.
        n: how many answers to write from one signal.
        vote: chooses among the ``n`` answers: ``majority``, or a function.
        signal_scope: how long a signal holds while tools are called; in place of the client's.
        reasoner_params: sampling of the reasoner; overrides the values above.
        generator_params: sampling of the generator; overrides the values above.
        session: a label for traces, and the scope ``session:…`` of a ledger.
        user: likewise, and the scope ``user:…``.
        tenant: likewise, and the scope ``tenant:…``; tenants share no cached signal.
        scopes: further scopes of the ledger, ``kind:name`` each.
        metadata: further labels for traces.
        boundary: where the request may go: ``local``, named regions, or ``any``; by default where the pair's first
            models are.
    """

    mode: Mode
    budget: Budget | Json | None
    tools: Sequence[ToolLike] | None
    tool_choice: str | Json | None
    response_format: ResponseFormat | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int
    vote: Vote | None
    signal_scope: SignalScope | Json | None
    reasoner_params: Sampling | Json | None
    generator_params: Sampling | Json | None
    session: str | None
    user: str | None
    tenant: str | None
    scopes: Sequence[str]
    metadata: Json | None
    boundary: str | Sequence[str] | None


TABLES = frozenset(
    {
        "budget",
        "gate",
        "progressive",
        "on_failure",
        "retry",
        "ledger",
        "signal_scope",
        "prices",
        "prompts",
        "reasoner_params",
        "generator_params",
    }
)
"""Options that can be given as a table, the way a settings file has them."""
_CLIENT_OPTIONS = frozenset(ClientOptions.__annotations__)
_CALL_OPTIONS = frozenset(CallOptions.__annotations__)


def over(options: ClientOptions, base: ClientOptions) -> ClientOptions:
    """The options, with ``base`` where they leave a choice open; budgets are joined limit by limit.

    Raises:
        UnknownOption: there is no such option.
    """
    _refuse_unknown(options, _CLIENT_OPTIONS)
    given = {key: value for key, value in options.items() if value is not None}
    merged: ClientOptions = {**base, **given}  # type: ignore[typeddict-item]
    if (budget := dial(Budget, options, "budget")) and (below := dial(Budget, base, "budget")):
        merged["budget"] = budget.over(below)
    _join_failures(merged, given, base.get("on_failure"))
    return merged


def _join_failures(merged: ClientOptions, given: Mapping[str, object], below: object) -> None:
    """Put a word's ladder into the policy below it; of two ways to say when to retry, the nearer one wins.

    Both ways from one source are refused when the client is made.
    """
    policy, whole = merged.get("on_failure"), "on_failure" in given
    if isinstance(policy, str) and whole and isinstance(below, FailurePolicy):
        whole = False
        policy = merged["on_failure"] = replace(below, ladder=failure_policy(cast("OnFailure", policy)).ladder)
    if isinstance(policy, FailurePolicy) and policy.retry != Retry():
        if not whole and "retry" in given:
            merged["on_failure"] = replace(policy, retry=Retry())
        elif whole and "retry" not in given:
            merged.pop("retry", None)


_AS_IT_IS = Sampling()
_SAMPLED = frozenset({"temperature", "top_p", "top_k", "seed", "stop"})


def request_of(messages: MessagesLike, options: CallOptions, *, base: Request, whole: bool) -> Request:
    """The request with every choice made; ``base`` has the client's own, which the request's override.

    Raises:
        InvalidRequest: it cannot be answered as it stands.
        UnknownOption: there is no such option.
    """
    if not options:
        return Request(
            parse_messages(messages),
            budget=base.budget,
            signal_scope=base.signal_scope,
            reasoner_sampling=base.reasoner_sampling,
            generator_sampling=base.generator_sampling,
            whole=whole,
        )
    _refuse_unknown(options, _CALL_OPTIONS)
    mode, n, vote = options.get("mode") or "duet", options.get("n"), options.get("vote")
    n = 1 if n is None else n
    one_of("mode", mode, get_args(Mode), error=InvalidRequest)
    if type(n) is not int or not 1 <= n <= MOST_ANSWERS:
        raise InvalidRequest(f"n must be a whole number from 1 to {MOST_ANSWERS}, got {n!r}")
    if vote is not None and vote != "majority" and not callable(vote):
        raise InvalidRequest(f"vote must be 'majority' or a function, got {vote!r}")
    budget, tools, stop = dial(Budget, options, "budget"), options.get("tools"), options.get("stop")
    scopes, boundary, scope = options.get("scopes") or (), options.get("boundary"), options.get("signal_scope")
    expect((list, tuple), tools=tools)
    expect((str, list, tuple), stop=stop, scopes=scopes, boundary=boundary)
    expect(str, session=options.get("session"), user=options.get("user"), tenant=options.get("tenant"))
    if not all(type(one) is str and one.strip() for one in scopes):
        raise InvalidRequest("scopes must be texts such as 'team:research'")
    if not all(isinstance(one, str) for one in boundary or ()):
        raise InvalidRequest("boundary must be 'local', a region's name, 'any', or a list of these")
    expect((str, Mapping), tool_choice=options.get("tool_choice"))
    expect(Mapping, metadata=options.get("metadata"))
    form, parser = response_form(options.get("response_format"))
    common = _AS_IT_IS
    if not _SAMPLED.isdisjoint(options):
        common = Sampling(
            options.get("temperature"),
            options.get("top_p"),
            options.get("top_k"),
            seed=options.get("seed"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        )
    reasoner = dial(Sampling, options, "reasoner_params") or _AS_IT_IS
    generator = dial(Sampling, options, "generator_params") or _AS_IT_IS
    if mode == "reasoner":
        reasoner = reasoner.over(common)
    checked = check_tools([tool_of(tool) for tool in tools]) if tools else ()
    check_tool_choice(options.get("tool_choice"), checked)
    return Request(
        messages=parse_messages(messages),
        mode=mode,
        budget=base.budget if budget is None else budget.over(base.budget),
        tools=checked,
        tool_choice=options.get("tool_choice"),
        response_format=form,
        parser=parser,
        n=n,
        vote=vote,
        signal_scope=base.signal_scope if scope is None else run_scope(cast("SignalScope", scope)),
        reasoner_sampling=reasoner.over(base.reasoner_sampling),
        generator_sampling=generator.over(common).over(base.generator_sampling),
        labels=Labels(
            options.get("session"),
            options.get("user"),
            options.get("tenant"),
            (scopes,) if isinstance(scopes, str) else tuple(scopes),
            options.get("metadata") or {},
        ),
        allowed=None if boundary is None else frozenset([boundary] if isinstance(boundary, str) else boundary),
        whole=whole,
    )


def dial(kind: type[_Kind], options: ClientOptions | CallOptions, name: str) -> _Kind | None:
    """An option that is an object of ours; tables have been made into objects before.

    Raises:
        InvalidRequest: it is neither None nor of that kind.
    """
    value: object = options.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise InvalidRequest(f"{name} must be a {kind.__name__}, or a dict with its fields, got {type(value).__name__}")


def expect(kind: type | tuple[type, ...], **given: object) -> None:
    """Refuse arguments of another kind by name, before they fail somewhere inside.

    Raises:
        InvalidRequest: one is neither None nor of that kind.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join("dict" if one is Mapping else one.__name__ for one in kinds)
            raise InvalidRequest(f"{name} must be a {wanted}, got {type(value).__name__}")


def _refuse_unknown(given: Iterable[str], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            raise UnknownOption(f"{name!r} is not an option here; {_meant(name, known)}")


def _meant(name: str, known: frozenset[str]) -> str:
    if (instead := OPTIONS.get(name)) is not None:
        return instead
    if name in Budget.__dataclass_fields__:
        return f"write budget=Budget({name}=…)"
    if name in Sampling.__dataclass_fields__:
        return f"write generator_params=Sampling({name}=…), or reasoner_params="
    if name in _CLIENT_OPTIONS:
        return f"it is an option of the client: DuetClient(…, {name}=…)"
    if name in _CALL_OPTIONS:
        return f"it is an option of a request: duet.chat(…, {name}=…)"
    if known is _CLIENT_OPTIONS:
        known |= {"reasoner", "generator", "settings"}
    close = get_close_matches(name, [*known, *OPTIONS], n=1)
    if not close:
        return f"the options are {', '.join(sorted(known))}"
    if close[0] in known:
        return f"did you mean {close[0]!r}?"
    return f"for {close[0]!r}: {OPTIONS[close[0]]}"

"""What a LangChain call sets → the options of a DUET request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from langchain_core.runnables.config import ensure_config

from duet_sdk import AsyncDuetClient, Budget, ConfigError, DuetClient, InvalidRequest, Sampling
from duet_sdk.gate import Gate
from duet_sdk.options import TABLES, CallOptions
from duet_sdk.settings import from_tables
from duet_sdk.types import Json

_OWN = ("gate", "max_tokens", "model", "parallel_tool_calls", "stream", "timeout")
"""Known in addition to the options of a DUET request; ``stream`` is LangChain's word for how the model was called."""
_READ = {"budget": Budget, "generator_params": Sampling}
_MODELS = "name both models of the pair: ChatDuet('vllm/MODEL@http://host:port/v1', 'vllm/MODEL@http://host:port/v1')"
_OTHER_FIELDS = {
    **dict.fromkeys(("model", "model_name", "base_url", "openai_api_base", "api_base", "endpoint"), _MODELS),
    "max_completion_tokens": "write max_tokens=… for the answer, or budget=Budget(signal_tokens=…) for the signal",
    "max_output_tokens": "write max_tokens=… for the answer, or budget=Budget(signal_tokens=…) for the signal",
    "request_timeout": "write timeout=…",
    "model_kwargs": "write generator_params=Sampling(extra_body={…})",
    "extra_body": "write generator_params=Sampling(extra_body={…})",
    "system": "begin the messages with a SystemMessage",
}
"""Fields of other chat models → what is written here."""
KNOWN = (*CallOptions.__annotations__, *_OWN)


class Prepared(NamedTuple):
    """A call as a client takes it."""

    model: str | None
    """The generator in place of the model's own, by its full name."""
    gate: str | Gate | None
    options: CallOptions


def fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """A model's fields as it is made, with objects of DUET in place of tables.

    Raises:
        ConfigError: a client in a model's place, a field of other chat models, or a table that cannot be used.
    """
    if any(isinstance(given.get(stage), AsyncDuetClient | DuetClient) for stage in ("reasoner", "generator")):
        raise ConfigError("a client is given by name: ChatDuet(client=duet)")
    for name in given:
        if name in _OTHER_FIELDS:
            raise ConfigError(f"ChatDuet has no {name!r}; {_OTHER_FIELDS[name]}")
    made = {name: [value] if name == "stop" and isinstance(value, str) else value for name, value in given.items()}
    tables = {name: value for name, value in made.items() if name in TABLES and isinstance(value, Mapping)}
    return {**made, **from_tables(tables)} if tables else made


def prepare(
    given: Mapping[str, Any], defaults: Mapping[str, Any], *, stop: Sequence[str] | None, body: Json | None
) -> Prepared:
    """One call's options over those of the model.

    Args:
        given: what the call sets, by LangChain's names and by those of a DUET request.
        defaults: what the model sets, by the same names.
        stop: as LangChain passes it, on its own.
        body: what the model's own generator parameters add to a server's requests.

    Raises:
        InvalidRequest: an option that is unknown.
    """
    given = _with_objects(given)
    for name in given:
        if name not in KNOWN:
            close = get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(KNOWN))}"
            raise InvalidRequest(f"{name!r} is not an option of a call; {hint}")
    chosen = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    if stop is not None:
        chosen["stop"] = stop
    options = {name: value for name, value in chosen.items() if name not in _OWN and value is not None}
    options["budget"] = _limits(given).over(_limits(defaults))
    if (parallel := chosen.get("parallel_tool_calls")) is not None:
        sampling = options.get("generator_params") or Sampling()
        merged = {**(body or {}), **(sampling.extra_body or {}), "parallel_tool_calls": parallel}
        options["generator_params"] = replace(sampling, extra_body=merged)
    if "session" not in options and (thread := _thread()) is not None:
        options["session"] = thread
    return Prepared(chosen.get("model"), chosen.get("gate"), cast("CallOptions", options))


def _with_objects(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a call sets, with objects in place of tables for what is read here.

    Raises:
        InvalidRequest: a table that cannot be used, or a value of another kind.
    """
    tables = {name: value for name in _READ if isinstance(value := given.get(name), Mapping)}
    made = {**given, **from_tables(tables, error=InvalidRequest)} if tables else given
    for name, kind in _READ.items():
        if (value := made.get(name)) is not None and not isinstance(value, kind):
            raise InvalidRequest(
                f"{name} must be a {kind.__name__}, or a dict with its fields, got {type(value).__name__}"
            )
    return made


def _limits(given: Mapping[str, Any]) -> Budget:
    """A budget, and where it leaves a choice open what LangChain calls by other names."""
    other = Budget(answer_tokens=given.get("max_tokens"), deadline_s=given.get("timeout"))
    budget = given.get("budget")
    return other if budget is None else budget.over(other)


def _thread() -> str | None:
    """The thread that a graph or chain runs for, so that each has a ledger's scope ``session:…`` of its own."""
    thread = ensure_config().get("configurable", {}).get("thread_id")
    return None if thread is None else str(thread)

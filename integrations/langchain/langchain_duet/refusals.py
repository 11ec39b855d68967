"""Options that a model cannot be made with, in DUET's own words in place of pydantic's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from duet_sdk import AsyncDuetClient, ConfigError, DuetClient, DuetError, UnknownOption
from duet_sdk.messages import parse_messages
from duet_sdk.options import CallOptions, ClientOptions, over, request_of
from duet_sdk.request import Request
from langchain_duet.options import prepare

_QUESTION = Request(parse_messages("q"))
_CLOSE = 0.75
"""How alike two names are of which one is taken for the other, misspelt; difflib's 0.6 finds 'client' in 'planner'."""


def refused(given: Mapping[str, Any], problem: ValidationError, model: type[BaseModel]) -> DuetError:
    """What is wrong with a model's fields, which pydantic has found unfit.

    The client that would be made of them, and its request, say it in their own words; pydantic has the rest: fields
    that only LangChain knows.
    """
    try:
        _check_names(given, model.model_fields)
        client = given.get("client")
        if client is None:
            own = {name: value for name, value in given.items() if name in _OF_CLIENTS}
            AsyncDuetClient(**own)
        elif not isinstance(client, AsyncDuetClient | DuetClient):
            raise ConfigError(f"client must be a DuetClient or an AsyncDuetClient, got {type(client).__name__}")
        check_call({name: value for name, value in given.items() if name in _OF_CALLS})
    except DuetError as error:
        return error
    first = problem.errors(include_input=False, include_url=False, include_context=False)[0]
    return ConfigError(f"{'.'.join(map(str, first['loc'][:1]))} cannot be used: {first['msg']}")


def check_call(defaults: Mapping[str, Any]) -> None:
    """Refuse what a model sets for its calls where no call could be made with it.

    Raises:
        InvalidRequest: it cannot.
    """
    request_of("q", prepare({}, defaults, stop=None, body=None).options, base=_QUESTION, whole=True)


_OF_CLIENTS = {"reasoner", "generator", "settings", *ClientOptions.__annotations__}
_OF_CALLS = {"mode", "max_tokens", "timeout", "temperature", "stop", "session", "user", "tenant"}


def _check_names(given: Mapping[str, Any], fields: Collection[str]) -> None:
    for name in given:
        if name in fields:
            continue
        if name in CallOptions.__annotations__:
            raise UnknownOption(f"{name!r} is not an option here; it is one of a call: model.invoke(…, {name}=…)")
        if close := get_close_matches(name, fields, n=1, cutoff=_CLOSE):
            raise UnknownOption(f"{name!r} is not an option here; did you mean {close[0]!r}?")
        over(cast("ClientOptions", {name: None}), {})

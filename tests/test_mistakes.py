"""The mistakes that people make first: each ends in an error of ours that says what to write instead."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from duet_sdk import AsyncDuetClient, DuetClient, DuetError, Endpoint, Message, Misuse, Settings, TokenPrice
from duet_sdk._foreign import METHODS
from duet_sdk.conversation import AsyncConversation
from duet_sdk.options import TABLES, CallOptions, ClientOptions
from duet_sdk.settings import _table_in
from duet_sdk.sync import Conversation

PAIR: dict[str, Any] = {"reasoner": "scripted/17", "generator": "scripted/There are 17."}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 5}, r"budget=Budget\(answer_tokens="),
        ({"system": "x"}, "'role': 'system'"),
        ({"model": "m"}, "models are the client's"),
        ({"stream": True}, r"duet\.stream"),
        ({"signal_tokens": 5}, r"budget=Budget\(signal_tokens="),
        ({"timeout": 5}, r"budget=Budget\(deadline_s="),
        ({"min_p": 0.1}, r"generator_params=Sampling\(min_p="),
        ({"budgte": 1}, "did you mean 'budget'"),
        ({"handoff": "think"}, r"an option of the client: DuetClient\(…, handoff="),
        ({"whatever": 1}, "the options are boundary, budget"),
        ({"budget": {"signal_token": 4}}, "budget.signal_token is not an option; did you mean 'signal_tokens'"),
        ({"budget": {"signal_tokens": -4}}, "at least 1, got -4"),
        ({"budget": 5}, "budget must be a Budget, or a dict with its fields"),
        ({"generator_params": {"temp": 0}}, "generator_params.temp is not an option"),
        ({"temperature": "warm"}, "temperature must be a number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"tools": {"a": 1}}, "tools must be a list"),
        ({"tool_choice": 5}, "tool_choice must be a str or dict"),
        ({"metadata": 5}, "metadata must be a dict"),
        ({"tenant": 5}, "tenant must be a str"),
        ({"scopes": [5]}, "scopes must be texts"),
        ({"schema": {}}, r"write response_format="),
    ],
)
def test_an_option_of_a_request(options: dict[str, Any], words: str) -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError, match=words):
        duet.chat("q", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reasonner": "x"}, "did you mean 'reasoner'"),
        ({"base_url": "http://x"}, r"Endpoint\(model='vllm/MODEL'"),
        ({"api_key": "x"}, "api_key_env"),
        ({"temperature": 0.1}, r"generator_params=Sampling\(temperature="),
        ({"tools": []}, r"an option of a request: duet\.chat\(…, tools="),
        ({"signal_cache": True}, r"such as MemorySignalCache\(\), got bool"),
        ({"retry": {"attempt": 1}}, "did you mean 'attempts'"),
        ({"retry": 3}, "retry must be a Retry, or a dict"),
        ({"progressive": True}, "progressive must be a Progressive, or a dict"),
        ({"prices": 5}, "prices must be a dict"),
        ({"settings": "duet.toml"}, r"as load_settings\(path\) reads them, got str"),
        ({"trace_dialects": 3}, "trace_dialects must be a list of names"),
        ({"reasoner": {"model": "vllm/m", "options": {"headers": {"X-Own": 3}}}}, "header 'X-Own' must be a text"),
        ({"reasoner": "vllm/m@ftp://h/v1"}, "must be an address such as http://"),
        ({"reasoner": "vllm/m@"}, "must be an address such as http://"),
        ({"reasoner": {"modl": "x"}}, "reasoner.modl is not an option; did you mean 'model'"),
    ],
)
def test_an_option_of_a_client(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DuetError, match=words):
        DuetClient(**{**PAIR, **options})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-4o", "litellm/openai/gpt-4o"),
        ("claude-opus-5", "litellm/anthropic/claude-opus-5"),
        ("openai/gpt-4o", "litellm/openai/gpt-4o"),
        ("ollama/llama3", "litellm/ollama/llama3"),
        ("Qwen/Qwen3-4B", "vllm/Qwen/Qwen3-4B@http://host:port/v1"),
        ("http://127.0.0.1:8000/v1", "vllm/MODEL@http://127.0.0.1:8000/v1"),
        ("vlm/m", "vllm/m"),
        ("vllm/m@localhost:18101/v1", "vllm/m@http://localhost:18101/v1"),
    ],
)
def test_a_models_name_in_the_form_of_another_library(name: str, meant: str) -> None:
    with pytest.raises(DuetError) as told:
        DuetClient(reasoner=name, generator="scripted/x")
    assert f"did you mean '{meant}'" in str(told.value)


def test_a_models_name_with_an_at_sign_of_its_own() -> None:
    with DuetClient(reasoner="scripted/write to me@home", generator="scripted/ok") as duet:
        assert duet.chat("q").text == "ok"


@pytest.mark.parametrize("messages", [Message("user", "q"), {"role": "user", "content": "q"}, 5, None, [("user", "q")]])
def test_messages_of_another_form(messages: Any) -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError, match="message"):
        duet.chat(messages)


def test_a_dict_works_wherever_a_settings_table_does() -> None:
    with DuetClient(
        reasoner={"model": "scripted/17"},  # type: ignore[arg-type]
        generator=[{"model": "scripted/There are 17."}, "scripted/x"],  # type: ignore[list-item]
        budget={"signal_tokens": 64},
        on_failure={"retry": {"attempts": 1}},
        prompts={"reasoner": "Plan."},
        prices={
            "scripted/17": {"input_usd": 1, "output_usd": 2},
            "scripted/There are 17.": {"input_usd": 1, "output_usd": 2},
            "scripted/x": TokenPrice("1", "2"),
        },
        reasoner_params={"temperature": 0},
        ledger={"url": "memory:"},
    ) as duet:
        reply = duet.chat("q", budget={"answer_tokens": 2}, gate={"policy": "always"}, signal_scope={"most_calls": 1})
    assert reply.signal.limit == 64
    assert reply.finish_reason == "length"
    assert reply.cost.usd


def test_what_can_be_a_table_is_what_settings_read_as_one() -> None:
    kinds = get_type_hints(Settings, include_extras=True)
    assert {name for name, kind in kinds.items() if _table_in(kind) and name in ClientOptions.__annotations__} == TABLES


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (AsyncDuetClient, ClientOptions),
        (AsyncDuetClient.from_pair, ClientOptions),
        (AsyncDuetClient.chat, CallOptions),
        (AsyncDuetClient.stream, CallOptions),
        (AsyncConversation.chat, CallOptions),
        (AsyncConversation.stream, CallOptions),
        (DuetClient, ClientOptions),
        (DuetClient.from_pair, ClientOptions),
        (DuetClient.chat, CallOptions),
        (DuetClient.stream, CallOptions),
        (Conversation.chat, CallOptions),
        (Conversation.stream, CallOptions),
    ],
)
def test_signature_and_docstring_show_every_option(call: Callable[..., Any], options: type) -> None:
    shown = inspect.signature(call).parameters
    assert set(options.__annotations__) <= set(shown)
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in shown.values())
    told = inspect.getdoc(call) or ""
    assert [name for name in options.__annotations__ if f"    {name}: " not in told] == []
    assert "`duet_sdk.options" not in told


def deep(levels: int = 5000) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": deep()}}]},
        {"budget": deep()},
    ],
)
def test_what_is_nested_too_deeply_is_an_error_of_ours(options: dict[str, Any]) -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError):
        duet.chat("q", **options)
    with pytest.raises(DuetError, match="nested too deeply"):
        DuetClient(**{**PAIR, "reasoner": {"model": "vllm/m", "options": deep()}})


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda duet: duet.bind_tools([]), r"ChatDuet\(client=duet\)"),
        (lambda duet: duet.with_structured_output(dict), r"ChatDuet\(client=duet\)"),
        (lambda duet: duet.invoke("q"), r"ChatDuet\(client=duet\)"),
        (lambda duet: duet("q"), r"ChatDuet\(client=duet\)"),
        (lambda duet: duet.complete("q"), r"DuetLLM\("),
        (lambda duet: duet.request([]), "Pydantic AI"),
        (lambda duet: duet.get_response(), "OpenAI Agents"),
        (lambda duet: duet.chat.completions.create(model="m", messages=[]), r"duet\.chat\("),
        (lambda duet: duet.responses.create(input="q"), r"duet\.chat\("),
        (lambda duet: duet.messages.create(max_tokens=5), r"duet\.chat\("),
        (lambda duet: duet.generate_content("q"), r"duet\.chat\("),
        (lambda duet: duet.achat("q"), r"AsyncDuetClient\(…\)\.chat"),
    ],
)
@pytest.mark.parametrize("kind", [DuetClient, AsyncDuetClient])
def test_a_client_in_the_place_of_another_librarys(kind: Any, use: Callable[[Any], object], words: str) -> None:
    with pytest.raises(Misuse, match=words):
        use(kind(**PAIR))


def test_a_client_denies_what_it_does_not_have_like_any_object() -> None:
    with DuetClient(**PAIR) as duet:
        assert not any(hasattr(duet, name) for name in (*METHODS, "_repr_html_", "_ipython_display_", "__deepcopy__"))
        assert not hasattr(duet.chat.completions, "name")  # type: ignore[attr-defined]
        assert copy.copy(duet).models == duet.models
        with pytest.raises(AttributeError, match="object has no attribute 'chatt'"):
            _ = duet.chatt  # type: ignore[attr-defined]
        assert repr(duet) == "DuetClient(reasoner='scripted/17', generator='scripted/There are 17.')"
        assert repr(duet.asynchronous).startswith("AsyncDuetClient(reasoner='scripted/17'")


async def test_synchronous_code_on_an_asynchronous_client_and_the_reverse() -> None:
    duet: Any = AsyncDuetClient(**PAIR)
    with pytest.raises(Misuse, match="async with"), duet:
        pass
    with pytest.raises(Misuse, match="async with"), duet.stream("q"):
        pass
    with pytest.raises(Misuse, match="async for"):
        list(duet.stream("q"))
    with pytest.raises(Misuse, match=r"await duet\.aclose\(\)"):
        duet.close()
    blocking: Any = DuetClient(**PAIR)
    with pytest.raises(Misuse, match="AsyncDuetClient"):
        async with blocking:
            pass
    with pytest.raises(Misuse, match="AsyncDuetClient"):
        async with blocking.stream("q"):
            pass
    blocking.close()


def test_a_scripted_model_at_a_price() -> None:
    priced = Endpoint(model="scripted/There are 17.", price=TokenPrice("1", "2"), context_tokens=4096)
    with DuetClient("scripted/17", priced) as duet:
        assert duet.chat("q").cost.usd
    with pytest.raises(DuetError, match="'scripted' has no option 'base_url'; it has price"):
        DuetClient("scripted/17", Endpoint(model="scripted/x", base_url="http://127.0.0.1:1/v1"))

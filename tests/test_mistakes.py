"""The mistakes that people make first: each ends in an error of ours that says what to write instead."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel
from support.fault_server import Answer, running

from duet_sdk import (
    AsyncDuetClient,
    Budget,
    DegradedWarning,
    DuetClient,
    DuetError,
    Endpoint,
    FailurePolicy,
    GateConfig,
    ImagePart,
    Message,
    Misuse,
    Prompts,
    Reply,
    Retry,
    RunScope,
    Sampling,
    Settings,
    TokenPrice,
    ToolCall,
)
from duet_sdk._explained import table_in
from duet_sdk._foreign import METHODS
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.conversation import AsyncConversation
from duet_sdk.options import TABLES, CallOptions, ClientOptions
from duet_sdk.sync import Conversation


def noted(town: str) -> str:
    """A town is noted."""
    return town


def untyped(town):  # type: ignore[no-untyped-def]
    return town


class StructuredTool:
    """A tool as other libraries wrap it."""

    func = staticmethod(noted)


class ChatOpenAI:
    """A model as other libraries have it."""

    model_name = "gpt-4o"


class FakeListChatModel:
    """A chat model as LangChain has it."""

    def invoke(self) -> None: ...


class HumanMessage:
    """A message as LangChain has it."""


class Dumped(BaseModel):
    """A message as OpenAI's SDK has it."""

    role: str = "assistant"
    content: str = "hello"


class OldModel:
    """A model of pydantic 1, by what it is known."""

    __get_validators__ = None


@dataclass
class Town:
    """A form of an answer."""

    name: str


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
        ({"generator_params": {"temperature": 9}}, "temperature must be at most 5"),
        ({"generator_params": {"stop": 5}}, "generator_params.stop"),
        ({"generator_params": {"extra_body": "x"}}, "generator_params.extra_body"),
        ({"reasoner_params": 0.5}, "reasoner_params must be a Sampling, or a dict"),
        ({"temperature": "warm"}, "temperature must be a number"),
        ({"temperature": "0.5"}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"temperature": 9}, "temperature must be at most 5, got 9; most models take 0 to 2"),
        ({"top_p": "x"}, "top_p must be between 0 and 1"),
        ({"top_k": 2.5}, "top_k must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"stop": 5}, "stop must be a str or list"),
        ({"stop": [5]}, "stop must be a string or a list of strings"),
        ({"n": 0}, "n must be a whole number from 1 to 64"),
        ({"n": "2"}, "n must be a whole number"),
        ({"n": 1.5}, "n must be a whole number"),
        ({"vote": "best"}, "vote must be 'majority' or a function"),
        ({"mode": "chat"}, "mode 'chat' is unknown; known: duet"),
        ({"gate": True}, "gate must be a name"),
        ({"gate": 0.5}, "gate must be a name"),
        ({"gate": "sometimes"}, "known: always, never"),
        ({"signal_scope": 5}, "signal_scope 5 is unknown"),
        ({"session": 5}, "session must be a str"),
        ({"metadata": ["a"]}, "metadata must be a dict"),
        ({"scopes": [""]}, "scopes must be texts"),
        ({"boundary": [5]}, "boundary must be 'local'"),
        ({"budget": Decimal(1)}, "budget must be a Budget"),
        ({"budget": {"cost_usd": "much"}}, "budget.cost_usd"),
        ({"budget": {"tokens": 5}}, "did you mean 'total_tokens'"),
        ({"tools": noted}, "tools must be a list"),
        ({"tools": "noted"}, "tools must be a list"),
        ({"tools": ["noted"]}, "be a Python function, which is given itself and not by its name"),
        ({"tools": [5]}, "be a Python function, got int"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "Anthropic's form, whose input_schema is parameters"),
        ({"tools": [{"type": "function", "name": "a", "parameters": {}}]}, "the form of OpenAI's Responses"),
        ({"tools": [{"function_declarations": []}]}, "Gemini's form"),
        ({"tools": [{"type": "web_search"}]}, "of a provider's own, such as 'web_search', are not known"),
        ({"tools": [noted, noted]}, "two tools are named 'noted'"),
        ({"tools": [lambda: "x"]}, "a lambda cannot be a tool"),
        ({"tools": [untyped]}, "the argument 'town' of the tool untyped has no type"),
        ({"tools": [StructuredTool()]}, r"pass the function that it holds \(func\)"),
        ({"tools": [functools.partial(noted, "x")]}, r"pass the function that it holds \(func\)"),
        ({"tools": {"a": 1}}, "tools must be a list"),
        ({"tool_choice": 5}, "tool_choice must be a str or dict"),
        ({"tool_choice": noted}, "tool_choice must be a str or dict"),
        ({"tool_choice": True}, "tool_choice must be a str or dict"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [noted], "tool_choice": "any"}, "did you mean 'required'"),
        (
            {"tools": [noted], "tool_choice": "noted"},
            "did you mean {'type': 'function', 'function': {'name': 'noted'}}",
        ),
        ({"tools": [noted], "tool_choice": "sometimes"}, "known: 'auto', 'none', 'required'"),
        ({"tools": [noted], "tool_choice": {}}, "tool_choice must look like"),
        ({"tools": [noted], "tool_choice": {"type": "tool", "name": "noted"}}, "tool_choice must look like"),
        (
            {"tools": [noted], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "names 'x'; the tools are noted",
        ),
        ({"response_format": "json"}, "or a dict such as {'type': 'json_object'}, got str"),
        ({"response_format": {}}, "has the type None; known: json_schema"),
        ({"response_format": {"type": "json"}}, "has the type 'json'; known: json_schema"),
        ({"response_format": {"type": "object", "properties": {}}}, "a bare JSON schema; write {'type': 'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "no schema where it belongs"),
        ({"response_format": {"type": "json_schema", "name": "x", "schema": {}}}, "no schema where it belongs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "has no name"),
        ({"response_format": [Town]}, "got list"),
        ({"response_format": Town("Bergen")}, "got an instance of Town: pass the class itself"),
        ({"response_format": OldModel}, "OldModel is a model of pydantic 1"),
        ({"response_format": object}, "says nothing of the answer's form"),
        ({"response_format": lambda: 1}, "got function"),
        ({"presence_penalty": 1}, r"generator_params=Sampling\(extra_body={'presence_penalty'"),
        ({"parallel_tool_calls": False}, "extra_body={'parallel_tool_calls'"),
        ({"top_logprobs": 3}, r"Sampling\(logprobs="),
        ({"stop_sequences": ["a"]}, r"stop=\[…\]"),
        ({"json_mode": True}, "response_format={'type': 'json_object'}"),
        ({"max_new_tokens": 5}, r"Budget\(answer_tokens="),
        ({"instructions": "x"}, "'role': 'system'"),
        ({"history": []}, "the first argument"),
        ({"images": ["a.png"]}, "'type': 'image_url'"),
        ({"thread_id": "x"}, r"duet\.conversation\(\)"),
        ({"config": {}}, "arguments of the call"),
        ({"deadline": 5}, r"Budget\(deadline_s="),
        ({"max_cost": 5}, r"Budget\(cost_usd="),
        ({"thinking": {}}, r"Budget\(signal_tokens="),
        ({"reasoner": "scripted/x"}, "models are the client's"),
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
        ({"reasoner": ChatOpenAI()}, "got ChatOpenAI.*did you mean 'litellm/openai/gpt-4o'"),
        ({"reasoner": FakeListChatModel()}, "got FakeListChatModel.*such as 'litellm/openai/MODEL'"),
        ({"reasoner": ChatOpenAI}, "a model must be a name such as"),
        ({"reasoner": Path("model")}, "a model must be a name such as"),
        ({"reasoner": []}, "the reasoner's list of models is empty"),
        ({"reasoner": [5]}, "a model must be a name such as"),
        ({"generator": None}, "the generator is not named"),
        ({"calibration": 5}, "calibration must be a str or Path"),
        ({"gate_deadline_s": "x"}, "gate_deadline_s must be a finite number"),
        ({"handoff": "thinking"}, "known: instruct, think"),
        ({"on_cut": "truncate"}, "on_cut 'truncate' is unknown; known: keep"),
        ({"on_cut": lambda text: text}, "on_cut must be a name or a CutPolicy"),
        ({"on_failure": "ignore"}, "known: answer, raise"),
        ({"on_failure": Retry()}, "on_failure of type Retry is unknown"),
        ({"on_failure": {"retry": 3}}, "on_failure.*retry"),
        ({"signal_cache": {}}, "such as MemorySignalCache"),
        ({"ledger": "ledger.db"}, "use sqlite:///"),
        ({"ledger": True}, "a ledger must be a URL"),
        ({"ledger_wait_s": -1}, "ledger_wait_s must be a finite number"),
        ({"context": "last"}, "known: all, last_turn"),
        ({"trace_dialects": ["x"]}, "known: openinference"),
        ({"prices": {"scripted/17": 0.5}}, "must be a TokenPrice or GpuHour, got float; write TokenPrice"),
        ({"prices": {5: TokenPrice("1", "2")}}, "prices are by the model's name"),
        ({"prices": {"scripted/18": TokenPrice("1", "2")}}, "did you mean 'scripted/17'"),
        ({"prompts": "Plan."}, "prompts must be a Prompts, or a dict"),
        ({"prompts": {"reasoner": 5}}, "prompts.reasoner"),
        ({"reasoner_params": {"temperature": 9}}, "temperature must be at most 5"),
        ({"http_client": 5}, r"Endpoint\(model=…, options="),
        ({"organization": "x"}, r"Endpoint\(model='vllm/MODEL'"),
        ({"llm": "x"}, r"reasoner=…, generator=…"),
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
        ("vllm/m@localhost/v1", "vllm/m@http://localhost/v1"),
        ("vllm/m@gpu-1.example/v1", "vllm/m@http://gpu-1.example/v1"),
    ],
)
def test_a_models_name_in_the_form_of_another_library(name: str, meant: str) -> None:
    with pytest.raises(DuetError) as told:
        DuetClient(reasoner=name, generator="scripted/x")
    assert f"did you mean '{meant}'" in str(told.value)


def test_https_where_plain_http_is_spoken_is_not_hidden_by_the_generator() -> None:
    with running(Answer("hello"), models=("m",)) as server:
        address = server.url.replace("http:", "https:")
        with DuetClient(f"vllm/m@{address}", "scripted/a") as duet:
            with pytest.raises(DuetError, match="speaks no https there; write http://"):
                duet.chat("q")


def test_a_models_name_with_an_at_sign_of_its_own() -> None:
    with DuetClient(reasoner="scripted/write to me@home", generator="scripted/ok") as duet:
        assert duet.chat("q").text == "ok"


IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "photo.png"}}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (Message("user", "q"), "messages must be a list"),
        ({"role": "user", "content": "q"}, "messages must be a list"),
        (5, "must be a string or a list"),
        (None, "must be a string or a list"),
        (b"q", "must be a string or a list of messages, got bytes"),
        ({"q"}, "must be a string or a list of messages, got set"),
        (Path("q.txt"), "must be a string or a list"),
        ([], "messages is empty"),
        (" ", "the question is empty"),
        (["q"], "got str; write {'role': 'user', 'content': '…'}"),
        ([("user", "q")], "got tuple; write {'role': 'user'"),
        ([[{"role": "user", "content": "q"}]], "got list; write {'role': 'user'"),
        ([HumanMessage()], "messages of LangChain are for ChatDuet"),
        ([{"role": "user", "content": "q"}, Dumped()], r"got Dumped; write its model_dump\(\)"),
        ([{"role": "user", "content": "q"}, Reply("x"), {"role": "user", "content": "q"}], r"write reply\.message"),
        ([{"role": "human", "content": "q"}], "the role 'human'; did you mean 'user'"),
        ([{"role": "user", "content": "q"}, {"role": "model", "content": "a"}], "did you mean 'assistant'"),
        ([{"content": "q"}], "message 0 has no role; known: system, user"),
        ([{"role": "boss", "content": "q"}], "has the role 'boss'; known: system, user"),
        ([Message("hello there", "user")], r"the role comes first, Message\('user', '…'\)"),  # type: ignore[arg-type]
        ([{"role": "hello", "content": "user"}], "its role in the place of its content"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "text": "q"}], "its text belongs in 'content'"),
        ([{"role": "user", "parts": [{"text": "q"}]}], "its text belongs in 'content'"),
        ([{"role": "user", "content": 5}], "content must be a string or a list of parts"),
        ([{"role": "user", "content": {"type": "text", "text": "q"}}], "content must be a string or a list of parts"),
        ([{"role": "user", "content": [IMAGE]}], "an image without a URL; write https://"),
        ([Message("user", (ImagePart("photo.png"),))], "an image without a URL; write https://"),
        ([Message("user", (ImagePart(b"x"),))], "an image without a URL"),  # type: ignore[arg-type]
        ([{"role": "user", "content": [{"type": "image", "source": {}}]}], "write {'type': 'image_url'"),
        ([{"role": "user", "content": [{"type": "tool_result"}]}], "a tool's result is a message"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "known: 'text' and 'image_url'"),
        ([{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}], "without tool_call_id"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "the last message must be from"),
        ([{"role": "system", "content": "q"}], "the last message must be from"),
    ],
)
def test_messages_of_another_form(messages: Any, words: str) -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError, match=words):
        duet.chat(messages)


def test_a_role_that_may_be_a_text_is_not_shown() -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError, match="has an unknown role") as told:
        duet.chat([{"role": "my secret diagnosis", "content": "q"}])
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Budget(max_tokens=5), "Budget has no 'max_tokens'; did you mean 'answer_tokens'"),  # type: ignore[call-arg]
        (lambda: Budget(signal_token=5), "did you mean 'signal_tokens'"),  # type: ignore[call-arg]
        (lambda: Budget("64"), "signal_tokens must be a whole number"),  # type: ignore[arg-type]
        (lambda: Budget(64, signal_tokens=64), "got 'signal_tokens' twice"),  # type: ignore[misc]
        (lambda: Budget(deadline_s="5"), "deadline_s must be a finite number"),  # type: ignore[arg-type]
        (lambda: Budget(cost_usd=-1), "cost_usd must be above 0"),  # type: ignore[arg-type]
        (lambda: Sampling(temp=1), "Sampling has no 'temp'; did you mean 'temperature'"),  # type: ignore[call-arg]
        (lambda: Sampling(stop=5), "stop must be a string or a list of strings"),  # type: ignore[arg-type]
        (lambda: Sampling(extra_body="x"), "extra_body must be a dict"),  # type: ignore[arg-type]
        (lambda: Retry(max_attempts=3), "did you mean 'attempts'"),  # type: ignore[call-arg]
        (lambda: Retry(1, 1, 1, 1, 1), "Retry takes attempts, first_wait_s.*got 5 values"),  # type: ignore[call-arg]
        (lambda: Retry("3"), "attempts of Retry must be a whole number"),  # type: ignore[arg-type]
        (lambda: TokenPrice("1"), "TokenPrice needs output_usd"),  # type: ignore[call-arg]
        (lambda: TokenPrice(input=1, output=2), "did you mean 'input_usd'"),  # type: ignore[call-arg]
        (lambda: TokenPrice("free", "free"), "must be a number of USD"),
        (GateConfig, "GateConfig needs policy"),
        (lambda: FailurePolicy(retry=3), "retry must be a Retry"),  # type: ignore[arg-type]
        (lambda: FailurePolicy(fallback_pair="x"), "must be two models"),  # type: ignore[arg-type]
        (lambda: Prompts(5), "the prompt of the reasoner must be a string"),  # type: ignore[arg-type]
        (lambda: Prompts("At most {signal_token}."), "did you mean {signal_tokens}"),
        (lambda: Prompts("At most {max_tokens}."), "did you mean {signal_tokens}"),
        (lambda: Prompts(system="x"), "Prompts has no 'system'; it has reasoner, generator"),  # type: ignore[call-arg]
        (lambda: RunScope("x"), "ask_again_on must be a list"),
        (lambda: Endpoint("vllm/m", "http://h/v1"), "takes its model by place, and all else by name"),
        (lambda: Endpoint(name="vllm/m"), "name is not an option; known: model, base_url"),
        (lambda: Endpoint(model="vllm/m", url="http://h/v1"), "the Endpoint cannot be used: url is not an option"),
        (lambda: Endpoint(model="vllm/m", price=0.5), "price"),
        (lambda: Endpoint(model="vllm/m", price={"input_usd": 1}), "a price needs input_usd and output_usd"),
        (lambda: Endpoint(model="vllm/m", api_key_env="sk-abc"), "must be the name of an environment variable"),
        (lambda: Endpoint(model="vllm/m", base_url="http://u:p@h/v1"), "must not contain a user, a password"),
        (lambda: Endpoint(model="vllm/m", context_tokens="many"), "context_tokens"),
        (lambda: Scripted(["a", "b"]), r"Scripted\('first', 'second'\)"),  # type: ignore[arg-type]
        (
            lambda: Script(tool_calls=(ToolCall("c", "f", {"a": 1}),)),  # type: ignore[arg-type]
            r"must be JSON text, got dict: write json\.dumps",
        ),
        (lambda: Script(tool_calls=[{"name": "f"}]), r"tool_calls=\(ToolCall\("),  # type: ignore[arg-type,list-item]
        (lambda: Script(tool_calls=ToolCall("c", "f", "{}")), r"tool_calls=\(ToolCall\("),  # type: ignore[arg-type]
        (lambda: Budget(usd=1), "did you mean 'cost_usd'"),  # type: ignore[call-arg]
        (lambda: DuetClient("openai:gpt-4o", "scripted/a"), "did you mean 'litellm/openai/gpt-4o'"),
        (
            lambda: DuetClient("vllm/m@http://h:1/v1/chat/completions", "scripted/a"),
            r"end it before /chat/completions, as in …/v1",
        ),
        (lambda: Scripted(5), "a line of Scripted must be a string"),  # type: ignore[arg-type]
        (lambda: DuetClient.from_pair("nowhere"), "there is no folder 'nowhere'"),
        (lambda: DuetClient.from_pair(5), "from_pair takes a folder"),  # type: ignore[arg-type]
        (lambda: DuetClient.over(DuetClient(**PAIR)), r"over\(\) takes an AsyncDuetClient"),  # type: ignore[arg-type]
    ],
)
def test_an_object_of_ours_made_wrongly(make: Callable[[], object], words: str) -> None:
    with pytest.raises(DuetError, match=words) as told:
        make()
    assert "sk-abc" not in str(told.value)


def test_an_endpoint_takes_its_model_by_place() -> None:
    assert Endpoint("vllm/m", base_url="http://h/v1") == Endpoint(model="vllm/m", base_url="http://h/v1")


def test_a_placeholder_that_stands_for_nothing_is_warned_of_where_it_is_written() -> None:
    with pytest.warns(DegradedWarning, match="has {foo}, which the model reads as it stands") as told:
        Prompts("About {foo}, in {signal_tokens} tokens.")
    assert told[0].filename == __file__
    with pytest.warns(DegradedWarning, match="nothing is filled in"):
        Prompts(generator="In {signal_tokens} tokens.")
    Prompts(r"Put it into \boxed{answer}, as {{foo}}, ${foo} or {'a': 1}.")


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda duet: duet.stream("q").reply, "the reply is not complete"),
        (lambda duet: list(duet.stream("q")), "write 'with duet.stream"),
        (lambda duet: list(duet.stream("q").text_stream), "write 'with duet.stream"),
        (lambda duet: duet.conversation(system=5), "system must be a str"),
        (lambda duet: duet.conversation().chat({"role": "user", "content": "x"}), "said must be a string or a list"),
        (lambda duet: duet.conversation().chat("q", max_tokens=5), r"Budget\(answer_tokens="),
        (lambda duet: duet.ledger, "this client has no ledger"),
        (pickle.dumps, "a client cannot be pickled"),
        (copy.deepcopy, "a client cannot be pickled"),
    ],
)
def test_a_wrong_step_with_a_client(use: Callable[[Any], object], words: str) -> None:
    with DuetClient(**PAIR) as duet, pytest.raises(DuetError, match=words):
        use(duet)


@pytest.mark.parametrize(
    "use", [lambda duet: duet.chat("q"), lambda duet: duet.stream("q"), lambda duet: duet.conversation().chat("q")]
)
def test_a_client_that_is_closed(use: Callable[[Any], object]) -> None:
    duet = DuetClient(**PAIR)
    duet.close()
    with pytest.raises(DuetError, match="this client is closed; make a new one"):
        use(duet)


async def test_a_run_is_not_awaited() -> None:
    run: Any = AsyncDuetClient(**PAIR).stream("q")
    with pytest.raises(Misuse, match="async with duet.stream"):
        await run


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("content", r"reply\.text"),
        ("choices", r"reply\.text, or reply\.answers"),
        ("model_dump", r"reply\.to_dict\(\)"),
        ("usage_metadata", r"reply\.summary\(\)"),
        ("reasoning_content", r"reply\.signal\.text"),
        ("nonsense", "has no attribute 'nonsense'$"),
    ],
)
def test_a_part_of_a_reply_by_another_librarys_name(name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=instead):
        getattr(Reply("x"), name)
    assert not hasattr(Reply("x"), name)


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
    assert {name for name, kind in kinds.items() if table_in(kind) and name in ClientOptions.__annotations__} == TABLES


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

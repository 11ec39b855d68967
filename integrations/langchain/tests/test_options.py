"""What a call sets, and what the model does."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_duet import ChatDuet
from pairs import pair

from duet_sdk import (
    Budget,
    ConfigError,
    DuetClient,
    DuetError,
    Endpoint,
    InvalidRequest,
    Sampling,
    Settings,
    UnknownOption,
)
from duet_sdk.backends.scripted import Scripted
from duet_sdk.budget import MemoryLedger
from duet_sdk.gate import Never


def test_a_budget_of_one_call_goes_over_the_models():
    model, reasoner, generator = pair(budget=Budget(signal_tokens=100, answer_tokens=50), max_tokens=70)
    model.invoke("q", budget=Budget(signal_tokens=9))
    assert (reasoner.calls[0].max_tokens, generator.calls[0].max_tokens) == (9, 50)


def test_max_tokens_of_one_call_goes_over_the_budget_of_the_model():
    model, _, generator = pair(budget=Budget(answer_tokens=50))
    model.invoke("q", max_tokens=7)
    assert generator.calls[0].max_tokens == 7


@pytest.mark.parametrize(
    ("mode", "asked"), [("duet", (1, 1)), ("reasoner", (1, 0)), ("generator", (0, 1)), ("signal", (1, 0))]
)
def test_the_mode_of_one_call_says_who_is_asked(mode, asked):
    model, reasoner, generator = pair()
    model.invoke("q", mode=mode)
    assert (len(reasoner.calls), len(generator.calls)) == asked


@pytest.mark.parametrize("gate", ["never", Never()])
def test_the_gate_of_one_call_goes_over_the_models(gate):
    model, reasoner, _ = pair(gate="always")
    assert model.invoke("q", gate=gate).response_metadata["gate"]["policy"] == "never"
    assert reasoner.calls == []


def test_options_can_be_bound():
    model, reasoner, _ = pair()
    model.bind(mode="generator", budget=Budget(answer_tokens=5)).invoke("q")
    assert reasoner.calls == []


def test_a_field_can_be_configured_by_the_call():
    model, _, generator = pair()
    configurable = model.configurable_fields(temperature=ConfigurableField(id="heat"))
    configurable.with_config(configurable={"heat": 0.7}).invoke("q")
    configurable.invoke("q")
    assert [call.sampling.temperature for call in generator.calls] == [0.7, None]


def test_parallel_calls_are_switched_off_beside_what_the_model_sends_anyway():
    model, _, generator = pair(generator_params=Sampling(extra_body={"priority": 1}))
    model.bind_tools([], parallel_tool_calls=False).invoke("q")
    assert generator.calls[0].sampling.extra_body == {"priority": 1, "parallel_tool_calls": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "gpt-4o"}, "'model'; name both models of the pair"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "'base_url'; name both models of the pair"),
        ({"max_completion_tokens": 5}, r"write max_tokens=… for the answer"),
        ({"model_kwargs": {}}, r"Sampling\(extra_body="),
        ({"budget": {"signal_token": 5}}, "did you mean 'signal_tokens'"),
        ({"temperature": 9}, "temperature must be at most 5"),
        ({"reasoner": "gpt-4o"}, "did you mean 'litellm/openai/gpt-4o'"),
    ],
)
def test_what_other_chat_models_take_is_answered_with_what_this_one_does(options, words):
    with pytest.raises(DuetError, match=words):
        ChatDuet(**{"reasoner": "scripted/a", "generator": "scripted/b", **options}).invoke("q")


def test_a_client_in_a_models_place_is_named():
    with DuetClient("scripted/a", "scripted/b") as client, pytest.raises(ConfigError, match=r"ChatDuet\(client=duet\)"):
        ChatDuet(client)


def test_every_table_stands_for_an_object():
    model = ChatDuet(
        {"model": "scripted/a"},
        ["scripted/b", "scripted/c"],
        prices={"scripted/a": {"gpu_hour_usd": 1}},
        generator_params={"stop": "END"},
        ledger={"url": "memory:"},
        on_failure={"retry": {"attempts": 1}},
        stop="END",
    )
    assert model.invoke("q").text == "b"
    assert (model.generator_params.stop, model.stop) == (("END",), ["END"])


def test_tables_stand_for_objects_in_calls_too():
    model, reasoner, generator = pair(budget={"answer_tokens": 50})
    model.invoke("q", budget={"signal_tokens": 9}, generator_params={"temperature": 0.5})
    assert (reasoner.calls[0].max_tokens, generator.calls[0].max_tokens) == (9, 50)
    assert generator.calls[0].sampling.temperature == 0.5
    model.bind_tools([], parallel_tool_calls=False).invoke("q", generator_params={"top_k": 3})
    assert generator.calls[1].sampling.extra_body == {"parallel_tool_calls": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": {"signal_token": 4}}, "did you mean 'signal_tokens'"),
        ({"budget": 64}, "budget must be a Budget, or a dict with its fields"),
        ({"generator_params": 0.5}, "generator_params must be a Sampling"),
    ],
)
def test_a_dial_that_cannot_be_used_is_refused(options, words):
    model, *_ = pair()
    with pytest.raises(InvalidRequest, match=words):
        model.invoke("q", **options)


@pytest.mark.parametrize("name", ["budgets", "reasoning_effort"])
def test_an_option_that_is_unknown_is_refused(name):
    model, *_ = pair()
    with pytest.raises(InvalidRequest, match=f"'{name}' is not an option of a call"):
        model.invoke("q", **{name: 1})


def test_a_field_that_is_unknown_is_refused():
    with pytest.raises(UnknownOption, match=r"'signal_tokens' is not .*budget=Budget\(signal_tokens=…\)"):
        ChatDuet(reasoner="scripted/a", generator="scripted/b", signal_tokens=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reasoner": FakeListChatModel(responses=["a"])}, "got FakeListChatModel"),
        ({"generator": FakeListChatModel(responses=["a"])}, "'litellm/openai/MODEL'"),
        ({"generator": ["scripted/a", FakeListChatModel(responses=["a"])]}, "got FakeListChatModel"),
        ({"reasoner": {"model": "vllm/m", "url": "http://h/v1"}}, "url is not an option"),
        ({"reasoner": 5}, "got int"),
        ({"base_url": "http://h/v1"}, "name both models of the pair"),
        ({"model": "gpt-4o"}, "name both models of the pair"),
        ({"planner": "x"}, "'planner' is not an option here; the options are "),
        ({"token_limit": 1}, "'token_limit' is not an option here"),
        ({"bugdet": 1}, "did you mean 'budget'"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"n": 2}, r"model\.invoke\(…, n=…\)"),
        ({"budget": 100}, "budget must be a Budget, or a dict with its fields, got int"),
        ({"budget": {"signal_token": 1}}, "did you mean 'signal_tokens'"),
        ({"budget": {"signal_tokens": "many"}}, "budget.signal_tokens"),
        ({"budget": {"signal_tokens": 6.5}}, "budget.signal_tokens"),
        ({"on_failure": "fail"}, "on_failure 'fail' is unknown; known: answer, raise"),
        ({"on_failure": {"retries": 1}}, "did you mean 'retry'"),
        ({"prices": {"scripted/17": 3}}, "prices.scripted/17"),
        ({"prices": [3]}, "prices must be a dict, got list"),
        ({"retry": 3}, "retry must be a Retry"),
        ({"handoff": "x"}, "handoff 'x' is unknown; known: instruct, think"),
        ({"gate": 5}, "gate"),
        ({"settings": "duet.toml"}, r"load_settings\(path\)"),
        ({"ledger": 5}, "ledger"),
        ({"signal_cache": 5}, r"MemorySignalCache\(\), got int"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": 9}, "temperature must be at most 5"),
        ({"max_tokens": "x"}, "answer_tokens must be a whole number"),
        ({"max_tokens": 0}, "answer_tokens must be a whole number"),
        ({"timeout": -1}, "deadline_s must be"),
        ({"stop": 5}, "stop must be a str or list"),
        ({"mode": "x"}, "mode 'x' is unknown"),
        ({"session": 5}, "session must be a str"),
        ({"streaming": "maybe"}, "streaming cannot be used: Input should be a valid boolean"),
        ({"max_retries": "x"}, "max_retries cannot be used"),
    ],
)
def test_what_a_model_cannot_be_made_with_is_told_in_one_line_of_ours(options, words):
    with pytest.raises(DuetError, match=words) as told:
        ChatDuet(**{"reasoner": "scripted/a", "generator": "scripted/b", **options})
    assert "\n" not in str(told.value)


def test_a_client_is_given_by_name():
    with DuetClient("scripted/a", "scripted/b") as duet, pytest.raises(ConfigError, match=r"ChatDuet\(client=duet\)"):
        ChatDuet(duet)


def test_what_cannot_work_is_refused_when_the_model_is_made():
    with pytest.raises(ConfigError, match="the generator is not named"):
        ChatDuet(reasoner="scripted/a")
    with pytest.raises(ConfigError, match="gate 'sometimes' is unknown"):
        ChatDuet(reasoner="scripted/a", generator="scripted/b", gate="sometimes")


def test_settings_name_the_pair(monkeypatch):
    assert ChatDuet(settings=Settings(reasoner="scripted/a", generator="scripted/b")).model_name == (
        "scripted/a + scripted/b"
    )
    monkeypatch.setenv("DUET_REASONER", "scripted/17")
    monkeypatch.setenv("DUET_GENERATOR", "scripted/There are 17.")
    assert ChatDuet().invoke("q").text == "There are 17."


def test_max_retries_are_calls_beyond_the_first():
    model, *_ = pair(max_retries=0)
    assert model._client_options()["retry"].attempts == 1


def test_another_generator_for_one_call():
    model, reasoner, generator = pair("notes", "from the first")
    message = model.invoke("q", model="scripted/from another")
    assert (message.text, generator.calls) == ("from another", [])
    assert message.response_metadata["models"]["generator"] == "scripted/from another"
    assert len(reasoner.calls) == 1


def test_the_thread_of_a_graph_or_chain_is_the_session():
    model, *_ = pair(ledger=MemoryLedger())
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | model
    chain.invoke({"q": "hello"}, {"configurable": {"thread_id": "t 1"}})
    model.invoke("q", session="own")
    sessions = [entry.scopes for entry in sync(model.ledger.entries())]
    assert sessions == [("session:t%201",)] * 2 + [("session:own",)] * 2


def sync(awaitable):
    """What a ledger in memory gives, which waits for nothing."""
    try:
        awaitable.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def test_labels_of_the_model_are_scopes():
    model, *_ = pair(ledger=MemoryLedger(), tenant="a", user="u")
    model.invoke("q")
    assert sync(model.ledger.entries())[0].scopes == ("tenant:a", "user:u")


def test_an_option_changed_on_a_copy_counts():
    model, reasoner, _ = pair()
    model.invoke("q")
    model.model_copy(update={"gate": "never"}).invoke("q")
    assert len(reasoner.calls) == 1


def test_one_key_is_for_one_server():
    at = "http://127.0.0.1:9/v1"
    model = ChatDuet(reasoner=f"vllm/a@{at}", generator=f"vllm/b@{at}", api_key="sk-1")
    assert "sk-1" not in repr(model)
    with pytest.raises(ConfigError, match="the models are on several servers"):
        ChatDuet(reasoner=f"vllm/a@{at}", generator="vllm/b@http://127.0.0.1:8/v1", api_key="sk-1")
    with pytest.raises(ConfigError, match="the models are on several servers"):
        ChatDuet(reasoner="litellm/openai/a", generator="litellm/anthropic/b", api_key="sk-1")
    ChatDuet(reasoner=f"vllm/a@{at}", generator=Endpoint(model="vllm/b", api_key="sk-2"), api_key="sk-1")


def test_a_model_beside_the_generator_is_on_its_server():
    model = ChatDuet(
        reasoner=Scripted("notes"),
        generator=Endpoint(model="vllm/b", base_url="http://127.0.0.1:9/v1", api_key="sk-2"),
    )
    other = model._clients_of("vllm/c").made_of[1]
    assert (other.model, other.base_url, other.api_key.get_secret_value()) == (
        "vllm/c",
        "http://127.0.0.1:9/v1",
        "sk-2",
    )


def test_tracing_knows_the_model_and_its_parameters():
    model = ChatDuet(reasoner="scripted/a", generator="scripted/b", temperature=0.5, max_tokens=9, stop=["END"])
    assert model._get_ls_params() == {
        "ls_provider": "duet",
        "ls_model_name": "scripted/a + scripted/b",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
        "ls_stop": ["END"],
    }


def test_the_profile_says_what_is_known_of_every_pair():
    small, large = (Endpoint(model="vllm/x", context_tokens=tokens) for tokens in (4096, 32768))
    assert ChatDuet(reasoner=large, generator=small).profile == {
        "text_inputs": True,
        "text_outputs": True,
        "reasoning_output": True,
        "max_input_tokens": 4096,
    }

"""Models as JSON, and the key under which LangChain caches their answers."""

from __future__ import annotations

import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, dumps, load
from langchain_duet import ChatDuet
from pairs import pair

from duet_sdk import (
    BreakerPolicy,
    Budget,
    Endpoint,
    FailurePolicy,
    GateConfig,
    GpuHour,
    Ladder,
    Progressive,
    Prompts,
    Retry,
    RunScope,
    Sampling,
    Settings,
    TokenPrice,
)
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gate import Never

AT = "http://127.0.0.1:9/v1"
EVERYTHING = {
    "reasoner": Endpoint(model="vllm/a", base_url=AT, context_tokens=4096, api_key_env="A_KEY"),
    "generator": ["vllm/b", Endpoint(model="vllm/c", base_url=AT)],
    "mode": "duet",
    "budget": Budget(signal_tokens=9, cost_usd="0.01", deadline_s=5.0),
    "gate": GateConfig("race", threshold=0.3),
    "gate_deadline_s": 0.5,
    "progressive": Progressive(slice_tokens=32),
    "trace_dialects": ("langfuse",),
    "handoff": "instruct",
    "signal_scope": RunScope(after_tool_turns=4, ask_again_on=("tool_error",)),
    "on_cut": "keep",
    "on_failure": FailurePolicy(
        ladder=Ladder(empty_signal="raise"),
        breaker=BreakerPolicy(failures=2),
        fallback_pair=("scripted/x", Endpoint(model="vllm/y", base_url=AT)),
        answer_broken="restart",
    ),
    "context": "last_turn",
    "prompts": Prompts(reasoner="plan", generator="answer"),
    "reasoner_params": Sampling(temperature=0.1, stop=("x",), extra_body={"priority": 1}),
    "generator_params": Sampling(top_k=3),
    "retry": Retry(attempts=2),
    "prices": {"vllm/a": TokenPrice("1.5", "3"), "vllm/b": GpuHour("2.5")},
    "ledger_wait_s": 1.5,
    "temperature": 0.0,
    "max_tokens": 11,
    "timeout": 30.0,
    "max_retries": 3,
    "stop": ["END"],
    "session": "s",
    "user": "u",
    "tenant": "t",
}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-of-a")


def round_trip(model):
    text = json.dumps(dumpd(model))
    allowed = {"allowed_objects": [ChatDuet], "valid_namespaces": ["langchain_duet"]}
    return load(json.loads(text), **allowed, secrets_from_env=True), text


def test_a_model_comes_back_as_it_was():
    model = ChatDuet(**EVERYTHING)
    again, _ = round_trip(model)
    for name in EVERYTHING:
        assert getattr(again, name) == getattr(model, name), name
    assert again._identifying_params == model._identifying_params


def test_a_model_of_settings_comes_back_without_its_keys():
    settings = Settings(reasoner=Endpoint(model="vllm/a", api_key="sk-secret"), generator="vllm/b", gate="never")
    again, text = round_trip(ChatDuet(settings=settings))
    assert (again.settings.reasoner.model, again.settings.reasoner.api_key, again.settings.gate) == (
        "vllm/a",
        None,
        "never",
    )
    assert "sk-secret" not in text


def test_a_key_is_a_reference(monkeypatch):
    model = ChatDuet(reasoner="vllm/a", generator="vllm/b", api_key="sk-secret")
    monkeypatch.setenv("DUET_API_KEY", "sk-of-the-other-machine")
    again, text = round_trip(model)
    assert '{"lc": 1, "type": "secret", "id": ["DUET_API_KEY"]}' in text
    assert "sk-secret" not in text
    assert again.api_key.get_secret_value() == "sk-of-the-other-machine"


@pytest.mark.parametrize("shown", [repr, str, dumps, lambda model: str(model._identifying_params)])
def test_keys_are_never_shown(shown):
    model = ChatDuet(
        reasoner=Endpoint(model="vllm/a", api_key="sk-secret"), generator=Endpoint(model="vllm/b", api_key="sk-secret")
    )
    assert "sk-secret" not in shown(model)


def test_objects_of_your_own_must_be_given_again():
    with pytest.raises(NotImplementedError, match="Scripted"):
        round_trip(ChatDuet(reasoner=Scripted("a"), generator="scripted/b"))


def test_an_answer_is_cached_under_pair_and_settings():
    cache = InMemoryCache()
    model, _, generator = pair(cache=cache)
    model.invoke("q")
    again = model.invoke("q")
    assert (again.text, again.additional_kwargs) == ("the answer", {"reasoning_content": "notes"})
    assert len(generator.calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"budget": Budget(signal_tokens=9)},
        {"gate": "never"},
        {"gate": Never()},
        {"temperature": 1.0},
        {"prompts": Prompts(reasoner="plan")},
        {"mode": "generator"},
        {"tenant": "other"},
        {"on_cut": "keep"},
    ],
)
def test_an_answer_under_other_settings_is_another(options):
    cache = InMemoryCache()
    reasoner, generator = Scripted("notes"), Scripted("the answer")
    ChatDuet(reasoner=reasoner, generator=generator, cache=cache).invoke("q")
    ChatDuet(reasoner=reasoner, generator=generator, cache=cache, **options).invoke("q")
    assert len(generator.calls) == 2


@pytest.mark.parametrize("options", [{"budget": Budget(signal_tokens=9)}, {"tenant": "b"}, {"gate": "never"}])
def test_an_answer_to_a_call_of_other_options_is_another(options):
    model, _, generator = pair(cache=InMemoryCache())
    model.invoke("q")
    model.invoke("q", **options)
    assert len(generator.calls) == 2


def test_settings_of_the_environment_are_part_of_the_key(monkeypatch):
    monkeypatch.setenv("DUET_REASONER", "scripted/a")
    monkeypatch.setenv("DUET_GENERATOR", "scripted/b")
    keys = {ChatDuet()._get_llm_string()}
    monkeypatch.setenv("DUET_BUDGET__SIGNAL_TOKENS", "9")
    keys.add(ChatDuet()._get_llm_string())
    assert len(keys) == 2

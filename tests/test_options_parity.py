"""An option of the client, or of a request, can be set wherever a user would look for it; exceptions have a reason.

The adapters' sources are read, not imported: their frameworks are not installed here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from duet_sdk.options import CallOptions, ClientOptions
from duet_sdk.settings import Settings

INTEGRATIONS = Path(__file__).parents[1] / "integrations"
CLIENT = frozenset(ClientOptions.__annotations__)
CALL = frozenset(CallOptions.__annotations__) | {"gate"}  # `chat` takes a gate beside these

NOT_IN_SETTINGS = {
    "signal_cache": "an object, which a file cannot hold",
}
SETTINGS_ALONE = {
    "reasoner": "the client's first argument",
    "generator": "the client's second argument",
    "pair": "`from_pair` takes it in code",
    "gateway": "`duet serve`'s own",
}
LANGCHAIN_ALONE = {
    "reasoner": "the client's first argument",
    "generator": "the client's second argument",
    "settings": "an argument of the client beside its options",
    "api_key": "LangChain keeps keys apart, as references",
    "client": "in place of all these",
    "mode": "a call's option, as its default",
    "temperature": "a call's option, as its default",
    "stop": "a call's option, as its default",
    "session": "a call's option, as its default",
    "user": "a call's option, as its default",
    "tenant": "a call's option, as its default",
    "max_tokens": "LangChain's name of budget.answer_tokens",
    "timeout": "LangChain's name of budget.deadline_s",
    "max_retries": "LangChain's name of retry.attempts - 1",
    "streaming": "LangChain's own",
}
# Options of a request that an adapter takes from the framework's own arguments, or that it has no use for.
NOT_IN_PYDANTIC_AI = {
    **dict.fromkeys(
        ("temperature", "top_p", "top_k", "seed", "stop"), "pydantic-ai's own settings, by pydantic-ai's names"
    ),
    **dict.fromkeys(("tools", "tool_choice", "response_format"), "made from the agent's tools and output type"),
    "n": "an agent reads one answer",
    "vote": "an agent reads one answer",
}
NOT_IN_LITELLM = {
    "response_format": "LiteLLM's own argument, converted from what it takes",
    "vote": "who asks LiteLLM for n answers gets n choices",
}


def source_of(path: str) -> ast.Module:
    return ast.parse((INTEGRATIONS / path).read_text(encoding="utf-8"))


def fields_of(tree: ast.Module, name: str) -> set[str]:
    """The public annotated fields of a class."""
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = (node.target for node in found.body if isinstance(node, ast.AnnAssign))
    return {field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")}


def values_of(tree: ast.Module, name: str) -> Iterator[ast.expr]:
    """What is assigned to a name of the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            yield node.value


def names_in(tree: ast.Module, name: str) -> set[str]:
    (value,) = values_of(tree, name)
    return set(ast.literal_eval(value))


def test_settings_hold_every_option_of_the_client() -> None:
    assert set(Settings.model_fields) == CLIENT - set(NOT_IN_SETTINGS) | set(SETTINGS_ALONE)


def test_langchain_takes_every_option_of_the_client() -> None:
    fields = fields_of(source_of("langchain/langchain_duet/chat_models.py"), "ChatDuet")
    assert fields == CLIENT | set(LANGCHAIN_ALONE)


def test_langchain_makes_its_clients_with_all_of_them() -> None:
    tree = source_of("langchain/langchain_duet/chat_models.py")
    passed_on = names_in(tree, "_POLICIES") | names_in(tree, "_SAMPLING") | names_in(tree, "_BOOKS")
    assert passed_on == CLIENT - {"budget"}  # each call has it, joined with LangChain's own limits


@pytest.mark.parametrize(
    ("path", "name"),
    [("langchain/langchain_duet/options.py", "KNOWN"), ("openai-agents/duet_openai_agents/model.py", "_OPTIONS")],
)
def test_calls_through_these_take_the_options_of_a_request_as_they_are(path: str, name: str) -> None:
    (value,) = values_of(source_of(path), name)
    assert "CallOptions.__annotations__" in ast.unparse(value)


def test_calls_through_pydantic_ai_take_every_option_of_a_request() -> None:
    fields = fields_of(source_of("pydantic-ai/duet_pydantic_ai/model.py"), "DuetModelSettings")
    assert {field.removeprefix("duet_") for field in fields} == CALL - set(NOT_IN_PYDANTIC_AI)


def test_calls_through_litellm_take_every_option_of_a_request() -> None:
    tree = source_of("litellm/duet_litellm/provider.py")
    taken = names_in(tree, "_SHARED") | names_in(tree, "_BY_CALLER") | names_in(tree, "_BY_OWNER")
    assert taken == CALL - set(NOT_IN_LITELLM)


def test_llama_index_passes_the_options_of_a_call_on_without_a_list_of_its_own() -> None:
    tree = source_of("llama-index/llama_index/llms/duet/base.py")
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "self._sync.chat(**self._options(messages, options))" in calls


@pytest.mark.parametrize("named", [NOT_IN_SETTINGS, NOT_IN_PYDANTIC_AI, NOT_IN_LITELLM])
def test_no_exception_outlives_its_option(named: dict[str, str]) -> None:
    assert set(named) <= CLIENT | CALL
    assert all(named.values())

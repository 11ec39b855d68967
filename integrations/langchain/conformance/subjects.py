"""The chat models that are judged, each as its users would point it at a server of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from langchain_core.language_models import BaseChatModel


@dataclass(frozen=True)
class Subject:
    """One chat model."""

    package: str
    """Its distribution."""
    class_name: str
    params: Callable[[str], Mapping[str, Any]]
    """A server's base URL → the options that name it and the model."""
    another: str
    """Another model of that server, as a call names it."""
    from_env: tuple[dict[str, str], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    """Environment variables, further options, and the fields that they set."""

    @property
    def chat_model(self) -> type[BaseChatModel]:
        """The class."""
        found: type[BaseChatModel] = getattr(import_module(self.package.replace("-", "_")), self.class_name)
        return found


SUBJECTS = (
    Subject(
        "langchain-duet",
        "ChatDuet",
        lambda url: {"reasoner": f"vllm/reasoner@{url}", "generator": f"vllm/generator@{url}"},
        "vllm/another",
        ({"DUET_API_KEY": "key"}, {"reasoner": "vllm/reasoner", "generator": "vllm/generator"}, {"api_key": "key"}),
    ),
    Subject(
        "langchain-openai",
        "ChatOpenAI",
        lambda url: {"model": "generator", "base_url": url, "api_key": "none", "stream_usage": True},
        "another",
        ({"OPENAI_API_KEY": "key"}, {"model": "generator"}, {"openai_api_key": "key"}),
    ),
    Subject(
        "langchain-deepseek",
        "ChatDeepSeek",
        lambda url: {"model": "generator", "base_url": url, "api_key": "none", "stream_usage": True},
        "another",
        ({"DEEPSEEK_API_KEY": "key"}, {"model": "generator"}, {"api_key": "key"}),
    ),
    Subject(
        "langchain-litellm",
        "ChatLiteLLM",
        lambda url: {"model": "openai/generator", "api_base": url, "api_key": "none"},
        "openai/another",
    ),
)

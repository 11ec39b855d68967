"""What was probably meant by a name that is not a model's name here, in the form of other libraries."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Final

# https://docs.litellm.ai/docs/providers: the first part of LiteLLM's own names, which other tools use too.
_PROVIDERS: Final = frozenset(
    "ai21 anthropic azure azure_ai bedrock cerebras cohere dashscope databricks deepinfra deepseek fireworks_ai "  # noqa: SIM905
    "gemini github groq huggingface hyperbolic mistral moonshot nebius novita nvidia_nim ollama ollama_chat openai "
    "openrouter perplexity replicate sambanova together_ai vercel_ai_gateway vertex_ai volcengine "
    "watsonx xai zai".split()
)
# How the names of hosted models begin → the provider that serves them under this name.
_HOSTED: Final = {
    "gpt-": "openai",
    "chatgpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "claude-": "anthropic",
    "gemini-": "gemini",
    "deepseek-": "deepseek",
    "mistral-": "mistral",
    "ministral-": "mistral",
    "magistral-": "mistral",
    "codestral-": "mistral",
    "grok-": "xai",
    "command-": "cohere",
    "kimi-": "moonshot",
    "glm-": "zai",
}
_NO_SCHEME: Final = re.compile(
    r"(?P<model>.+)@(?P<address>(?:[\w.-]+|\[[0-9a-fA-F:]+\]):\d+(?:/\S*)?|localhost(?:/\S*)?|[\w.-]+/v\d+/?)"
)


def meant(name: str, backends: Collection[str]) -> str:
    """How to write what a name that is none was meant for; empty where nothing suggests itself.

    >>> meant("gpt-4o", ["litellm", "vllm"])
    "did you mean 'litellm/openai/gpt-4o'?"
    """
    if re.match(r"https?://", name):
        return f"did you mean 'vllm/MODEL@{name}', with a MODEL that the server at this address lists?"
    provider, colon, model = name.partition(":")
    if colon and model and provider in _PROVIDERS:  # as LangChain and Pydantic AI have it
        return f"did you mean 'litellm/{provider}/{model}'?"
    first, slash, rest = name.partition("/")
    slash = slash if first and rest else ""
    if slash and first in _PROVIDERS:
        return f"did you mean 'litellm/{name}'?"
    if slash and (close := get_close_matches(first, backends, n=1, cutoff=0.75)):
        return f"did you mean '{close[0]}/{rest}'?"
    if slash:
        return f"did you mean 'vllm/{name}@http://host:port/v1', where it is served, or 'transformers/{name}'?"
    hosted = next((provider for start, provider in _HOSTED.items() if name.startswith(start)), None)
    return f"did you mean 'litellm/{hosted}/{name}'?" if hosted else ""


def without_scheme(name: str) -> str | None:
    """The name as it was meant, where its address lacks ``http://``; None if it does not."""
    found = _NO_SCHEME.fullmatch(name)
    return None if found is None else f"{found['model']}@http://{found['address']}"

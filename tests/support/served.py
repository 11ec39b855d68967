"""A scripted server with a vLLM backend in front of it, and what tests ask of the two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from support.fault_server import DEFAULT, FaultServer

from duet_sdk.backends import Backend, Call, Chunk
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.reply import StageUsage
from duet_sdk.types import Message

QUESTION = (Message("user", "How many primes are below sixty, please?"),)
CALL = Call(max_tokens=64, messages=QUESTION)
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
BY_HAND = {
    "prompt_ids": True,
    "token_ids": False,
    "continuous_usage": False,
    "tokenize": False,
    "switch_thinking": False,
}


@asynccontextmanager
async def served(answer: Any = DEFAULT, **options: Any) -> AsyncIterator[tuple[FaultServer, VllmBackend]]:
    """A server and a backend for it; options of the backend are those that the server does not know."""
    own = {
        name: options.pop(name)
        for name in list(options)
        if name
        in (
            "vllm",
            "models",
            "cards",
            "key",
            "without",
            "files",
            "thinking",
            "drafts",
            "ranks",
            "stop_texts",
            "scale_out",
        )
    }
    async with FaultServer(answer, **own) as server:
        backend = VllmBackend(options.pop("model", "m"), base_url=options.pop("base_url", server.url), **options)
        try:
            yield server, backend
        finally:
            await backend.aclose()


async def chunks_of(backend: Backend, call: Call = CALL) -> list[Chunk]:
    async with aclosing(backend.stream(call)) as stream:
        return [chunk async for chunk in stream]


def text_of(chunks: list[Chunk], index: int = 0) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.index == index)


def last_usage(chunks: list[Chunk]) -> StageUsage:
    return [chunk.usage for chunk in chunks if chunk.usage is not None][-1]

"""The same two-stage call by DUET and by hand on each library: a reasoner, then a generator that sees its text.

``streamed`` streams both stages; ``whole`` asks for both answers in one piece (DUET's `chat` streams its reasoner all
the same, so that the signal's limit holds).
"""

import json
from contextlib import AsyncExitStack
from typing import Any, Protocol, Self

QUESTION = "How many primes are below 60?"
REASONER = "m"
GENERATOR = "n"


class Caller(Protocol):
    """One way to make the two-stage call; an async context manager that owns its connections."""

    async def streamed(self) -> str:
        """The answer's text."""

    async def whole(self) -> str:
        """The answer's text."""


class _Base:
    def __init__(self, url: str, generator: str = GENERATOR) -> None:
        self.url = url
        self.generator = generator
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def open(self) -> None:
        """Make the client."""


class Duet(_Base):
    """`AsyncDuetClient`."""

    async def open(self) -> None:
        from duet_sdk import AsyncDuetClient

        client = AsyncDuetClient(f"vllm/{REASONER}@{self.url}", f"vllm/{self.generator}@{self.url}")
        self.client = await self.stack.enter_async_context(client)

    async def streamed(self) -> str:
        async with self.client.stream(QUESTION) as run:
            async for _ in run:
                pass
        return run.reply.text

    async def whole(self) -> str:
        return (await self.client.chat(QUESTION)).text


class _ByHand(_Base):
    """Two calls of `ask`, the first one's text in the second's prompt."""

    async def streamed(self) -> str:
        signal = await self.stream(REASONER, first_messages())
        return await self.stream(self.generator, second_messages(signal))

    async def whole(self) -> str:
        signal = await self.ask(REASONER, first_messages())
        return await self.ask(self.generator, second_messages(signal))

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        """One streamed call."""
        raise NotImplementedError

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        """One whole call."""
        raise NotImplementedError


class Aiohttp(_ByHand):
    """aiohttp, its lines as they come."""

    async def open(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0)
        self.session = await self.stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        texts = []
        async with self.session.post(f"{self.url}/chat/completions", json=body(model, messages, stream=True)) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if text := text_of(line):
                    texts.append(text)
        return "".join(texts)

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        async with self.session.post(
            f"{self.url}/chat/completions", json=body(model, messages, stream=False)
        ) as answer:
            answer.raise_for_status()
            return (await answer.json())["choices"][0]["message"]["content"]


class Httpx(_ByHand):
    """httpx."""

    async def open(self) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.client = await self.stack.enter_async_context(httpx.AsyncClient(limits=limits, timeout=60))

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        texts = []
        asked = body(model, messages, stream=True)
        async with self.client.stream("POST", f"{self.url}/chat/completions", json=asked) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if text := text_of(line.encode()):
                    texts.append(text)
        return "".join(texts)

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        answer = await self.client.post(f"{self.url}/chat/completions", json=body(model, messages, stream=False))
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]


class Openai(_ByHand):
    """The openai client."""

    async def open(self) -> None:
        from openai import AsyncOpenAI

        client = AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0)
        self.client = await self.stack.enter_async_context(client)

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        stream = await self.client.chat.completions.create(**body(model, messages, stream=True))
        async with stream:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        answer = await self.client.chat.completions.create(**body(model, messages, stream=False))
        return answer.choices[0].message.content


class Litellm(_ByHand):
    """LiteLLM's `acompletion` with its provider for vLLM."""

    async def open(self) -> None:
        import litellm

        self.acompletion = litellm.acompletion
        self.more = {"api_base": self.url, "num_retries": 0, "max_retries": 0}

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        chunks = await self.acompletion(**body(f"hosted_vllm/{model}", messages, stream=True), **self.more)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        answer = await self.acompletion(**body(f"hosted_vllm/{model}", messages, stream=False), **self.more)
        return answer.choices[0].message.content


class Langchain(_ByHand):
    """langchain-openai's `ChatOpenAI`."""

    async def open(self) -> None:
        from langchain_openai import ChatOpenAI

        self.models = {
            model: ChatOpenAI(
                model=model, base_url=self.url, api_key="none", max_retries=0, max_tokens=512, stream_usage=True
            )
            for model in (REASONER, self.generator)
        }

    async def stream(self, model: str, messages: list[dict[str, str]]) -> str:
        return "".join([chunk.content async for chunk in self.models[model].astream(messages)])

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        return (await self.models[model].ainvoke(messages)).content


def first_messages() -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION}]


def second_messages(signal: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{QUESTION}\n\nNotes:\n{signal}"}]


def body(model: str, messages: list[dict[str, str]], *, stream: bool) -> dict[str, Any]:
    """A request in OpenAI's form."""
    asked: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 512, "stream": stream}
    return {**asked, "stream_options": {"include_usage": True}} if stream else asked


def text_of(line: bytes) -> str:
    """The text in one line of a stream, empty where it has none."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return ""
    choices = json.loads(line[6:])["choices"]
    return choices[0]["delta"].get("content") or "" if choices else ""


CALLERS: dict[str, type[_Base]] = {
    "duet": Duet,
    "aiohttp": Aiohttp,
    "httpx": Httpx,
    "openai": Openai,
    "langchain-openai": Langchain,
    "litellm": Litellm,
}

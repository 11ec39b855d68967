"""The same two-stage call by DUET and by hand on each library: a reasoner, then a generator that sees its text.

``streamed`` streams both stages. ``whole`` asks for both answers in one piece, but not in DUET and ``by hand``: DUET's
`chat` streams its reasoner so that the signal's limit holds, and ``by hand`` is what an engineer would write for that.
"""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import chain
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
    """`AsyncDuetClient`; the generator may have another address than the reasoner."""

    generator_url: str | None = None

    async def open(self) -> None:
        from duet_sdk import AsyncDuetClient

        generator = f"vllm/{self.generator}@{self.generator_url or self.url}"
        client = AsyncDuetClient(f"vllm/{REASONER}@{self.url}", generator)
        self.client = await self.stack.enter_async_context(client)

    async def streamed(self) -> str:
        async with self.client.stream(QUESTION) as run:
            async for _ in run:
                pass
        return run.reply.text

    async def whole(self) -> str:
        return (await self.client.chat(QUESTION)).text


class _Library(_Base):
    """Two calls by `stream` or by `ask`, the first one's text in the second's prompt."""

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


class Aiohttp(_Library):
    """aiohttp, and json for each event of a stream."""

    async def open(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0)
        self.session = await self.stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    async def stream(
        self, model: str, messages: list[dict[str, str]], on_first: Callable[[], None] | None = None
    ) -> str:
        """One streamed call; ``on_first`` is called when its first text comes."""
        texts: list[str] = []
        rest, finish = b"", None
        async with self.session.post(f"{self.url}/chat/completions", json=body(model, messages, stream=True)) as answer:
            answer.raise_for_status()
            async for data in answer.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                for choice in chain.from_iterable(map(choices_of, lines)):
                    if text := choice["delta"].get("content"):
                        if not texts and on_first is not None:
                            on_first()
                        texts.append(text)
                    finish = choice["finish_reason"] or finish
        if finish is None:
            raise RuntimeError("the stream ended before the model did")
        return "".join(texts)

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        async with self.session.post(
            f"{self.url}/chat/completions", json=body(model, messages, stream=False)
        ) as answer:
            answer.raise_for_status()
            return (await answer.json())["choices"][0]["message"]["content"]


class ByHand(Aiohttp):
    """The calls that DUET makes, written by hand on aiohttp: for `chat`, too, the reasoner is streamed."""

    async def whole(self) -> str:
        signal = await self.stream(REASONER, first_messages())
        return await self.ask(self.generator, second_messages(signal))


class Httpx(_Library):
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
                texts += [choice["delta"].get("content") or "" for choice in choices_of(line.encode())]
        return "".join(texts)

    async def ask(self, model: str, messages: list[dict[str, str]]) -> str:
        answer = await self.client.post(f"{self.url}/chat/completions", json=body(model, messages, stream=False))
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]


class Openai(_Library):
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


class Litellm(_Library):
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


class Langchain(_Library):
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


def choices_of(line: bytes) -> list[dict[str, Any]]:
    """The choices in one line of a stream; none in a blank line, in the usage, and at the end."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return []
    return json.loads(line[6:])["choices"]


CALLERS: dict[str, type[_Base]] = {
    "duet": Duet,
    "by hand": ByHand,
    "aiohttp": Aiohttp,
    "httpx": Httpx,
    "openai": Openai,
    "langchain-openai": Langchain,
    "litellm": Litellm,
}

"""A backend with scripted answers, for tests and documentation: real streams, no model.

>>> from duet_sdk import DuetClient
>>> from duet_sdk.backends.scripted import Scripted
>>> with DuetClient(reasoner=Scripted("17 of them."), generator=Scripted("There are 17 primes.")) as duet:
...     duet.chat("How many primes are below 60?").text
'There are 17 primes.'
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, TypeAlias

from typing_extensions import override

from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.backends.options import Known, checked_local
from duet_sdk.errors import BackendError, ConfigError
from duet_sdk.events import ToolCallDelta
from duet_sdk.pricing import FREE, GpuHour, Price, TokenPrice
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.reply import StageUsage
from duet_sdk.types import Json, Message, TokenLogprob, ToolCall


@dataclass(frozen=True, slots=True)
class Script:
    """What one call gets. A token is a word with the whitespace before it."""

    text: str = ""
    reasoning: str = ""
    """Thinking that the server reports in a field of its own, before the text."""
    tool_calls: tuple[ToolCall, ...] = ()
    first_s: float = 0.0
    """Seconds before anything comes."""
    token_s: float = 0.0
    """Seconds before each token."""
    error: BackendError | None = None
    """Raised after ``fail_after`` tokens."""
    fail_after: int = 0
    stall_after: int | None = None
    """Tokens after which nothing comes any more, until the caller gives up."""
    usage: Literal["each", "last", "none"] = "each"
    """With which chunks usage is reported."""
    billed: int | None = None
    """Output tokens that the usage claims, the real number by default."""
    token_ids: bool = False
    logprob: float = -0.1
    """Log-probability that each token is reported with, when asked for."""
    obeys: bool = True
    """Whether ``max_tokens`` is kept."""
    tokens_per_chunk: int = 1
    cost_usd: Decimal | None = None
    """What the provider says that the call cost."""
    provider_parts: Json | None = None
    """What it wants back with its turn: ``message`` with fields, ``calls`` with fields by position."""

    def __post_init__(self) -> None:
        """Check what is made by hand.

        Raises:
            ConfigError: the tool calls are not a tuple of them.
        """
        calls: object = self.tool_calls
        if not isinstance(calls, tuple | list) or not all(isinstance(call, ToolCall) for call in calls):
            raise ConfigError(
                "tool_calls of a Script must be a tuple of calls: tool_calls=(ToolCall('call_1', 'weather', "
                "json.dumps(…)),)"
            )
        arguments: list[object] = [call.arguments for call in self.tool_calls]
        if wrong := [one for one in arguments if not isinstance(one, str)]:
            raise ConfigError(
                f"the arguments of a ToolCall must be JSON text, got {type(wrong[0]).__name__}: write json.dumps(…)"
            )


Line: TypeAlias = str | Script
"""What one call is answered with."""
Source: TypeAlias = Line | Callable[[Call], Line]
"""A line, or a function that reads the call and gives one."""

DEFAULT_CAPABILITIES = Capabilities(tools=True, response_format=True, images=True, logprobs=True, switch_thinking=True)
"""What a scripted model can do, unless it is told otherwise."""
_OPTIONS: Known = {"price": (TokenPrice, GpuHour), "context_tokens": (int,)}
"""What an `Endpoint` can say of one."""


class Scripted(Backend):
    """Answers its n-th call with its n-th line, and every later one with the last.

    A line is a string, a `Script`, or a function of the call that returns one of them.

    Attributes:
        calls: every call so far, in order.
        open_calls: calls that run now.
        cancelled: calls that were ended by the caller.
    """

    name = "scripted"

    def __init__(
        self,
        *lines: Source,
        model: str = "lines",
        capabilities: Capabilities = DEFAULT_CAPABILITIES,
        files: TokenizerFiles | None = None,
        price: Price | None = FREE,
        connect_error: BackendError | None = None,
        boundary: str = "local",
    ) -> None:
        for line in lines:
            if not isinstance(line, str | Script) and not callable(line):
                raise ConfigError(
                    "a line of Scripted must be a string, a Script or a function of the call, got "
                    f"{type(line).__name__}; several are given one by one: Scripted('first', 'second')"
                )
        self.model = model
        self._price = price
        self.boundary = boundary
        self.calls: list[Call] = []
        self.open_calls = 0
        self.cancelled = 0
        self.closed = False
        self._lines: tuple[Source, ...] = lines or ("",)
        self._capabilities = replace(capabilities, prompt_ids=True) if files else capabilities
        self._files = files
        self._renderer: Renderer | None = None
        self._connect_error = connect_error

    @property
    @override
    def price(self) -> Price | None:
        return self._price

    async def connect(self) -> Capabilities:
        """The capabilities given, or the connection error."""
        if self._connect_error is not None:
            raise self._connect_error
        return self._capabilities

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int:
        """Words of all messages, or what the tokenizer given makes of them."""
        if self._files is not None:
            self._renderer = self._renderer or Renderer(self._files)
            return self._renderer.count(messages, tools=tools)
        return sum(len(_tokens(message.text)) for message in messages)

    async def tokenizer(self) -> TokenizerFiles | None:
        """The tokenizer given."""
        return self._files

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """Stream the line of this call."""
        source = self._lines[min(len(self.calls), len(self._lines) - 1)]
        self.calls.append(call)
        self.open_calls += 1
        finished = False
        try:
            prompt = len(call.prompt_ids) or await self.count_tokens(call.messages, tools=call.tools)
            total = StageUsage(prompt, 0)
            script = Script()
            for index in range(call.n):
                line = source(call) if callable(source) else source
                script = line if isinstance(line, Script) else Script(line)
                async with aclosing(self._say(script, call, index, total)) as saying:
                    async for chunk in saying:
                        if chunk.usage is not None:
                            total = chunk.usage
                        yield chunk if script.usage == "each" else replace(chunk, usage=None)
            if script.usage != "none":
                billed = total.output_tokens if script.billed is None else script.billed
                yield Chunk(usage=replace(total, output_tokens=billed), cost_usd=script.cost_usd)
            finished = True
        except BackendError:
            finished = True
            raise
        finally:
            self.open_calls -= 1
            self.cancelled += not finished

    async def _say(self, script: Script, call: Call, index: int, before: StageUsage) -> AsyncGenerator[Chunk, None]:
        text, stopped = _until_stop(script.text, call.sampling.stop)
        words = [(True, word) for word in _tokens(script.reasoning)] + [(False, word) for word in _tokens(text)]
        room = min(len(words), call.max_tokens) if script.obeys else len(words)
        await asyncio.sleep(script.first_s)
        for at in range(0, room, script.tokens_per_chunk):
            _fail_if_due(script, at)
            if script.stall_after is not None and at >= script.stall_after:
                await asyncio.Event().wait()
            piece = words[at : min(at + script.tokens_per_chunk, room)]
            if script.token_s:
                await asyncio.sleep(script.token_s * len(piece))
            yield Chunk(
                text="".join(word for hidden, word in piece if not hidden),
                reasoning="".join(word for hidden, word in piece if hidden),
                token_ids=tuple(range(at, at + len(piece))) if script.token_ids else (),
                logprobs=_logprobs(script, piece) if call.sampling.logprobs is not None else (),
                usage=replace(before, output_tokens=before.output_tokens + at + len(piece)),
                index=index,
            )
        if room == len(words) or not script.obeys:
            _fail_if_due(script, len(words))
        done = replace(before, output_tokens=before.output_tokens + room)
        if script.tool_calls and call.tools and room == len(words):
            deltas = tuple(ToolCallDelta(i, c.id, c.name, c.arguments, index) for i, c in enumerate(script.tool_calls))
            ended = Chunk(tool_calls=deltas, finish_reason="tool_calls", usage=done, index=index)
        else:
            reason = "stop" if stopped or room == len(words) else "length"
            ended = Chunk(finish_reason=reason, usage=done, index=index)
        ended.provider_parts = script.provider_parts
        yield ended

    async def aclose(self) -> None:
        """Mark the backend as closed."""
        self.closed = True


def connect(model: str, options: Mapping[str, object]) -> Scripted:
    """``scripted/TEXT`` always says TEXT; ``scripted/echo`` repeats the last user message.

    Raises:
        ConfigError: an option that it does not have.
    """
    given = checked_local("scripted", options, _OPTIONS)
    able = replace(DEFAULT_CAPABILITIES, context_tokens=given.get("context_tokens"))
    price = given.get("price", FREE)
    return Scripted(_echo if model == "echo" else model, model=model, capabilities=able, price=price)


def _echo(call: Call) -> str:
    return next((message.text for message in reversed(call.messages) if message.role == "user"), "")


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _fail_if_due(script: Script, at: int) -> None:
    if script.error is not None and at >= script.fail_after:
        raise script.error


def _logprobs(script: Script, piece: Sequence[tuple[bool, str]]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(word, script.logprob, ((word, script.logprob),)) for hidden, word in piece if not hidden)

"""Do the prompts and limits of a request fit its models and its budget? Checked before anything is spent."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from duet_sdk.backends.base import Backend, Call, Capabilities
from duet_sdk.budget import RequestBudget, UsdOf
from duet_sdk.errors import BackendError, ConfigError, ContextOverflow, InvalidRequest
from duet_sdk.policies import Sampling
from duet_sdk.pricing import PriceBook
from duet_sdk.request import Request
from duet_sdk.types import Json, Message, Stage

_TOKENS_OF_TEMPLATE = 160
"""What templates write of their own: gpt-oss 94 tokens without tools, Nemotron some 330 to explain tools."""
_TOKENS_OF_TOOL_TEMPLATE = 320
"""What templates add to explain tools; with the above more than the 330 of Nemotron."""
_TOKENS_PER_MESSAGE = 16
"""Role markers and separators of a turn, with room to spare: a bound must not be too low."""
_TOKENS_PER_IMAGE = 4096
"""Stands for an image, whose tokens only its server knows; generous, as a bound must be."""


def most_prompt_tokens(messages: Sequence[Message], tools: Sequence[Json] = ()) -> int:
    """More tokens than any tokenizer makes of these messages: a token for each byte, and some for each turn.

    An image counts as 4,096.
    """
    tokens = _TOKENS_OF_TEMPLATE + _TOKENS_PER_MESSAGE * len(messages) + (_TOKENS_OF_TOOL_TEMPLATE if tools else 0)
    for message in messages:
        if isinstance(message.content, str):  # nearly every message, and this is asked several times a request
            content = message.content
            tokens += len(content) if content.isascii() else len(content.encode("utf-8", "surrogatepass"))
        else:
            tokens += len(message.text.encode("utf-8", "surrogatepass")) + _TOKENS_PER_IMAGE * len(message.images)
        if message.provider_parts is not None:
            tokens += len(message.provider_parts.text.encode("utf-8", "surrogatepass"))
        for call in message.tool_calls:
            tokens += len(call.arguments.encode("utf-8", "surrogatepass")) + len(call.name) + 32
    for tool in tools:
        tokens += len(json.dumps(tool, default=str)) + 32
    return tokens


class PromptSize(NamedTuple):
    """Tokens of a prompt: the real number, or a bound that no tokenizer exceeds."""

    tokens: int
    exact: bool

    @property
    def likely(self) -> int:
        """The best guess: a bound counts bytes, and a token has four of them in ordinary text."""
        return self.tokens if self.exact else math.ceil(self.tokens / 4)


async def prompt_size(backend: Backend, call: Call, *, exact: bool) -> PromptSize:
    """Tokens of a call's prompt; the real number is asked for only with ``exact``, as it may cost a round trip."""
    if call.prompt_ids:
        return PromptSize(len(call.prompt_ids), exact=True)
    if call.thought is not None:
        return PromptSize(len(call.thought.prompt_ids), exact=True)
    if exact:
        counted = await backend.count_tokens(call.messages, tools=call.tools, thinking=call.thinking)
        if counted is not None:
            return PromptSize(counted, exact=True)
    return PromptSize(most_prompt_tokens(call.messages, call.tools), exact=False)


async def told_prompt_tokens(backend: Backend, messages: Sequence[Message], tools: Sequence[Json]) -> int:
    """Tokens of a prompt for whoever only asks: the real number where it can be had, else the best guess."""
    try:
        counted = await backend.count_tokens(messages, tools=tools)
    except BackendError:
        counted = None  # a server that is away keeps nobody from counting
    return likely_prompt_tokens(messages, tools) if counted is None else counted


def likely_prompt_tokens(messages: Sequence[Message], tools: Sequence[Json] = ()) -> int:
    """The best guess without any tokenizer."""
    return PromptSize(most_prompt_tokens(messages, tools), exact=False).likely


async def fitting_prompt(
    backend: Backend, call: Call, can: Capabilities, budget: RequestBudget, *, room: int, what: str
) -> PromptSize:
    """Size of a prompt that also needs ``room`` tokens for what follows.

    The exact number is asked for only where it matters: with a limit on tokens or money, or near the window's end.

    Raises:
        ContextOverflow: prompt and ``room`` do not fit the model's window.
    """
    size = await prompt_size(backend, call, exact=budget.counts)
    window = can.context_tokens
    if window is None or size.tokens + room <= window:
        return size
    if not budget.counts:
        size = await prompt_size(backend, call, exact=True)
    if size.likely + room > window:
        raise ContextOverflow(
            f"the {what} prompt of {size.likely} tokens and {room} tokens of limits for what follows do not fit "
            f"{backend.name}/{backend.model}, whose context is {window}; lower signal_tokens or answer_tokens, "
            "shorten the conversation, or set context='last_turn'",
            model=backend.model,
            needed_tokens=size.likely + room,
            context_tokens=window,
        )
    return size


def check_abilities(request: Request, backend: Backend, can: Capabilities, stage: Stage) -> None:
    """Whether the answering model can do what the request asks of it.

    Raises:
        InvalidRequest: it cannot; the text says what and which model.
    """
    model = f"{stage} {backend.name}/{backend.model}"
    if request.tools and not can.tools:
        raise InvalidRequest(f"the {model} does not support tools; choose another one or omit tools")
    if request.response_format is not None and not can.response_format:
        raise InvalidRequest(f"the {model} does not support response_format; choose another one or omit it")
    if not can.images and any(message.images for message in request.messages):
        raise InvalidRequest(f"the {model} does not accept images; choose another one or omit them")
    sampling = request.generator_sampling if stage == "generator" else request.reasoner_sampling
    if sampling.logprobs is not None and not can.logprobs:
        raise InvalidRequest(f"the {model} reports no logprobs; choose another one or omit logprobs")
    check_sampling(sampling, backend, can, stage)


def check_sampling(sampling: Sampling, backend: Backend, can: Capabilities, stage: Stage) -> None:
    """Whether a model's server takes this sampling, as far as it told.

    Raises:
        InvalidRequest: it does not; the text says what and which model.
    """
    if can.stop_texts is None and not can.refused:
        return
    extra, model = sampling.extra_body or {}, f"{stage} {backend.name}/{backend.model}"
    stops = extra.get("stop", sampling.stop)
    count = len(stops) if isinstance(stops, list | tuple) else 1
    if can.stop_texts is not None and count > can.stop_texts:
        raise InvalidRequest(
            f"the {model} takes at most {can.stop_texts} stop texts, and this call has {count} (one of them may be the "
            "think handoff's); omit some, or start vLLM with a higher VLLM_MAX_STOP_STRINGS"
        )
    for name in can.refused:
        if extra.get(name, getattr(sampling, name, None)):
            raise InvalidRequest(
                f"the server of the {model} refuses {name}, as a draft model writes ahead there (speculative "
                f"decoding); omit {name}, or serve the model without one"
            )


def _unasked(input_tokens: int, output_tokens: int) -> None:
    """The bound of a call's cost where nothing asks for it."""


def price_bound(prices: PriceBook, model: str, backend: Backend, budget: RequestBudget) -> UsdOf:
    """The most that a call of this model can cost, by tokens; None if no limit needs it or the price is unknown.

    Raises:
        ConfigError: there is a limit on money and the model's price is unknown, or is one per hour without a deadline.
    """
    limited = budget.limits.cost_usd is not None
    if not limited and not budget.charged:
        return _unasked
    seconds = budget.left_s(budget.deadline)
    if limited and not prices.known(model, backend.price):
        raise ConfigError(
            f"cost_usd is limited and the price of {model!r} is unknown: "
            f"give it as prices={{{model!r}: TokenPrice(…)}}, or install the extra 'prices'"
        )
    bound = prices.bound(model, input_tokens=0, output_tokens=0, seconds=seconds, backend_price=backend.price)
    if limited and bound is None:
        raise ConfigError(
            f"cost_usd is limited and {model!r} has a price per hour: set deadline_s too, so that the cost has a bound"
        )
    return lambda input_tokens, output_tokens: prices.bound(
        model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        seconds=seconds,
        backend_price=backend.price,
    )

"""The values that a conversation is made of, and the literals that everything else uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Stage: TypeAlias = Literal["reasoner", "generator"]
AttemptKind: TypeAlias = Literal["signal", "wrap_up", "answer", "probe"]
"""What a model was called for; a ``probe`` is the beginning of an answer that was only judged."""
Mode: TypeAlias = Literal["duet", "reasoner", "generator", "signal"]
"""Which stages a request runs: both, one of them alone, or the reasoner for its signal only."""
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
"""Who wrote a message."""
HandoffName: TypeAlias = Literal["instruct", "think"]
"""How the generator gets the signal: as an instruction, or as its own thinking."""
GateName: TypeAlias = Literal["always", "never", "heuristic", "confidence", "race"]
"""The gates that DUET ships."""
TraceDialect: TypeAlias = Literal["openinference", "langfuse", "mlflow"]
"""The names of other tools that spans can carry in addition to the standard's."""
CountedBy: TypeAlias = Literal["token_ids", "logprobs", "usage", "tokenizer", "estimate", "none"]
"""Where a signal's number of tokens comes from."""
ServedBy: TypeAlias = Literal[
    "pair",
    "pair_cut",
    "generator",
    "generator_fallback",
    "reasoner",
    "reasoner_fallback",
    "fallback_pair",
    "cache",
]
"""Who answered: the pair, with a signal that was cut or kept from before, or one stage alone, by choice or after a
failure."""
Vote: TypeAlias = "Literal['majority'] | Callable[[Sequence[str]], int]"
"""How one of several answers is chosen: by majority, or by a function from the answers to the winner's index."""
Json: TypeAlias = Mapping[str, Any]
"""A JSON object as the wire has it (a tool's schema, a response format)."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message's content, by ``https:`` or ``data:`` URL; passed on, never fetched by DUET."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


Part: TypeAlias = TextPart | ImagePart
"""One piece of a message's content."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the generator wants called; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str

    @property
    def arguments_on_wire(self) -> str:
        r"""The arguments as they may stand in a history: servers refuse all of one that holds a call without JSON.

        >>> ToolCall("c1", "look_up", '{"town": "Ber').arguments_on_wire
        '{"invalid_json": "{\\"town\\": \\"Ber"}'
        """
        try:
            is_object = isinstance(json.loads(self.arguments), dict)
        except (ValueError, RecursionError):
            is_object = False
        if is_object:
            return self.arguments
        return json.dumps({"invalid_json": self.arguments}) if self.arguments.strip() else "{}"


@dataclass(frozen=True, slots=True)
class ProviderParts:
    """What the model that wrote a turn wants back with it, unread: reasoning, signatures, encrypted blocks."""

    endpoint: str
    """A digest of backend and address; only the model of that name there gets the parts."""
    model: str
    text: str = field(repr=False)
    """The parts as JSON text."""

    @classmethod
    def parse(cls, given: object) -> ProviderParts | None:
        """From its form as a mapping, as `dataclasses.asdict` writes it; None for anything else."""
        if isinstance(given, cls):
            return given
        found = [given.get(name) for name in cls.__slots__] if isinstance(given, Mapping) else [None]
        texts = [value for value in found if isinstance(value, str)]
        return cls(*texts) if len(texts) == len(found) else None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    >>> Message("user", "How many primes are below 60?").text
    'How many primes are below 60?'
    """

    role: Role
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    signal: str | None = None
    """On an assistant's message, the reasoner's signal that guided it; `Reply.message` sets it. Within a run of tool
    turns it is what the run's later turns go by."""
    failed: bool = False
    """On a tool's result, whether the call failed; a result that reads like an error counts without it."""
    provider_parts: ProviderParts | None = field(default=None, repr=False)
    """On an assistant's message, what its model wants back; `Reply.message` sets it, and no other model gets it."""

    @property
    def text(self) -> str:
        """All text of the content, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the content, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ImagePart))

    def on_wire(self) -> dict[str, Any]:
        """The message in OpenAI's form, without what is ours: signal, provider's parts, whether a call failed."""
        content: object = self.content
        if not isinstance(self.content, str):
            content = [_part_on_wire(part) for part in self.content]
        turn: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_on_wire},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        return turn

    def to_dict(self) -> dict[str, Any]:
        """The whole message as JSON-ready values: OpenAI's form, and what is ours next to it.

        >>> Message("assistant", "17.", signal="sieve").to_dict()
        {'role': 'assistant', 'content': '17.', 'signal': 'sieve'}
        """
        turn = self.on_wire()
        for call, told in zip(self.tool_calls, turn.get("tool_calls", ()), strict=True):
            told["function"]["arguments"] = call.arguments
        if self.signal is not None:
            turn["signal"] = self.signal
        if self.failed:
            turn["is_error"] = True
        if self.provider_parts is not None:
            turn["provider_parts"] = asdict(self.provider_parts)
        return turn


def _part_on_wire(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": part.url, **({"detail": part.detail} if part.detail else {})}}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token with its log-probability (natural logarithm) and the best alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

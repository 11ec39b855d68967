"""What a provider wants back with its own turn, unread: found in answers, put into later requests.

A turn that comes back without these is refused (DeepSeek, Kimi, Gemini), or its model has lost its train of thought.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from duet_sdk.types import Json, Message, ProviderParts

if TYPE_CHECKING:
    from duet_sdk.backends.base import Backend

_log = logging.getLogger(__name__)

MAX_PARTS_CHARS: Final = 1 << 20
"""Most that is kept of one turn: a thought of 250,000 tokens. What a server sends beyond it would be stored and sent
again with every request, and a part that is cut is worth nothing, so all of the turn's parts are left out then."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a field comes in pieces, and when it goes back."""

    joined: Literal["text", "items", "mapping"]
    in_tool_runs: bool = False
    """Goes back only within a question whose answering took tools."""
    known: tuple[str, ...] = ()
    """The names that count in a mapping, all where there are none: LiteLLM puts more into its own."""


# The older DeepSeek refuses its reasoning where no tools were called, the newer ones where it is missing after a call.
_REASONING = _Kind("text", in_tool_runs=True)
_MESSAGE: Final[Mapping[str, _Kind]] = {
    # https://api-docs.deepseek.com/guides/thinking_mode, https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model
    "reasoning_content": _REASONING,
    # https://docs.vllm.ai/en/latest/features/reasoning_outputs, and OpenRouter
    "reasoning": _REASONING,
    # https://openrouter.ai/docs/use-cases/reasoning-tokens#preserving-reasoning-blocks
    "reasoning_details": _Kind("items"),
    # Anthropic's and OpenAI's blocks as LiteLLM has them: https://docs.litellm.ai/docs/reasoning_content
    "thinking_blocks": _Kind("items"),
    "reasoning_items": _Kind("items"),
    # https://docs.x.ai/docs/guides/reasoning#encrypted-reasoning-content
    "encrypted_content": _Kind("text"),
    # GitHub Copilot's models
    "reasoning_opaque": _Kind("text"),
    # https://ai.google.dev/gemini-api/docs/thought-signatures#openai
    "extra_content": _Kind("mapping"),
    # https://docs.litellm.ai/docs/providers/gemini#thought-signatures
    "provider_specific_fields": _Kind("mapping", known=("thought_signatures",)),
}
_CALL: Final[Mapping[str, _Kind]] = {
    "extra_content": _Kind("mapping"),
    "provider_specific_fields": _Kind("mapping", known=("thought_signature",)),
}
_ITEMS: Final = tuple(name for name, kind in _MESSAGE.items() if kind.joined == "items")
MESSAGE_FIELDS: Final = tuple(_MESSAGE)
CALL_FIELDS: Final = tuple(_CALL)
PART_FIELDS: Final = frozenset((*MESSAGE_FIELDS, *CALL_FIELDS))
_THOUGHTS: Final = "thoughts"
"""Here, the parts of ``content`` that are no answer, as Mistral, Anthropic and Databricks have them."""
_IS_THOUGHT: Final = re.compile(r"think|reason|thought")
_WRITTEN: Final = ("text", "thinking", "summary")
"""What of an item comes in pieces; OpenRouter and LiteLLM number or order them."""
_OPEN: Final = 16
"""Items among which one may still be written: models write one after the other, and all of them searched take time."""
_TELLINGS: Final = 64
"""How often all of an output's parts are told: once at its end, and again for the few that come after it."""


_Add: TypeAlias = Callable[[list[Any], Any], None]


class Parts:
    """The parts of one output, as they come."""

    __slots__ = ("_calls", "_chars", "_fields", "_left", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._fields: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._chars = 0
        self._left = _TELLINGS

    def text(self, name: str, piece: str) -> None:
        """A piece of a field that is a string."""
        if piece and self._has_room(len(piece)):
            self._texts.setdefault(name, []).append(piece)

    def fragment(self, said: Json, calls: Sequence[tuple[int, Json]] = ()) -> bool:
        """A piece of a message, and of its calls, each with its position; whether it has more than reasoning's text."""
        return self._take(said, calls, _item_joined)

    def whole(self, said: Json, calls: Sequence[tuple[int, Json]] = ()) -> bool:
        """A message in one piece. Returns as `fragment`."""
        return self._take(said, calls, _item_added)

    @property
    def found(self) -> Json | None:
        """All there is so far: ``message`` with its fields, ``calls`` by position; None for nothing."""
        if self._left <= 0 or not (self._texts or self._fields or self._calls):
            return None
        self._left -= 1
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        fields = {name: _as_told(value) if isinstance(value, list) else value for name, value in self._fields.items()}
        calls = {position: fields for position, fields in self._calls.items() if fields}
        return {"message": {**texts, **fields}, "calls": calls} if texts or fields or calls else None

    def _take(self, said: Json, calls: Sequence[tuple[int, Json]], add: _Add) -> bool:
        is_signed = False
        for name, kind in _MESSAGE.items():
            if (value := said.get(name)) is not None:
                self._field(self._fields, name, kind, value, add)
                is_signed = is_signed or kind is not _REASONING
        if thoughts := _thoughts(said.get("content")):
            self._field(self._fields, _THOUGHTS, _Kind("items"), thoughts, add)
            is_signed = True
        for position, call in calls:
            for name, kind in _CALL.items():
                if (value := call.get(name)) is not None:
                    self._field(self._calls.setdefault(position, {}), name, kind, value, add)
        return is_signed or bool(self._calls)

    def _field(self, into: dict[str, Any], name: str, kind: _Kind, value: Any, add: _Add) -> None:
        if kind.joined == "text":
            if isinstance(value, str):
                self.text(name, value)
        elif kind.joined == "items":
            if isinstance(value, list) and value and self._has_room(_size(value)):
                items = into.setdefault(name, [])
                for item in value:
                    add(items, item)
        elif isinstance(value, Mapping):
            given = {key: part for key, part in value.items() if part and (not kind.known or key in kind.known)}
            if given and self._has_room(_size(given)):
                into[name] = _merged(into.get(name) or {}, given)

    def _has_room(self, chars: int) -> bool:
        had_room = self._chars <= MAX_PARTS_CHARS
        self._chars += chars
        if had_room and self._chars > MAX_PARTS_CHARS:
            self._texts, self._fields, self._calls = {}, {}, {}
            _log.warning("the provider's parts of a turn have more than %d characters; left out", MAX_PARTS_CHARS)
        return self._chars <= MAX_PARTS_CHARS


parts_of: Final = attrgetter("provider_parts")
"""A message's parts; to look through all messages with it calls nothing of Python."""


def own_parts(message: Message, endpoint: str, model: str) -> ProviderParts | None:
    """The message's parts, if this model at this endpoint wrote them."""
    parts = message.provider_parts
    return None if parts is None or (parts.endpoint, parts.model) != (endpoint, model) else parts


def with_own_parts(messages: Sequence[Message], backend: Backend) -> tuple[Message, ...]:
    """The messages with the parts that this backend's model wrote, and no others."""
    if not any(map(parts_of, messages)):
        return tuple(messages)
    endpoint, model = backend.endpoint_id, backend.model
    return tuple(
        message
        if message.provider_parts is None or own_parts(message, endpoint, model)
        else replace(message, provider_parts=None)
        for message in messages
    )


def without_parts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without any parts: for a model that is to think anew."""
    return tuple([m if m.provider_parts is None else replace(m, provider_parts=None) for m in messages])


def put_parts(turn: dict[str, Any], parts: ProviderParts, *, took_tools: bool) -> None:
    """Put a message's parts into its form on the wire.

    Args:
        turn: the message.
        parts: its parts.
        took_tools: whether its question took tools, so that plain reasoning goes back too.
    """
    try:
        told = json.loads(parts.text)
        fields, calls = told["message"], told["calls"]
        # By name: a history may have been written by anyone, and must not set a turn's role or content in this way.
        own = {name: fields[name] for name in _MESSAGE if name in fields}
        of_calls = [
            {name: calls[call["id"]][name] for name in _CALL if name in calls.get(call["id"], ())}
            for call in turn.get("tool_calls", ())
        ]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        _log.warning("the provider's parts of a message cannot be read; they are left out")
        return
    if thoughts := _thoughts(fields.get(_THOUGHTS)):
        content = turn["content"]
        answer = [{"type": "text", "text": content}] if isinstance(content, str) and content else content or []
        turn["content"] = [*thoughts, *answer]
    has_items = bool(thoughts) or any(name in own for name in _ITEMS)
    goes_back = {name for name in own if not _MESSAGE[name].in_tool_runs or (took_tools and not has_items)}
    turn |= {name: own[name] for name in goes_back}
    for call, extra in zip(turn.get("tool_calls", ()), of_calls, strict=True):
        call.update(extra)


def _size(value: object) -> int:
    """Characters of a value as JSON; too many for one that JSON cannot say."""
    try:
        return len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return MAX_PARTS_CHARS + 1


def _item_added(items: list[Any], item: Any) -> None:
    items.append(item)


class _Pieces(list[Any]):
    """What comes in pieces, joined once: text, or a list as Mistral has it."""

    def joined(self) -> Any:
        if all(isinstance(piece, str) for piece in self):
            return "".join(self)
        parts: list[Any] = []
        for piece in self:
            parts += piece if isinstance(piece, list) else [piece]
        return parts


def _as_told(items: list[Any]) -> list[Any]:
    return [
        {name: value.joined() if isinstance(value, _Pieces) else value for name, value in item.items()}
        if isinstance(item, dict)
        else item
        for item in items
    ]


def _thoughts(content: object) -> list[Any]:
    """The parts of a message's content that are no answer."""
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, Mapping) and _IS_THOUGHT.search(str(part.get("type")))]


def _item_joined(items: list[Any], item: Any) -> None:
    """Add a piece of a list: to the item that it goes on with, or as a new one."""
    if not isinstance(item, Mapping):
        items.append(item)
        return
    open_one = _open_item(items, item)
    if open_one is None:
        open_one = {}
        items.append(open_one)
    for name, value in item.items():
        if name in _WRITTEN and isinstance(value, str | list):
            open_one.setdefault(name, _Pieces()).append(value)
        elif value is not None or name not in open_one:
            open_one[name] = value


def _open_item(items: list[Any], item: Json) -> dict[str, Any] | None:
    """The item of the same kind and number that is still being written."""
    numbered = item.get("index") is not None
    for known in reversed(items[-_OPEN:]):
        if isinstance(known, dict) and all(known.get(name) == item.get(name) for name in ("type", "index")):
            is_open = any(name in known for name in _WRITTEN) and not known.get("signature")
            return known if is_open else None
        if not numbered:
            return None
    return None


def _merged(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(known)
    for name, value in given.items():
        before: Any = merged.get(name)
        is_nested = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(before, value) if is_nested else value
    return merged

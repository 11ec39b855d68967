"""An agent's run as its messages tell it: which signal is in force, and what has happened since.

A run begins with the last user message. An assistant's message carries the signal that guided it; the first message
that carries a signal marks where the reasoner was asked, and those after it that carry the same one change nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from duet_sdk.policies import RunScope
from duet_sdk.rendering.quoting import break_tag
from duet_sdk.types import Json, Message, Part, TextPart, ToolCall

NOTES_TAG = "notes"
"""What a signal is quoted in."""
_ERROR = re.compile(
    r"""\W* (?: (?:an?\s+)? (?:unexpected\s+)? (?:error|failure) \s+
            (?:occurred|invoking|executing|calling|running|while)\b
        | [\w.]* (?:error|exception|failure) \s* [:(]
        | traceback \s+ \(most\ recent )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BEGINNING = 200
"""Characters in which an error has to show; a longer look would take time in the square of a hostile text."""
_MOST_JSON = 100_000
"""Characters up to which a result is read as JSON to find an error in it."""


def question_at(messages: Sequence[Message]) -> int:
    """Where the run's question stands: the index of the last user message."""
    return max(at for at, message in enumerate(messages) if message.role == "user")


def turns(messages: Sequence[Message]) -> list[int]:
    """Where the assistant's turns of this run stand, in order."""
    start = question_at(messages)
    return [at for at, message in enumerate(messages) if at > start and message.role == "assistant"]


def in_force(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with the run's signals, each where the reasoner was asked, and no other signals."""
    own, last = set(turns(messages)), None
    kept: list[Message] = []
    for at, message in enumerate(messages):
        if at in own and message.signal and message.signal != last:
            last = message.signal
            kept.append(message)
        else:
            kept.append(message if message.signal is None else replace(message, signal=None))
    return tuple(kept)


def without_signals(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without any signal."""
    return tuple(message if message.signal is None else replace(message, signal=None) for message in messages)


def why_ask_again(scope: RunScope, messages: Sequence[Message], tools: Sequence[Json]) -> str | None:
    """What has happened since the newest signal that makes the reasoner be asked again; None for nothing.

    Args:
        scope: the rules.
        messages: the history, as `in_force` gives it; it holds a signal.
        tools: what can be called, in OpenAI form; without any, no call counts as unknown.
    """
    newest = max(at for at, message in enumerate(messages) if message.signal)
    since = messages[newest:]
    calls = [call for message in since for call in message.tool_calls]
    if "invalid_call" in scope.ask_again_on and any(_is_invalid(call, tools) for call in calls):
        return "a tool call was invalid"
    if "tool_error" in scope.ask_again_on and any(has_failed(message) for message in since):
        return "a tool failed"
    if "repeated_call" in scope.ask_again_on and len({_told(call) for call in calls}) < len(calls):
        return "a tool call was repeated"
    done = sum(bool(message.tool_calls) for message in since)
    if scope.after_tool_turns is not None and done >= scope.after_tool_turns:
        return f"the signal is {done} tool turns old"
    return None


def has_failed(message: Message) -> bool:
    """Whether a message is a tool's result that reports an error.

    It is marked as failed, begins as errors do ("Error: …", "ValueError(…)", "An error occurred …", a traceback), or
    is a JSON object with ``error``, ``is_error``, ``isError``, ``success: false`` or ``status: "error"``.
    """
    if message.role != "tool":
        return False
    text = message.text.lstrip()
    if message.failed or _ERROR.match(text[:_BEGINNING]):
        return True
    if not text.startswith("{") or len(text) > _MOST_JSON:
        return False
    fields = _object(text) or {}
    told = fields.get("error") or fields.get("is_error") is True or fields.get("isError") is True
    return bool(told) or fields.get("success") is False or fields.get("status") == "error"


def guarded(messages: Sequence[Message], neutralise: Callable[[str], str]) -> tuple[Message, ...]:
    """The messages with nothing in them that passes for a signal, and tools' results as nothing but data.

    The tags around signals are broken wherever they stand but in system messages. Tools' results, calls and names are
    also rid of control tokens and role markers by ``neutralise``, which knows the model that reads them.
    """

    def break_notes(text: str) -> str:
        return break_tag(text, NOTES_TAG)

    def clean(text: str) -> str:
        return break_notes(neutralise(text))

    return tuple(message if message.role == "system" else _changed(message, break_notes, clean) for message in messages)


def untrusted(messages: Sequence[Message]) -> Iterator[str]:
    """The texts that `guarded` neutralises."""
    for message in messages:
        if message.role == "tool":
            yield message.text
        yield from filter(None, (message.name, message.tool_call_id))
        for call in message.tool_calls:
            yield from (call.id, call.name, call.arguments)


def _changed(message: Message, break_notes: Callable[[str], str], clean: Callable[[str], str]) -> Message:
    change = clean if message.role == "tool" else break_notes
    content: str | tuple[Part, ...]
    if isinstance(message.content, str):
        content = change(message.content)
    else:
        content = tuple(TextPart(change(p.text)) if isinstance(p, TextPart) else p for p in message.content)
    calls = tuple(
        ToolCall(clean(call.id), clean(call.name), _clean_arguments(call.arguments, clean))
        for call in message.tool_calls
    )
    answers, name = (None if given is None else clean(given) for given in (message.tool_call_id, message.name))
    return replace(message, content=content, tool_calls=calls, tool_call_id=answers, name=name)


def _clean_arguments(written: str, clean: Callable[[str], str]) -> str:
    r"""A call's arguments without control strings, also none that JSON's escapes hide (``\u003c``, ``\/``).

    Templates get arguments parsed, and write the values out.
    """
    arguments = clean(written)
    given = _object(arguments) if "\\" in arguments else None
    if given is None:
        return arguments
    try:
        cleaned = _each_string(given, clean)
    except RecursionError:
        return arguments
    return arguments if cleaned == given else json.dumps(cleaned, ensure_ascii=False)


def _each_string(value: object, clean: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_each_string(one, clean) for one in value]
    if isinstance(value, dict):
        return {clean(name): _each_string(one, clean) for name, one in value.items()}
    return value


def _is_invalid(call: ToolCall, tools: Sequence[Json]) -> bool:
    given = _object(call.arguments or "{}")
    if given is None:
        return True
    if not tools:
        return False
    known = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    if call.name not in known:
        return True
    required = known[call.name].get("required")
    return isinstance(required, list) and any(name not in given for name in required)


def _told(call: ToolCall) -> tuple[str, str]:
    """What makes two calls the same: name and arguments, however these are written."""
    given = _object(call.arguments or "{}")
    return call.name, call.arguments if given is None else json.dumps(given, sort_keys=True)


def _object(text: str) -> dict[str, object] | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None

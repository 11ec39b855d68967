"""Fragments of tool calls → calls: by their index, by their id, or by what they can only be part of.

Servers leave the index out (Gemini), give all calls the same one, leave ids out or empty (Ollama's earlier versions,
TGI), give two calls the same id, or repeat id and name with each fragment. Source:
https://github.com/openai/openai-python/issues/2806, https://github.com/AstrBotDevs/AstrBot/issues/6661.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pydantic_core import from_json

from duet_sdk.backends.answers.numbers import position
from duet_sdk.backends.answers.unreadable import Unreadable
from duet_sdk.events import ToolCallDelta
from duet_sdk.types import Message

Called: TypeAlias = tuple[ToolCallDelta, Mapping[str, object]]
"""A piece of a call, and what was sent for it."""

MOST_CALLS: Final = 128
"""Tool calls of one output: as many as OpenAI's API takes tools."""
_MOST_CHECKED_CHARS: Final = 1 << 14
"""Arguments that are longer are not looked at to tell two calls apart, as that costs time with each fragment."""
_MOST_ID_CHARS: Final = 256
"""No server's own ids are longer; what is would be sent back with every request."""
_ID_CHARS: Final = string.ascii_letters + string.digits
_MADE_ID_CHARS: Final = 9
"""Mistral takes ids of nine letters and digits alone, and all others take those, too."""


@dataclass(slots=True)
class _Call:
    position: int
    index: int | None
    theirs: str | None
    """Its id by the server."""
    id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are a whole JSON object: what follows it belongs to another call."""
        if sum(map(len, self.pieces)) > _MOST_CHECKED_CHARS or not self.pieces or not self.pieces[-1].endswith("}"):
            return False
        text = "".join(self.pieces)
        try:
            return isinstance(from_json(text), dict)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class _Fragment:
    """A fragment as it was sent, whatever its spelling."""

    index: int | None
    id: str | None
    name: str | None
    arguments: str

    @classmethod
    def of(cls, given: Mapping[str, object]) -> _Fragment:
        function = given.get("function")
        inner = function if isinstance(function, Mapping) else given
        name, id_ = inner.get("name") or given.get("name"), given.get("id") or given.get("call_id")
        arguments = inner.get("arguments")
        if arguments is None:
            arguments = inner.get("parameters" if inner is not given else "input")
        if arguments is not None and not isinstance(arguments, str):
            arguments = _as_json(arguments)  # some servers parse them
        if isinstance(id_, int) and not isinstance(id_, bool) and abs(id_) < 2**63:
            id_ = str(id_)
        return cls(
            position(given.get("index")),
            id_ if isinstance(id_, str) and id_.strip() and len(id_) <= _MOST_ID_CHARS else None,
            name if isinstance(name, str) and name.strip() else None,
            arguments or "",
        )


class ToolCalls:
    """The tool calls of one output; fragments in, deltas with their own positions and ids out.

    Args:
        output: its number.
        history: the conversation that it answers. An id of a call in it is not used again: servers that number their
            calls begin anew with each answer, and others refuse a history with two of one id.
    """

    __slots__ = ("_calls", "_output", "_used")

    def __init__(self, output: int, history: Sequence[Message] = ()) -> None:
        self._calls: list[_Call] = []
        self._output = output
        self._used = {call.id for message in history for call in message.tool_calls}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def read(self, given: Sequence[object], *, whole: bool) -> list[Called]:
        """The deltas of these fragments, each beside what was sent.

        Args:
            given: what stands under ``tool_calls``.
            whole: each of them is a call by itself.

        Raises:
            Unreadable: there are more than `MOST_CALLS`.
        """
        read: list[Called] = []
        for at, sent in enumerate(given):
            if isinstance(sent, Mapping):
                fragment = _Fragment.of(sent)
                call = None if whole else self._call_of(fragment, at if len(given) > 1 else None)
                if call is not None and fragment.name and any(delta.position == call.position for delta, _ in read):
                    call = None  # two that stand side by side and have names are two
                read.append((self._delta(fragment, call), sent))
        return read

    def end(self) -> list[ToolCallDelta]:
        """The output is over: calls without arguments have none, which JSON writes as an empty object."""
        bare = [call for call in self._calls if not any(piece.strip() for piece in call.pieces)]
        for call in bare:
            call.pieces.append("{}")
        return [ToolCallDelta(call.position, arguments="{}", index=self._output) for call in bare]

    def _delta(self, fragment: _Fragment, call: _Call | None) -> ToolCallDelta:
        is_new = call is None
        if call is None:
            call = self._open(fragment)
        name = fragment.name if fragment.name and not call.name else None
        call.name = call.name or name or ""
        arguments = fragment.arguments
        if arguments in ("{}", "null") and not any(call.pieces):
            arguments = ""  # a placeholder in front of the fragments; `end` writes it where none follow
        if arguments:
            call.pieces.append(arguments)
        return ToolCallDelta(call.position, call.id if is_new else None, name, arguments, self._output)

    def _open(self, fragment: _Fragment) -> _Call:
        if len(self._calls) == MOST_CALLS:
            raise Unreadable(f"its answer has more than {MOST_CALLS} tool calls")
        theirs = fragment.id
        is_taken = theirs is None or theirs in self._used
        made = "".join(secrets.choice(_ID_CHARS) for _ in range(_MADE_ID_CHARS)) if is_taken else theirs
        call = _Call(len(self._calls), fragment.index, theirs, made or "")
        self._calls.append(call)
        self._used.add(call.id)
        return call

    def _call_of(self, fragment: _Fragment, at: int | None) -> _Call | None:
        """The call that a fragment goes on with; None where it begins one."""
        among = self._candidates(fragment, at)
        if not among:
            return None
        last = among[-1]
        if fragment.id is None or last.theirs is None:
            # An id that comes late, or none: a name tells whether it is another call.
            return None if _begins_again(fragment, last) else last
        same = [call for call in among if call.theirs == fragment.id]
        if same:
            return None if _begins_again(fragment, same[-1]) else same[-1]
        # Some servers make up an id for each fragment: what begins a call has a name, or nothing at all.
        return last if fragment.name is None and fragment.arguments else None

    def _candidates(self, fragment: _Fragment, at: int | None) -> list[_Call]:
        """The calls that it can belong to."""
        if fragment.index is None:
            if fragment.id is None and fragment.name is None and at is not None:
                return self._calls[at : at + 1] or self._calls[-1:]  # its place in the list is all that it tells
            return self._calls
        numbered = [call for call in self._calls if call.index == fragment.index]
        if numbered:
            return numbered
        # Some begin a call without an index and go on with one.
        bare = [call for call in self._calls if call.index is None]
        if fragment.id is not None:
            return [call for call in bare if call.theirs == fragment.id]
        if fragment.name is not None:
            return []
        return [call for call in bare if call.position == fragment.index] or bare[-1:]


def _begins_again(fragment: _Fragment, call: _Call) -> bool:
    """Whether a fragment with a name is another call, not one more piece of this one."""
    if fragment.name is None or not call.name:
        return False
    if fragment.name != call.name:
        return True
    if fragment.id is not None and call.theirs is None:
        return True
    is_repeated = fragment.id is not None and not fragment.arguments
    return not is_repeated and fragment.arguments.lstrip()[:1] in ("", "{") and call.is_complete


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return ""

"""Pairs of scripted models behind one chat model."""

from __future__ import annotations

from typing import Any

from langchain_duet import ChatDuet

from duet_sdk import ToolCall
from duet_sdk.backends.scripted import Script, Scripted, Source


def pair(reasoner: Source = "notes", *generator: Source, **options: Any) -> tuple[ChatDuet, Scripted, Scripted]:
    """The chat model, and both models to see what they were asked."""
    writes, answers = Scripted(reasoner), Scripted(*(generator or ("the answer",)))
    return ChatDuet(reasoner=writes, generator=answers, **options), writes, answers


def calls(name: str, arguments: str = "{}", *, id_: str = "c1", text: str = "") -> Script:
    """What a model that calls a tool writes."""
    return Script(text, tool_calls=(ToolCall(id_, name, arguments),))

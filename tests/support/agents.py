"""An agent's loop over scripted models, as a caller writes it: ask, run the tool, ask again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from duet_sdk import AsyncDuetClient, Message, Reply
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.types import ToolCall

READ = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
            "required": ["path"],
        },
    },
}
TASK = Message("user", "Sum up the files.")


def call(turn: int, name: str = "read", arguments: str | None = None) -> ToolCall:
    """The tool call of that turn; each reads a file of its own."""
    return ToolCall(f"c{turn}", name, f'{{"path": "{turn}.txt"}}' if arguments is None else arguments)


def reading(turns: int) -> Scripted:
    """A generator that reads one file a turn, and then answers."""
    return Scripted(*(Script(tool_calls=(call(turn),)) for turn in range(turns)), "They say nothing.")


def history(*results: str, signals: Sequence[str | None] = (), calls: Sequence[ToolCall] = ()) -> list[Message]:
    """The task and a tool turn for each result, with the signals that its assistant's messages carry."""
    messages = [TASK]
    for turn, result in enumerate(results):
        made = calls[turn] if turn < len(calls) else call(turn)
        signal = signals[turn] if turn < len(signals) else None
        messages += [
            Message("assistant", tool_calls=(made,), signal=signal),
            Message("tool", result, tool_call_id=made.id),
        ]
    return messages


async def work(
    duet: AsyncDuetClient,
    *,
    results: Callable[[int], str] = lambda turn: f"file {turn}",
    keeps: Callable[[Reply], Message] = lambda reply: reply.message,
    most: int = 20,
) -> list[Reply]:
    """Every reply of one run, until the generator calls no more tools."""
    messages, replies = [TASK], []
    while len(replies) < most:
        reply = await duet.chat(messages, tools=[READ])
        replies.append(reply)
        if not reply.tool_calls:
            break
        turn = len(replies) - 1
        answers = (Message("tool", results(turn), tool_call_id=made.id) for made in reply.tool_calls)
        messages = [*messages, keeps(reply), *answers]
    return replies


def forgetful(reply: Reply) -> Message:
    """What callers keep who know nothing of signals."""
    return Message("assistant", reply.text, reply.tool_calls)

"""`AsyncConversation`: a conversation that keeps its messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

from duet_sdk._signatures import shows
from duet_sdk.agents.history import without_signals
from duet_sdk.errors import InvalidRequest
from duet_sdk.messages import MessagesLike, parse_messages
from duet_sdk.options import CallOptions
from duet_sdk.reply import Reply
from duet_sdk.types import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.stream import Run


class _Client(Protocol):
    """What a conversation needs of its client, which makes it."""

    async def chat(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> Reply: ...

    def stream(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> Run: ...


class AsyncConversation:
    """Keeps the messages of a conversation: questions, answers and tool turns; signals only until the next question.

    Attributes:
        messages: what has been said; yours to change between turns.
    """

    def __init__(self, client: _Client, *, system: str | None = None) -> None:
        self._client = client
        self.messages: list[Message] = [Message("system", system)] if system else []

    @shows(CallOptions)
    async def chat(self, said: MessagesLike, **options: Unpack[CallOptions]) -> Reply:
        """Ask the next question, or give the results of the tools that the last reply called.

        A request that fails, or whose answer says nothing, leaves the conversation as it was.

        Args:
            said: the question, or messages such as ``Message("tool", result, tool_call_id=call.id)``.
            options: see `CallOptions`.

        Raises:
            DuetError: as `AsyncDuetClient.chat`.
        """
        asked = self._with(said)
        reply = await self._client.chat(asked, **options)
        self._keep(asked, reply)
        return reply

    @shows(CallOptions)
    def stream(self, said: MessagesLike, **options: Unpack[CallOptions]) -> Run:
        """As `chat`, event by event; the turn is kept once its answer is complete.

        Raises:
            InvalidRequest: as `AsyncDuetClient.stream`.
        """
        asked = self._with(said)
        run = self._client.stream(asked, **options)
        run.on_done = lambda reply: self._keep(asked, reply)
        return run

    def _with(self, said: MessagesLike) -> tuple[Message, ...]:
        if not isinstance(said, str | list | tuple):
            raise InvalidRequest(f"said must be a string or a list of messages, got {type(said).__name__}")
        new = [Message("user", said)] if isinstance(said, str) else said
        before = len(self.messages)
        asked = parse_messages([*self.messages, *new])
        goes_on = all(message.role == "tool" for message in asked[before:])
        return asked if goes_on else without_signals(asked)

    def _keep(self, asked: Sequence[Message], reply: Reply) -> None:
        if reply.mode != "signal" and not reply.is_empty:  # many servers refuse a turn that is empty
            said = [*asked, reply.message]
            self.messages = said if reply.tool_calls else list(without_signals(said))

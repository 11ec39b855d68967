"""Does an answer go on? Comments and empty pieces keep a connection alive, and could do so for ever."""

from __future__ import annotations

from collections.abc import Sequence

from duet_sdk.backends.base import Chunk


class Progress:
    """Tells pieces that bring an answer further from those that do not. One for each answer.

    What it takes for progress cannot go on for ever, as it counts against the answer's limit.

    >>> progress = Progress()
    >>> progress.is_made_by([Chunk()]), progress.is_made_by([Chunk("17")])
    (False, True)
    """

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used = 0

    def is_made_by(self, chunks: Sequence[Chunk]) -> bool:
        """Whether the answer is longer by them, or nearer to its end."""
        for chunk in chunks:
            if chunk.text or chunk.token_ids or chunk.reasoning or chunk.finish_reason is not None:
                return True
            if any(call.name or call.arguments for call in chunk.tool_calls):
                return True
            if chunk.usage is not None and chunk.usage.output_tokens > self._used:
                self._used = chunk.usage.output_tokens
                return True
        return False

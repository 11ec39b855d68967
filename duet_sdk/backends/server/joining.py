"""Chunks that arrive together, as one: each costs every layer above a step, and not every caller looks at them."""

from __future__ import annotations

from collections.abc import Iterator

from duet_sdk.backends.base import Chunk
from duet_sdk.errors import BackendError


class Joiner:
    """Joins what one read from the network brought. One for each call.

    Only what is counted by token ids is joined, and only within the limit: what goes beyond it is handed on in its
    own pieces, so that it is counted and cut as exactly as ever.

    Args:
        most: the call's limit, in tokens.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def join(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same output in fewer chunks.

        Raises:
            BackendError: as ``chunks`` does, after all that came before it.
        """
        held: Chunk | None = None
        try:
            for chunk in chunks:
                self._left -= len(chunk.token_ids)
                if held is None:
                    held = chunk
                elif self._left >= 0 and _fit(held, chunk):
                    _add(held, chunk)
                else:
                    yield held
                    held = chunk
        except BackendError:
            if held is not None:
                yield held
            raise
        if held is not None:
            yield held


def _fit(first: Chunk, then: Chunk) -> bool:
    if first.index != then.index or first.finish_reason is not None or (first.text and then.reasoning):
        return False
    if first.tool_calls or then.tool_calls or first.logprobs or then.logprobs:
        return False
    return _counted(first) and _counted(then)


def _counted(chunk: Chunk) -> bool:
    return bool(chunk.token_ids) or not (chunk.text or chunk.reasoning)


def _add(chunk: Chunk, then: Chunk) -> None:
    chunk.text += then.text
    chunk.reasoning += then.reasoning
    chunk.token_ids += then.token_ids
    chunk.usage = then.usage or chunk.usage
    if then.cost_usd is not None:
        chunk.cost_usd = then.cost_usd
    chunk.finish_reason = then.finish_reason

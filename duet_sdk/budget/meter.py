"""Counts output tokens while they stream, by the best evidence each piece brings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from duet_sdk.types import CountedBy

_RANK: Final[dict[CountedBy, int]] = {"none": 0, "token_ids": 1, "usage": 2, "tokenizer": 3, "estimate": 4}

_MOST_BYTES = 32


class TokenMeter:
    """Output tokens of one output, counted as they come.

    By token ids where the model sends them, else by usage that comes with the piece, else by a local tokenizer, else
    by the larger of non-empty pieces and a quarter of the UTF-8 bytes, rounded up. ``counted_by`` names the weakest
    evidence that was needed.

    >>> meter = TokenMeter()
    >>> meter.add("seventeen"), meter.counted_by
    (3, 'estimate')
    """

    def __init__(self, count_text: Callable[[str], int] | None = None) -> None:
        self._count_text = count_text
        self._pieces = 0
        self._bytes = 0
        self._estimated = 0
        self.tokens = 0
        self.counted_by: CountedBy = "none"

    def add(self, text: str, *, token_ids: int = 0, used: int | None = None) -> int:
        """Count a piece: its text, how many token ids came with it, and the server's running total.

        Returns:
            the tokens that this piece added.
        """
        before = self.tokens
        if text:
            self._pieces += 1
            self._bytes += len(text.encode("utf-8", "surrogatepass"))
        if token_ids:
            self.tokens += token_ids
            self._saw("token_ids")
        elif used is None and text:
            self._add_text(text)
        elif text:
            # A running total that stands still while text comes is no evidence: no piece is less than a token, and
            # no ordinary text has more than this many bytes in one.
            self.tokens = max(self.tokens, self._pieces, self._bytes // _MOST_BYTES)
        if used is not None and (used > self.tokens or (text and not token_ids)):
            self.tokens = max(self.tokens, used)
            self._saw("usage")
        return self.tokens - before

    def _add_text(self, text: str) -> None:
        if self._count_text is not None:
            # Piece by piece, as the text so far must not be encoded again for each: never less than the whole.
            self.tokens += max(1, self._count_text(text))
            self._saw("tokenizer")
            return
        estimate = max(self._pieces, math.ceil(self._bytes / 4))
        self.tokens += estimate - self._estimated
        self._estimated = estimate
        self._saw("estimate")

    def _saw(self, evidence: CountedBy) -> None:
        if _RANK[evidence] > _RANK[self.counted_by]:
            self.counted_by = evidence

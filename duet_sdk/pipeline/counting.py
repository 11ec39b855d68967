"""What one call of a model has used, by what evidence, and where its output has to be cut.

Pure: it is fed with chunks and asked for numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from duet_sdk.backends.base import Chunk, Served
from duet_sdk.reply import StageUsage
from duet_sdk.types import CountedBy

_RANK: Final[dict[CountedBy, int]] = {"none": 0, "token_ids": 1, "usage": 2, "tokenizer": 3, "estimate": 4}
MOST_BYTES_IN_TOKEN: Final = 32
"""No ordinary text has more UTF-8 bytes in one token: a running total that grows more slowly is no evidence."""
BYTES_IN_TOKEN: Final = 4
"""Mean UTF-8 bytes of a token in ordinary text, where nothing better tells."""
MOST_TOKENS: Final = 10**9
"""No call reads or writes a billion tokens, a hundred times the largest window: a usage that says so says nothing."""


class UnexpectedOutput(ValueError):
    """A model's server wrote an output that it was not asked for."""


class Meter:
    """Output tokens of one output, counted as they come.

    By token ids where the model sends them, else by usage that comes with the piece, else by a local tokenizer, else
    by the larger of non-empty pieces and a quarter of the UTF-8 bytes, rounded up. ``counted_by`` names the weakest
    evidence that was needed.

    >>> meter = Meter()
    >>> meter.add("seventeen"), meter.counted_by
    (3, 'estimate')

    Attributes:
        tokens: what has been counted.
        counted_by: the weakest evidence.
        pieces: how many that were not empty.
        written_bytes: their UTF-8 bytes.
    """

    __slots__ = ("_count_text", "_estimated", "counted_by", "pieces", "tokens", "written_bytes")

    def __init__(self, count_text: Callable[[str], int] | None = None) -> None:
        self._count_text = count_text
        self.pieces = 0
        self.written_bytes = 0
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
            self.pieces += 1
            self.written_bytes += len(text.encode("utf-8", "surrogatepass"))
        if token_ids:
            self.tokens += token_ids
            self.saw("token_ids")
        elif used is None and text:
            self._add_text(text)
        elif text:
            # A running total that stands still while text comes is no evidence: no piece is less than a token.
            self.tokens = max(self.tokens, self.pieces, self.written_bytes // MOST_BYTES_IN_TOKEN)
        if used is not None and (used > self.tokens or (text and not token_ids)):
            self.tokens = max(self.tokens, used)
            self.saw("usage")
        return self.tokens - before

    def _add_text(self, text: str) -> None:
        if self._count_text is not None:
            # Piece by piece, as the text so far must not be encoded again for each: never less than the whole.
            self.tokens += max(1, self._count_text(text))
            self.saw("tokenizer")
            return
        estimate = max(self.pieces, math.ceil(self.written_bytes / BYTES_IN_TOKEN))
        self.tokens += estimate - self._estimated
        self._estimated = estimate
        self.saw("estimate")

    def saw(self, evidence: CountedBy) -> None:
        """This evidence was needed."""
        if _RANK[evidence] > _RANK[self.counted_by]:
            self.counted_by = evidence


class Counter:
    """Counts all outputs of one call, and cuts what goes beyond its limit.

    Args:
        limit: most tokens of each output.
        outputs: how many there are.
        count_text: tokens of a text by the model's own tokenizer, None if it is not available.
        clock: seconds that only go forward.

    Attributes:
        first_s: by the clock, when the first token came; None before that.
        overflowed: the model wrote more than it was allowed to.
        truncated: the limit ended an output, the model did not.
        done: no output has anything more to write; the server may still say what was used.
        stopped: nothing more is to be read.
        complete: the server has said all.
        reported_usd: what the provider says the call cost.
        served: who answered, as far as the server says.
    """

    __slots__ = (
        "_clock",
        "_limit",
        "_meters",
        "_only",
        "_open",
        "_outputs",
        "_reasons",
        "_reported",
        "_used",
        "_writing",
        "complete",
        "done",
        "first_s",
        "overflowed",
        "reported_usd",
        "served",
        "stopped",
        "truncated",
    )

    def __init__(
        self, limit: int, outputs: int, count_text: Callable[[str], int] | None, clock: Callable[[], float]
    ) -> None:
        self._limit = limit
        self._outputs = outputs
        self._clock = clock
        self._meters = [Meter(count_text)]
        for _ in range(1, outputs):
            self._meters.append(Meter(count_text))
        self._only = self._meters[0] if outputs == 1 else None
        self._open = self._writing = (1 << outputs) - 1  # a bit for each output
        self._reasons: dict[int, str] = {}
        self._reported: StageUsage | None = None
        self._used = 0
        self.reported_usd: Decimal | None = None
        self.served: Served | None = None
        self.first_s: float | None = None
        self.overflowed = False
        self.truncated = False
        self.done = False
        self.stopped = False
        self.complete = False

    def take(self, arrived: Sequence[Chunk]) -> Sequence[Chunk]:  # one step for each token, written out
        """Count what arrived; return the part that is within the limit.

        Raises:
            UnexpectedOutput: an output that was not asked for.
        """
        kept: list[Chunk] = []
        meter, limit = self._only, self._limit
        for chunk in arrived:
            if self.stopped:
                break
            ids, usage = len(chunk.token_ids), chunk.usage
            tokens = 0 if meter is None else meter.tokens + ids
            if (
                meter is None
                or not ids
                or tokens >= limit
                or self.done
                or chunk.tool_calls
                or chunk.index
                or chunk.cost_usd is not None
                or (
                    usage is not None and not (usage.output_tokens == tokens and 0 <= usage.input_tokens <= MOST_TOKENS)
                )
            ):
                if (taken := self._take(chunk)) is not None:
                    kept.append(taken)
                continue
            # Most tokens: one output, counted by ids, and nothing else to be seen to.
            if self.first_s is None:
                self.first_s = self._clock()
                self.served = chunk.served or self.served
                meter.saw("token_ids")
            meter.tokens = tokens
            meter.pieces += 1
            meter.written_bytes += len((chunk.text + chunk.reasoning).encode("utf-8", "surrogatepass"))
            self._reported = usage or self._reported
            if chunk.finish_reason is not None:
                self._finish(0, chunk.finish_reason)
            kept.append(chunk)
        if arrived and arrived[-1].last and self.done and not self.stopped:
            self.end()
        return kept

    def _take(self, chunk: Chunk) -> Chunk | None:
        index = chunk.index
        if not 0 <= index < self._outputs:
            raise UnexpectedOutput(f"the model's server wrote output number {index} of {self._outputs}")
        usage = chunk.usage
        if usage is not None:
            if not (0 <= usage.input_tokens <= MOST_TOKENS and 0 <= usage.output_tokens <= MOST_TOKENS):
                usage = chunk.usage = None
            self._reported = usage or self._reported
        if chunk.cost_usd is not None:
            self.reported_usd = chunk.cost_usd
        if chunk.served is not None:
            self.served = chunk.served
        written, ids = _written(chunk), len(chunk.token_ids)
        if self.first_s is None and (written or ids):
            self.first_s = self._clock()
        meter = self._meters[index]
        added = meter.add(written, token_ids=ids, used=self._running_total(usage, meter, written, ids))
        if meter.tokens > self._limit:
            return self._cut(chunk, allowed=max(0, self._limit - (meter.tokens - added)), added=added)
        if written and not self._open >> index & 1:
            return None  # it had said that this output was over
        if chunk.finish_reason is not None:
            self._finish(index, chunk.finish_reason)
        elif meter.tokens == self._limit:
            self._is_written(index)
        return chunk

    def _running_total(self, usage: StageUsage | None, meter: Meter, written: str, ids: int) -> int | None:
        """What the server has counted for this output so far, None if it does not say."""
        if usage is None:
            return None
        if self._outputs == 1:
            return usage.output_tokens
        # The server counts over all outputs: what came on top since its last word belongs to this one.
        fresh, self._used = usage.output_tokens - self._used, usage.output_tokens
        return meter.tokens + fresh if written and not ids else None

    def _finish(self, index: int, reason: str) -> None:
        self._open &= ~(1 << index)
        self._is_written(index)
        self._reasons[index] = reason
        if reason == "length":
            self.truncated = True

    def _is_written(self, index: int) -> None:
        self._writing &= ~(1 << index)
        self.done = not self._writing

    def _cut(self, chunk: Chunk, *, allowed: int, added: int) -> Chunk | None:
        """Keep the share of a chunk that is within the limit; with the last output over it, the stream is over."""
        was_writing = self._writing >> chunk.index & 1
        self._is_written(chunk.index)
        self._reasons.setdefault(chunk.index, "length")
        self.overflowed = True
        self.truncated |= bool(self._open >> chunk.index & 1)
        if not (chunk.text or chunk.reasoning or chunk.token_ids or chunk.tool_calls):
            return None  # the final usage includes tokens that were never shown: nothing is left to cut
        # With several outputs, one that runs away must not keep the stream alive for the others.
        self.stopped = self.done or self._counted() > self._limit * self._outputs
        if not was_writing:
            return None
        keep = allowed / added if added else 0.0
        return replace(
            chunk,
            text=chunk.text[: int(len(chunk.text) * keep)],
            reasoning=chunk.reasoning[: int(len(chunk.reasoning) * keep)],
            token_ids=chunk.token_ids[:allowed],
            logprobs=chunk.logprobs[:allowed],
            tool_calls=(),
            finish_reason="length",
        )

    def end(self) -> bool:
        """The stream is at its end; whether every output had said why it ended."""
        self.complete = True
        self.truncated |= bool(self._open) and not self._writing
        return not self._writing

    def cut_short(self) -> bool:
        """Nothing more is awaited, as the time is up; whether an output was still being written."""
        self.stopped = True
        self.truncated |= bool(self._open)
        return bool(self._writing)

    @property
    def tokens(self) -> int:
        """Output tokens billed, as far as known."""
        reported = self._reported
        if reported is None:
            return self._counted()
        if self.complete and not self._by_ids():
            return reported.output_tokens
        return max(reported.output_tokens, self._counted())

    @property
    def counted_by(self) -> CountedBy:
        """The evidence for ``tokens``."""
        counted = self._meters[0].counted_by
        if self.complete and self._reported is not None and counted != "token_ids":
            return "usage"
        return counted

    def honours(self, tokens: int) -> bool:
        """Whether a model that is billed for so many tokens is known to have stayed within its limit.

        A model that reached its limit and neither ended nor reported its usage may have written on unseen.
        """
        if self.overflowed:
            return False
        limit = self._limit * self._outputs
        return tokens < limit or (tokens == limit and (self.complete or not self._open))

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Why the outputs ended, as far as they did, in their order."""
        if self._only is not None:
            return (self._reasons[0],) if self._reasons else ()
        return tuple(self._reasons[at] for at in sorted(self._reasons))

    @property
    def has_reported(self) -> bool:
        """Whether the server has said anything of what was used."""
        return self._reported is not None

    def usage(self, prompt_tokens: int) -> StageUsage:
        """What was used; where the server did not say, by our own count and these tokens of the prompt."""
        reported = self._reported
        if reported is None:
            return StageUsage(prompt_tokens, self.tokens, estimated=True)
        estimated = reported.estimated
        if not self.complete:
            estimated = not all(meter.counted_by in ("token_ids", "usage") for meter in self._meters)
        return _consistent(replace(reported, output_tokens=self.tokens, estimated=estimated))

    def _counted(self) -> int:
        return self._only.tokens if self._only is not None else sum(meter.tokens for meter in self._meters)

    def _by_ids(self) -> bool:
        if self._only is not None:
            return self._only.counted_by == "token_ids"
        return all(meter.counted_by == "token_ids" for meter in self._meters)


def _written(chunk: Chunk) -> str:
    """All that a model wrote in a chunk."""
    written = chunk.text + chunk.reasoning if chunk.reasoning else chunk.text
    if chunk.tool_calls:
        written += "".join(f"{delta.name or ''}{delta.arguments}" for delta in chunk.tool_calls)
    return written


def _consistent(usage: StageUsage) -> StageUsage:
    """The usage with no part larger than its whole; a part below zero counts as not told."""
    cached = _part(usage.cached_tokens, usage.input_tokens)
    return replace(
        usage,
        cached_tokens=cached,
        cache_write_tokens=_part(usage.cache_write_tokens, usage.input_tokens - (cached or 0)),
        reasoning_tokens=_part(usage.reasoning_tokens, usage.output_tokens),
    )


def _part(told: int | None, whole: int) -> int | None:
    return None if told is None or told < 0 else min(told, whole)

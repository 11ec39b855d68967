"""What one call of a model has used, by what evidence, and where its output has to be cut.

Pure: it is fed with chunks and asked for numbers.

Two numbers are kept of every output: what it has at least, by evidence that fits the text it came with, and the best
guess. Only the first cuts: a server that obeys must not be cut because we guess badly. What the guess sees beyond the
limit is held back until the server has ended within it, or is left out where it is proven to have gone on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from typing import Final

from duet_sdk.backends.base import Chunk, Served
from duet_sdk.reply import StageUsage
from duet_sdk.types import CountedBy

_RANK: Final[dict[CountedBy, int]] = {
    "none": 0,
    "token_ids": 1,
    "logprobs": 2,
    "usage": 3,
    "tokenizer": 4,
    "estimate": 5,
}
MOST_BYTES_IN_TOKEN: Final = 32
"""No ordinary text has more UTF-8 bytes in one token on average."""
MOST_LETTERS_IN_TOKEN: Final = 12
"""Nor more characters: ordinary text has three to five, Tamil in the largest vocabularies four, code with long runs of
spaces eight. Beyond it, words are counted."""
LONGEST_TOKEN: Final = 128
"""Characters of the longest tokens there are, runs of spaces."""
BYTES_IN_TOKEN: Final = 4
"""Mean UTF-8 bytes of a token in ordinary text, where nothing better tells."""
BYTES_IN_CHARACTER: Final = 4
"""Most of UTF-8, and so the most tokens that one character can be."""
MOST_TOKENS: Final = 10**9
"""No call reads or writes a billion tokens, a hundred times the largest window: a usage that says so says nothing."""
_WORD: Final = re.compile(r"\S+")
_SPARE_TOKENS: Final = 2
"""A text may have so many tokens more by the model's own tokenizer than the model wrote: the mark that begins it, and
what a character becomes that was cut in half."""
_SPARE_PART: Final = 32
"""And one in so many, where a model spells a word otherwise than its tokenizer would."""


class UnexpectedOutput(ValueError):
    """A model's server wrote an output that it was not asked for."""


class Meter:
    """Output tokens of one output, counted as they come.

    By token ids where the model sends them, else by logprobs, else by usage that comes with the piece, else by a local
    tokenizer, else by the larger of non-empty pieces and a quarter of the UTF-8 bytes, rounded up. Evidence that does
    not fit the text it comes with is passed over: no tokenizer makes one token of two words. ``counted_by`` names the
    weakest evidence that was needed.

    Args:
        count_text: tokens of a text by the model's own tokenizer, None if it is not available.
        limit: beyond which the tokenizer's count is checked over the whole text, None for never.

    >>> meter = Meter()
    >>> meter.add("seventeen"), meter.sure, meter.counted_by
    (3, 1, 'estimate')

    Attributes:
        tokens: what has been counted.
        counted_by: the weakest evidence.
        ids: token ids that came, or logprobs in their place.
        letters: characters that came with them.
        least: the least that all other text can be.
    """

    __slots__ = (
        "_bytes",
        "_count_text",
        "_counted",
        "_guess",
        "_in_word",
        "_lags",
        "_limit",
        "_since_bytes",
        "_since_pieces",
        "_since_words",
        "_text",
        "_told",
        "_words",
        "counted_by",
        "ids",
        "least",
        "letters",
        "tokens",
    )

    def __init__(self, count_text: Callable[[str], int] | None = None, limit: int | None = None) -> None:
        self._count_text = count_text
        self._limit = limit
        self.tokens = self.ids = self.letters = 0
        self.counted_by: CountedBy = "none"
        # All of the text that came without ids: the least it can be, and the guess; both are part of the sums above.
        self.least = self._guess = 0
        self._words = self._bytes = 0
        self._in_word = self._lags = False
        self._told = 0  # tokens of that text by the server's last believable running total
        self._since_pieces = self._since_bytes = self._since_words = 0
        self._text: list[str] = []  # since then, where there is a tokenizer
        self._counted = 0  # tokens of it by the tokenizer

    @property
    def sure(self) -> int:
        """The least that it can be."""
        return self.ids + self.least

    def add(self, text: str, *, token_ids: int = 0, logprobs: int = 0, used: int | None = None) -> int:
        """Count a piece: its text, how many token ids or logprobs came with it, and the server's running total.

        Returns:
            the tokens that this piece added.
        """
        before, known = self.tokens, token_ids or logprobs
        if known and not self._is_too_much(text, known):
            self.ids += known
            self.tokens += known
            self.letters += len(text)
            self.saw("token_ids" if token_ids else "logprobs")
            if used is not None and used > self.tokens:
                self._believe(used)
        elif text:
            if used is None:
                self._add_words(text, known)
                self._add_guess(text)
            else:
                self._add_told(text, known, used)
        elif used is not None and not self.sure == self.tokens == used:
            self._believe(used)
        return self.tokens - before

    def _add_told(self, text: str, pieces: int, used: int) -> None:
        """A piece that came with a running total; one that once did not cover its own piece is of those before."""
        words, size = self._words, self._bytes
        self._add_words(text, pieces)
        is_told = self._believe(used)
        self._lags |= not is_told
        if is_told and self._lags:
            self._since_pieces, self._since_bytes = max(1, pieces), self._bytes - size
            self._since_words = self._words - words
        if self._lags:
            self._add_guess(text)

    def _is_too_much(self, text: str, known: int) -> bool:
        """Whether a piece has more text than its tokens can hold, in an output that has too much for all of its."""
        if self.letters + len(text) <= MOST_LETTERS_IN_TOKEN * (self.ids + known):
            return False
        return len(text.split()) > known or len(text) > LONGEST_TOKEN * known

    def _add_words(self, text: str, pieces: int) -> None:
        words = len(text.split())
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        if words and self._in_word and not text[0].isspace():
            words -= 1  # it goes on with the last one
        self._in_word = not text[-1].isspace()
        self._words += words
        self._bytes += size
        self._since_pieces += pieces or 1
        self._since_bytes += size
        self._since_words += words

    def _believe(self, used: int) -> bool:
        """Take the server's running total, unless the text is more than it can hold."""
        told = used - self.ids
        if told < max(self._words, self._bytes // MOST_BYTES_IN_TOKEN):
            return False
        self._told = max(self._told, told)
        self._since_pieces = self._since_bytes = self._since_words = 0
        self._text, self._counted = [], 0
        self._set(self._told, self._told)
        self.saw("usage")
        return True

    def _add_guess(self, text: str) -> None:
        least = max(self._told, self._words, self._bytes // MOST_BYTES_IN_TOKEN)
        if self._count_text is None:
            size = -(-self._since_bytes // BYTES_IN_TOKEN)
            guess = max(self._told + max(self._since_pieces, size, self._since_words), least)
            self.tokens += guess - self._guess
            self.least, self._guess = least, guess
            if self.counted_by != "estimate":
                self.saw("estimate")
            return
        # Piece by piece, as the text so far must not be encoded again for each: never less than the whole.
        self._text.append(text)
        self._counted += max(1, self._count_text(text))
        if self._limit is not None and self.ids + self._told + self._proven() > self._limit:
            self._text = ["".join(self._text)]
            self._counted = self._count_text(self._text[0])
        self._set(max(least, self._told + self._proven()), self._told + self._counted)
        self.saw("tokenizer")

    def _proven(self) -> int:
        """What the tokenizer's count is at least in the model's own tokens."""
        return max(0, self._counted - _SPARE_TOKENS - self._counted // _SPARE_PART)

    def _set(self, least: int, guess: int) -> None:
        guess = guess if guess > least else least
        self.tokens += guess - self._guess
        self.least, self._guess = least, guess

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
        "_held",
        "_limit",
        "_meters",
        "_only",
        "_open",
        "_outputs",
        "_reasons",
        "_reported",
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
        self._meters = [Meter(count_text, limit)]
        for _ in range(1, outputs):
            self._meters.append(Meter(count_text, limit))
        self._only = self._meters[0] if outputs == 1 else None
        self._open = self._writing = (1 << outputs) - 1  # a bit for each output
        self._held: dict[int, list[Chunk]] = {}
        self._reasons: dict[int, str] = {}
        self._reported: StageUsage | None = None
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

        What may be beyond it comes later, once the server has ended within the limit; `holds_back` says so.

        Raises:
            UnexpectedOutput: an output that was not asked for.
        """
        kept: list[Chunk] = []
        meter, limit = self._only, self._limit
        for chunk in arrived:
            if self.stopped:
                break
            ids, usage = len(chunk.token_ids), chunk.usage
            if meter is None:
                tokens = letters = 0
            else:
                tokens, letters = meter.tokens + ids, meter.letters + len(chunk.text) + len(chunk.reasoning)
            if (
                meter is None
                or not ids
                or tokens >= limit
                or letters > MOST_LETTERS_IN_TOKEN * (meter.ids + ids)
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
            meter.ids += ids
            meter.letters = letters
            self._reported = usage or self._reported
            if chunk.finish_reason is not None:
                self._finish(0, chunk.finish_reason)
            kept.append(chunk)
        if arrived and arrived[-1].last and self.done and not self.stopped:
            self.end()
        if self._held and self._is_over:
            kept += self._released()
        return kept

    def _take(self, chunk: Chunk) -> Chunk | None:
        index = chunk.index
        if not 0 <= index < self._outputs:
            raise UnexpectedOutput(f"the model's server wrote output number {index} of {self._outputs}")
        usage = self._heard(chunk)
        written, ids = _written(chunk), len(chunk.token_ids)
        meter, limit = self._meters[index], self._limit
        if (
            ids > len(written) * BYTES_IN_CHARACTER
            and meter.tokens + ids > limit
            and (chunk.finish_reason or not meter.tokens)
        ):
            # Nobody writes so much at once that is not shown: some say the prompt's ids first, or all once more at
            # the end. A stream that goes on without text is another matter.
            ids, chunk.token_ids = 0, ()
        if self.first_s is None and (written or ids):
            self.first_s = self._clock()
        before = meter.tokens
        total = 0 if usage is None else usage.output_tokens
        # The server counts over all outputs: of one of several it says nothing.
        used = total if usage is not None and self._outputs == 1 else None
        scored = _scored(chunk, written) if chunk.logprobs else 0
        meter.add(written, token_ids=ids, logprobs=scored, used=used)
        sure = meter.ids + meter.least
        if sure > limit or total > limit * self._outputs:
            return self._cut(chunk, written, before=before)
        if written and not self._open >> index & 1:  # it had said that this output was over
            if index not in self._held and self._guessed() > limit * self._outputs:
                self.overflowed = self.stopped = True
            return None
        if chunk.finish_reason is not None:
            self._finish(index, chunk.finish_reason)
        elif sure == limit:
            self._is_written(index)
        return chunk if meter.tokens <= limit and not self._held else self._kept(chunk, meter, before=before)

    def _heard(self, chunk: Chunk) -> StageUsage | None:
        """What the server says of the call in a chunk; its usage, where that can be."""
        usage = chunk.usage
        if usage is not None:
            if not (0 <= usage.input_tokens <= MOST_TOKENS and 0 <= usage.output_tokens <= MOST_TOKENS):
                usage = chunk.usage = None
            self._reported = usage or self._reported
        if chunk.cost_usd is not None:
            self.reported_usd = chunk.cost_usd
        if chunk.served is not None:
            self.served = chunk.served
        return usage

    def _kept(self, chunk: Chunk, meter: Meter, *, before: int) -> Chunk | None:
        """The chunk, or the part of it that is within the limit by our guess; the rest is held back."""
        held = self._held.get(chunk.index)
        if held is not None:
            held.append(chunk)
            return None
        if meter.tokens <= self._limit:
            return chunk
        within, beyond = _split(chunk, self._limit - before, max(1, meter.tokens - before))
        self._held[chunk.index] = [beyond]
        return within

    @property
    def holds_back(self) -> bool:
        """Whether the end of an output is still to be given out: `take` does it, given nothing."""
        return bool(self._held) and self._is_over

    @property
    def _is_over(self) -> bool:
        return self.stopped or (self.done and self.complete)

    def _released(self) -> list[Chunk]:
        """What was held back, where the server has ended within its limit; else how its outputs ended."""
        held, self._held = self._held, {}
        if self.overflowed:
            self.truncated = True
            self._reasons.update(dict.fromkeys(held, "length"))
            return [Chunk(finish_reason="length", index=index) for index in held]
        return [chunk for chunks in held.values() for chunk in chunks]

    def _finish(self, index: int, reason: str) -> None:
        self._open &= ~(1 << index)
        self._is_written(index)
        self._reasons[index] = reason
        if reason == "length":
            self.truncated = True

    def _is_written(self, index: int) -> None:
        self._writing &= ~(1 << index)
        self.done = not self._writing

    def _cut(self, chunk: Chunk, written: str, *, before: int) -> Chunk | None:
        """Keep the share of a chunk that is within the limit; with the last output over it, the stream is over."""
        index, meter = chunk.index, self._meters[chunk.index]
        was_writing = self._writing >> index & 1
        self.overflowed = True
        room = max(0, self._limit - before)
        # Tokens that were never shown are billed, too, and each that was has a byte at least.
        hidden = 0 if chunk.usage is None or chunk.reasoning else chunk.usage.reasoning_tokens or 0
        shown = max(1, min(meter.tokens - before - hidden, len(written.encode("utf-8", "surrogatepass"))))
        if shown <= room and index not in self._held and chunk.finish_reason is not None and was_writing:
            self._finish(index, chunk.finish_reason)  # only the bill is above the limit
            return chunk
        self._is_written(index)
        self._reasons.setdefault(index, "length")
        self.truncated |= bool(self._open >> index & 1)
        if not written and not chunk.token_ids:
            return None  # the final usage includes tokens that were never shown: nothing is left to cut
        # With several outputs, one that runs away must not keep the stream alive for the others.
        self.stopped = self.done or self._guessed() > self._limit * self._outputs
        if index in self._held or not was_writing:
            return None
        within, _ = _split(chunk, room, shown)
        within.token_ids, within.logprobs = chunk.token_ids[:room], chunk.logprobs[:room]
        within.finish_reason, within.usage = "length", chunk.usage
        return within

    def end(self) -> bool:
        """The stream is at its end; whether every output had said why it ended.

        One that never came has nothing to say, where others did: some servers ignore how many are asked for.
        """
        self.complete = True
        if self._writing and self._reasons:
            came = sum(1 << at for at, meter in enumerate(self._meters) if meter.tokens)
            if not self._writing & came:
                self._open = self._writing = 0
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
        if self._reported is None or not self._is_told:
            return self._counted()
        if self.complete and not self._by_ids():
            return self._reported.output_tokens
        return max(self._reported.output_tokens, self._counted())

    @property
    def _is_told(self) -> bool:
        """Whether the server's own usage can be true; some tokenizers make one token of two words, now and then."""
        if self._reported is None:
            return False
        sure = self._sure() if self._only is None else self._only.ids + self._only.least
        return 2 * self._reported.output_tokens >= sure

    @property
    def counted_by(self) -> CountedBy:
        """The evidence for ``tokens``."""
        counted = self._meters[0].counted_by
        if self.complete and self._is_told and counted != "token_ids":
            return "usage"
        return counted

    def honours(self, tokens: int) -> bool:
        """Whether a model that is billed for so many tokens is known to have stayed within its limit.

        A model that reached its limit and neither ended nor reported its usage may have written on unseen.
        """
        limit = self._limit * self._outputs
        if self.overflowed or tokens > limit:
            return False
        return self.complete or not self._open or self._sure() < limit

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
        estimated = reported.estimated or not self._is_told
        if not self.complete:
            estimated = not all(meter.counted_by in ("token_ids", "logprobs", "usage") for meter in self._meters)
        prompt = reported.input_tokens
        if not prompt and prompt_tokens:  # no prompt is empty: a placeholder
            prompt, estimated = prompt_tokens, True
        output = self.tokens
        if reported.cached_tokens is reported.cache_write_tokens is reported.reasoning_tokens is None:
            return StageUsage(prompt, output, estimated=estimated)
        cached = _part(reported.cached_tokens, prompt)
        return StageUsage(
            prompt,
            output,
            cached,
            estimated,
            _part(reported.cache_write_tokens, prompt - (cached or 0)),
            _part(reported.reasoning_tokens, output),
        )

    def _counted(self) -> int:
        """By our own count; a guess beyond the limit is no sign that more was billed than was allowed."""
        counted = 0
        for meter in self._meters:
            is_guess = meter.tokens > self._limit >= meter.sure and not self.overflowed
            counted += self._limit if is_guess else meter.tokens
        return counted

    def _sure(self) -> int:
        return self._only.sure if self._only is not None else sum(meter.sure for meter in self._meters)

    def _guessed(self) -> int:
        return sum(meter.tokens for meter in self._meters)

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


def _end_of(text: str, share: float, words: int) -> int:
    """Where a share of a text's characters ends, or its first words, if they end earlier."""
    end = int(len(text) * share)
    if len(text[:end].split()) <= words:
        return end
    return next((word.end() for word in islice(_WORD.finditer(text), words - 1, None)), 0) if words > 0 else 0


def _scored(chunk: Chunk, written: str) -> int:
    """How many tokens a chunk has by its logprobs, 0 where they do not hold all that it wrote."""
    return len(chunk.logprobs) if sum(len(item.token) for item in chunk.logprobs) >= len(written) else 0


def _split(chunk: Chunk, room: int, tokens: int) -> tuple[Chunk, Chunk]:
    """A chunk in two: the text of so many of its tokens alone, and the rest of it with all else."""
    share = min(max(room / tokens, 0.0), 1.0)
    text = _end_of(chunk.text, share, room)
    reasoning = _end_of(chunk.reasoning, share, room)
    within = Chunk(chunk.text[:text], chunk.reasoning[:reasoning], index=chunk.index)
    return within, replace(chunk, text=chunk.text[text:], reasoning=chunk.reasoning[reasoning:])


def _part(told: int | None, whole: int) -> int | None:
    """A part that is not larger than its whole; one below zero counts as not told."""
    return None if told is None or told < 0 else min(told, whole)

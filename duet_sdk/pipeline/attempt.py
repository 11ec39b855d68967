"""One call of one model under a hold: counted, cut at its limit and deadline, settled however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import TracebackType
from typing import Protocol, Self, cast

from duet_sdk.backends.base import Backend, Call, Chunk
from duet_sdk.budget import EntryFacts, RequestBudget, UsdOf
from duet_sdk.budget.meter import TokenMeter
from duet_sdk.errors import BackendError, StreamBroken
from duet_sdk.events import AttemptEnded, AttemptStarted
from duet_sdk.pipeline.admission import PromptSize
from duet_sdk.pipeline.charging import Charge, Charging
from duet_sdk.pipeline.observer import SILENT, Observer
from duet_sdk.pipeline.stream import Closings, Stream
from duet_sdk.pricing import PriceBook
from duet_sdk.receipt import Account
from duet_sdk.reply import Attempt, StageUsage
from duet_sdk.types import AttemptKind, CountedBy, Stage

GRACE_S = 2.0
"""How long a stream that has reached its limit or its end may take to say its usage before it is closed."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Who is called, and on whose account: what stays the same over a stage's attempts."""

    stage: Stage
    model: str
    backend: Backend
    prices: PriceBook
    account: Account
    budget: RequestBudget
    usd_of: UsdOf
    count_text: Callable[[str], int] | None = None
    """Tokens of a text by the model's own tokenizer, None where it is not at hand."""
    charging: Charging | None = None
    """The request's side of a ledger, None without one."""
    observer: Observer = SILENT
    closings: Closings = field(default_factory=Closings)
    """The client's streams that still close."""


class Begun(Protocol):
    """An attempt that can be entered and iterated: one that was just planned, or one that is under way already."""

    @property
    def timed_out(self) -> bool:
        """Whether the deadline ended it."""

    def ended(self) -> AttemptEnded:
        """The event that closes it; only after leaving the context."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[Chunk]: ...


class RunningCall:
    """An attempt while it runs: ``async with`` holds and settles, iterating gives chunks within the limit.

    Attributes:
        timed_out: the deadline ended it.
        overflowed: the model wrote more than it was allowed to.
        truncated: the limit or the deadline ended it, the model did not.
        kind: what the model was called for; a tentative answer becomes an ``answer`` when it is adopted.
        discarded: nothing of it will stand in the reply.
    """

    def __init__(self, slot: Slot, call: Call, *, kind: AttemptKind, prompt: PromptSize, until: float | None) -> None:
        self.kind = kind
        self._slot = slot
        self._call = call
        self._prompt = prompt
        self._until = until
        self._number = 1 + sum(done.stage == slot.stage for done in slot.account.attempts)
        self._meters = [TokenMeter(slot.count_text) for _ in range(call.n)]
        self._open = set(range(call.n))
        self._writing = set(range(call.n))
        self._reported: StageUsage | None = None
        self._used = 0
        self._reported_usd: Decimal | None = None
        self._complete = False
        self._stopped = False
        self._first_token_s: float | None = None
        self._dispatched = False
        self._failed_unspent = False
        self._charge: Charge | None = None
        self._permit: tuple[object] | None = None
        self.timed_out = False
        self.overflowed = False
        self.truncated = False
        self.discarded = False
        self.record: Attempt | None = None
        self._needed_tokens: int | None = None
        self._finish_reasons: dict[int, str] = {}

    def started(self) -> AttemptStarted:
        """The event that announces this attempt."""
        return AttemptStarted(self._slot.stage, self._slot.model, self._number)

    def ended(self) -> AttemptEnded:
        """The event that closes this attempt; only after leaving the context."""
        record = cast("Attempt", self.record)
        return AttemptEnded(record.stage, record.model, record.attempt, record.usage, record.error_type)

    def not_needed(self, since_tokens: int | None = None) -> None:
        """No more is needed: what it writes beyond ``since_tokens`` (by default from now on) is overlap."""
        if self._needed_tokens is None:
            self._needed_tokens = self.tokens if since_tokens is None else since_tokens

    def extend(self, until: float | None) -> None:
        """Move its deadline, unless it has no more to write and only waits for the server's last word."""
        if self._writing and not self._stopped:
            self._until = until

    @property
    def tokens(self) -> int:
        """Output tokens billed, as far as known."""
        counted = self._counted()
        if self._reported is None:
            return 0 if self._is_unbilled else counted
        if self._complete and not self._by_ids:
            return self._reported.output_tokens
        return max(self._reported.output_tokens, counted)

    @property
    def counted_by(self) -> CountedBy:
        """The evidence for ``tokens``."""
        counted = self._meters[0].counted_by
        if self._complete and self._reported is not None and counted != "token_ids":
            return "usage"
        return counted

    @property
    def honoured(self) -> bool:
        """Whether the model is known to have stayed within its limit.

        A model that reached its limit and neither ended nor reported its usage may have written on unseen.
        """
        limit = self._call.max_tokens * self._call.n
        seen_whole = self._complete or not self._open
        return not self.overflowed and self.tokens <= limit and (seen_whole or self.tokens < limit)

    async def __aenter__(self) -> Self:
        slot, call = self._slot, self._call
        outputs = call.max_tokens * call.n
        bound = self._prompt.tokens
        planned_s = slot.budget.elapsed_s()
        usd = slot.usd_of(bound, outputs)
        self._held = slot.budget.hold(bound + outputs, usd)
        if slot.charging is not None:
            try:
                self._charge = await slot.charging.hold(
                    EntryFacts(slot.stage, slot.model, self.kind, slot.observer.trace_id),
                    tokens=bound + outputs,
                    usd=usd,
                    left_s=slot.budget.left_s(self._until),
                )
            except BaseException:
                slot.budget.release(self._held)
                raise
        self._start_s = slot.budget.elapsed_s()
        self._queued_s = self._start_s - planned_s
        self._span = slot.observer.attempt(
            call, stage=slot.stage, model=slot.model, backend=slot.backend, number=self._number, kind=self.kind
        )
        self._hears = self._span.hears
        self._stream = Stream(cast("AsyncGenerator[Chunk, None]", slot.backend.stream(call)), slot.closings)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            if self._complete or self._stopped:
                raise StopAsyncIteration
            chunk = await self._next()
            if chunk is not None and (taken := self._take(chunk)) is not None:
                if self._hears is not None:
                    self._hears(taken)
                return taken

    async def _next(self) -> Chunk | None:
        try:
            if self._until is not None:
                return await self._next_in_time(self._until)
            # Spares every token but the first a coroutine.
            return await (self._stream.next() if self._dispatched else self._advance())
        except StopAsyncIteration:
            self._complete = True
            if self._writing:
                raise self._broken("the stream ended without saying why the output ended") from None
            self.truncated |= bool(self._open)
        except TimeoutError as error:
            raise self._broken("the model's server timed out") from error
        return None

    async def _next_in_time(self, until: float) -> Chunk | None:
        left_s = self._slot.budget.left_s(until)
        chunk = await self._advance(left_s) if left_s else None
        if chunk is None:
            self._stop_waiting()
        return chunk

    async def _advance(self, left_s: float | None = None) -> Chunk | None:
        """The next chunk, None where it does not come in ``left_s`` seconds."""
        if self._dispatched:
            return await (self._stream.next() if left_s is None else self._stream.next_within(left_s))
        self._dispatched = True
        self._permit = (self._slot.backend.attempt_begins(),)
        with self._span.sending():
            return await (self._stream.next() if left_s is None else self._stream.next_within(left_s))

    def _stop_waiting(self) -> None:
        self._stopped = True
        self.timed_out = bool(self._writing)
        self.truncated |= bool(self._open)

    def _broken(self, message: str) -> StreamBroken:
        backend = self._slot.backend
        return StreamBroken(message, backend=backend.name, model=backend.model)

    def _take(self, chunk: Chunk) -> Chunk | None:
        """Count a chunk and cut what goes beyond the limit."""
        if not 0 <= chunk.index < self._call.n:
            raise self._broken(f"the model's server wrote output number {chunk.index} of {self._call.n}")
        if chunk.usage is not None:
            chunk.usage = _plausible(chunk.usage)
            self._reported = chunk.usage or self._reported
        if chunk.cost_usd is not None:
            self._reported_usd = chunk.cost_usd
        index, limit = chunk.index, self._call.max_tokens
        written = chunk.text + chunk.reasoning
        if chunk.tool_calls:
            written += "".join(f"{delta.name or ''}{delta.arguments}" for delta in chunk.tool_calls)
        if self._first_token_s is None and (written or chunk.token_ids):
            self._first_token_s = self._slot.budget.elapsed_s() - self._start_s
        meter = self._meters[index]
        used = chunk.usage.output_tokens if chunk.usage is not None else None
        if used is not None and self._call.n > 1:
            # The server counts over all outputs: what came on top since its last word belongs to this one.
            fresh, self._used = used - self._used, used
            used = meter.tokens + fresh if written and not chunk.token_ids else None
        added = meter.add(written, token_ids=len(chunk.token_ids), used=used)
        if index not in self._open and written:
            return None  # it had said that this output was over
        if meter.tokens > limit:
            return self._cut(chunk, allowed=max(0, limit - (meter.tokens - added)), added=added)
        if chunk.finish_reason is not None:
            self._open.discard(index)
            self._writing.discard(index)
            self._finish_reasons[index] = chunk.finish_reason
            self.truncated |= chunk.finish_reason == "length"
        elif meter.tokens == limit:
            self._writing.discard(index)
        if not self._writing:
            self._wait_at_most(GRACE_S)
        return chunk

    def _cut(self, chunk: Chunk, *, allowed: int, added: int) -> Chunk | None:
        """Keep the share of a chunk that is within the limit; with the last output over it, the stream is over."""
        was_writing = chunk.index in self._writing
        self._writing.discard(chunk.index)
        self._finish_reasons.setdefault(chunk.index, "length")
        self.overflowed = True
        self.truncated |= chunk.index in self._open
        if not (chunk.text or chunk.reasoning or chunk.token_ids or chunk.tool_calls):
            return None  # the final usage tells of tokens that were never shown: nothing is left to cut
        # With several outputs, one that runs away must not keep the stream alive for the others.
        self._stopped = not self._writing or sum(meter.tokens for meter in self._meters) > (
            self._call.max_tokens * self._call.n
        )
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

    def _wait_at_most(self, wait_s: float) -> None:
        # The deadline is on the budget's clock, so that both can be compared.
        end = self._slot.budget.started + self._slot.budget.elapsed_s() + wait_s
        self._until = end if self._until is None else min(self._until, end)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        refused = isinstance(exc, BackendError) and not isinstance(exc, StreamBroken)
        self._failed_unspent = refused and self._first_token_s is None
        try:
            await self._stream.close()
        finally:
            if self._permit is not None:
                self._slot.backend.attempt_ends(self._permit[0], exc)
            record = self._settle(exc)
            try:
                self._span.end(record)
            finally:
                if self._charge is not None:
                    await self._settle_charge(self._charge, record)

    async def _settle_charge(self, charge: Charge, record: Attempt) -> None:
        if self._dispatched:
            await charge.settle(record.kind, record.usage, record.usd)
        else:
            await charge.release()

    def _settle(self, exc: BaseException | None) -> Attempt:
        slot = self._slot
        duration_s = slot.budget.elapsed_s() - self._start_s
        usage = self._usage()
        usd = slot.prices.cost(
            slot.model,
            usage,
            seconds=duration_s,
            reported_usd=self._reported_usd,
            backend_price=slot.backend.price,
        )
        slot.budget.settle(self._held, tokens=usage.total_tokens, usd=usd)
        error_type = None
        if exc is not None:
            error_type = type(exc).__name__ if isinstance(exc, Exception) else "cancelled"
        self.record = Attempt(
            slot.stage,
            slot.model,
            self._number,
            usage,
            usd,
            self._start_s,
            duration_s,
            self._first_token_s,
            error_type,
            kind=self.kind,
            limit_tokens=self._call.max_tokens * self._call.n,
            honoured=self.honoured,
            discarded=self.discarded,
            truncated=self.truncated,
            finish_reasons=tuple(self._finish_reasons[at] for at in sorted(self._finish_reasons)),
            overlap_tokens=0 if self._needed_tokens is None else usage.output_tokens - self._needed_tokens,
            queued_s=self._queued_s,
        )
        slot.account.attempts.append(self.record)
        return self.record

    def _counted(self) -> int:
        meters = self._meters
        return meters[0].tokens if len(meters) == 1 else sum(meter.tokens for meter in meters)

    @property
    def _by_ids(self) -> bool:
        return all(meter.counted_by == "token_ids" for meter in self._meters)

    @property
    def _is_unbilled(self) -> bool:
        """Refused before the first token, or never sent."""
        return self._failed_unspent or not self._dispatched

    def _usage(self) -> StageUsage:
        reported, tokens = self._reported, self.tokens
        if reported is None:
            return StageUsage() if self._is_unbilled else StageUsage(self._prompt.likely, tokens, estimated=True)
        estimated = reported.estimated
        if not self._complete:
            estimated = not all(meter.counted_by in ("token_ids", "usage") for meter in self._meters)
        return StageUsage(reported.input_tokens, tokens, reported.cached_tokens, estimated)


def _plausible(usage: StageUsage) -> StageUsage | None:
    """What a server says it used, None where that cannot be."""
    if min(usage.input_tokens, usage.output_tokens, usage.cached_tokens) < 0:
        return None
    if usage.cached_tokens <= usage.input_tokens:
        return usage
    return replace(usage, cached_tokens=usage.input_tokens)

"""One call of one model under a hold: announced, counted, cut at its limit and deadline, settled however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Final, Self

from duet_sdk.backends.base import Backend, Call, Chunk, Served
from duet_sdk.budget import EntryFacts, UsdOf
from duet_sdk.errors import BackendError, NoAnswer, StreamBroken
from duet_sdk.events import AttemptStarted
from duet_sdk.pipeline.admission import PromptSize
from duet_sdk.pipeline.causes import cause
from duet_sdk.pipeline.charging import Charge
from duet_sdk.pipeline.counting import Counter, UnexpectedOutput
from duet_sdk.pipeline.flow import Flow, ended
from duet_sdk.pipeline.lifetime import Cancellable, carried, closing_failed, raising
from duet_sdk.pipeline.models import StageModel
from duet_sdk.reply import Attempt, StageUsage
from duet_sdk.types import AttemptKind, CountedBy

GRACE_S: Final = 2.0
"""How long a stream that has reached its limit or its end may take to say its usage before it is closed: servers send
it at once, and a request must not wait longer than a connection takes for a figure that can be estimated."""

Read = Callable[[], Coroutine[object, object, None]]
"""Reads an attempt on: iterates ``incoming``, and returns when ``counter.done`` or no more is wanted."""


_NOTHING: Final = nullcontext()
_NOBODY: Final = Served()


class RunningAttempt:
    """An attempt while it runs: ``async with`` holds and settles, `run` reads.

    What the model writes comes from ``incoming`` as it arrives; ``take`` counts it and returns what fits the limit:

        async with attempt:
            await attempt.run(read)

        async def read():
            async for arrived in attempt.incoming:
                for chunk in attempt.take(arrived):
                    ...
                if attempt.counter.done:
                    break

    Attributes:
        incoming: the model's chunks, those that arrived together in one step.
        take: counts chunks.
        counter: what has been counted.
        timed_out: the deadline ended it.
        kind: what the model was called for; a probe becomes an ``answer`` when it is adopted.
        discarded: none of it will be part of the reply.
        record: what the receipt says of it, once it is over.
    """

    __slots__ = (
        "_begun_s",
        "_call",
        "_charge",
        "_exhausted",
        "_flow",
        "_held",
        "_is_announced",
        "_is_dispatched",
        "_is_refused",
        "_model",
        "_needed_tokens",
        "_number",
        "_permit",
        "_prompt",
        "_queued_s",
        "_reading",
        "_span",
        "_until",
        "_usd_of",
        "counter",
        "discarded",
        "incoming",
        "kind",
        "record",
        "take",
        "timed_out",
    )

    incoming: AsyncGenerator[Sequence[Chunk], None]
    take: Callable[[Sequence[Chunk]], Sequence[Chunk]]

    def __init__(
        self,
        flow: Flow,
        model: StageModel,
        call: Call,
        *,
        kind: AttemptKind,
        prompt: PromptSize,
        usd_of: UsdOf,
        until: float | None,
    ) -> None:
        self.kind = kind
        self._flow = flow
        self._model = model
        self._call = call
        self._usd_of = usd_of
        self._prompt = prompt
        self._until = until
        self.counter = Counter(call.max_tokens, call.n, model.count_text, flow.budget.clock)
        self.timed_out = False
        self.discarded = False
        self.record: Attempt | None = None
        self._number = 0
        self._charge: Charge | None = None
        self._permit: tuple[object] | None = None
        self._reading: asyncio.Task[Callable[[], None]] | None = None
        self._is_announced = False
        self._is_dispatched = False
        self._is_refused = False
        self._exhausted = False
        self._needed_tokens: int | None = None

    @property
    def is_entered(self) -> bool:
        """Whether it holds, or has held, what it can spend."""
        return self._number > 0

    def not_needed(self, since_tokens: int | None = None) -> None:
        """No more is needed: what it writes beyond ``since_tokens`` (by default from now on) is overlap."""
        if self._needed_tokens is None:
            self._needed_tokens = self.tokens if since_tokens is None else since_tokens

    def extend(self, until: float | None) -> None:
        """Move its deadline; for the next `run`."""
        self._until = until

    @property
    def backend(self) -> Backend:
        """Whose output it reads."""
        return self._model.backend

    @property
    def model(self) -> StageModel:
        """Who is called."""
        return self._model

    @property
    def call(self) -> Call:
        """What is asked."""
        return self._call

    @property
    def tokens(self) -> int:
        """Output tokens billed, as far as known."""
        if self.record is not None:
            return self.record.usage.output_tokens
        return 0 if self._is_unbilled else self.counter.tokens

    @property
    def counted_by(self) -> CountedBy:
        """The evidence for ``tokens``."""
        return self.counter.counted_by

    @property
    def honoured(self) -> bool:
        """Whether the model is known to have stayed within its limit."""
        if self.record is not None:
            return self.record.honoured
        return self._is_unbilled or self.counter.honours(self.counter.tokens)

    @property
    def truncated(self) -> bool:
        """Whether the limit or the deadline ended it, and the model did not."""
        return self.counter.truncated

    @property
    def _is_unbilled(self) -> bool:
        """Refused before the first token, or never sent, as far as the server says nothing else."""
        return (self._is_refused or not self._is_dispatched) and not self.counter.has_reported

    async def __aenter__(self) -> Self:
        """Hold what it can spend; once is enough."""
        if self._number:
            return self
        flow, model, call = self._flow, self._model, self._call
        budget, observer, charging = flow.budget, flow.outbox.observer, flow.draft.charging
        outputs = call.max_tokens * call.n
        bound = self._prompt.tokens
        planned_s = self._begun_s = budget.elapsed_s()
        usd = self._usd_of(bound, outputs)
        self._held = budget.hold(bound + outputs, usd)
        if charging is not None:
            try:
                holding = charging.hold(
                    EntryFacts(model.stage, model.name, self.kind, observer.trace_id),
                    tokens=bound + outputs,
                    usd=usd,
                    left_s=budget.left_s(self._until),
                )
                self._charge = await flow.in_time(
                    holding,
                    until=self._until,
                    model=model,
                    what="the ledger's hold for a call",
                    unwanted=Charge.release,
                )
            except BaseException:
                budget.release(self._held)
                raise
            self._begun_s = budget.elapsed_s()
        self._queued_s = self._begun_s - planned_s
        self._number = flow.draft.account.next_number(model.stage)
        self._span = observer.attempt(
            call, stage=model.stage, model=model.name, backend=model.backend, number=self._number, kind=self.kind
        )
        self.take = self.counter.take if self._span.hears is None else self._take_and_tell
        return self

    def _announce(self) -> None:
        self._is_announced = True
        self._flow.tell(AttemptStarted(self._model.stage, self._model.name, self._number))

    async def run(self, read: Read) -> None:
        """Read the model's output until there is no more, no more is wanted, or the time is up.

        Where the answer is streamed, or has a deadline, ``read`` runs in a task of its own: no chunk then passes the
        layers above (a task resumes every coroutine that awaits), and a deadline ends the waiting however long the
        model's stream takes to close.

        Raises:
            BackendError: the model failed; what it wrote before has been read.
        """
        if not self._is_announced:
            self._announce()
        left_s = None if self._until is None else self._flow.budget.left_s(self._until)
        if left_s is not None and left_s <= 0:
            self._stop_waiting()
            return
        sending = self._send()
        if left_s is None and self._call.whole:
            with sending, Cancellable():
                (await self._read_all(read))()
            return
        loop = asyncio.get_running_loop()
        with sending:  # the task takes this context with it
            reading = self._reading = loop.create_task(self._read_all(read))
        over: asyncio.Future[None] = loop.create_future()
        reading.add_done_callback(partial(_end, over))
        timer = None if left_s is None else loop.call_later(left_s, _end, over)
        is_left = False
        try:
            await over
        finally:
            if timer is not None:
                timer.cancel()
            if not reading.done():
                is_left = True
                reading.cancel()
                try:
                    await self._flow.parts.lifetime.within(reading)
                finally:
                    self.counter.stopped |= not reading.done()  # nothing that it may still read counts
            elif not reading.cancelled():
                reading.exception()  # looked at, also where this task is cancelled just as it fails
        if is_left or (timer is not None and reading.cancelled()):
            self._stop_waiting()
        else:
            reading.result()()  # raises what ended it

    def _send(self) -> AbstractContextManager[object]:
        """Send the call, where that is still to be done; what is sent in the context belongs to the attempt."""
        if self._is_dispatched:
            return _NOTHING
        self.incoming = self._model.backend.batches(self._call)
        self._is_dispatched = True
        self._permit = (self._model.backend.attempt_begins(),)
        return self._span.sending()

    async def _read_all(self, read: Read) -> Callable[[], None]:
        """Read to the end; calling what it gives raises what must not end the event loop, see `carried`."""
        counter = self.counter
        try:
            await read()
            if counter.done and not (counter.complete or counter.stopped):
                await self._hear_last_words(read)
            if counter.holds_back:
                await self._hear_the_rest(read)
        except TimeoutError as error:
            raise self._broken("the model's server timed out") from error
        except UnexpectedOutput as error:
            raise self._broken(str(error)) from None
        except (KeyboardInterrupt, SystemExit) as error:
            return raising(error)
        return _nothing_to_raise

    async def _hear_the_rest(self, read: Read) -> None:
        """Let what the counter held back be read, in a step in which nothing arrives."""
        stream, self.incoming = self.incoming, _one_step()
        try:
            await read()
        finally:
            await self.incoming.aclose()
            self.incoming = stream

    async def _hear_last_words(self, read: Read) -> None:
        """Let the server say its usage, though not for long."""
        timeout = asyncio.timeout(GRACE_S)
        try:
            async with timeout:
                while not (self.counter.complete or self.counter.stopped):
                    await read()
        except TimeoutError:
            if not timeout.expired():
                raise
            self.counter.cut_short()

    def exhausted(self) -> None:
        """``incoming`` is at its end.

        Raises:
            StreamBroken: an output had not said why it ended.
        """
        self._exhausted = True
        if not self.counter.end():
            raise self._broken("the stream ended without a finish reason")

    def replay(self, held: Sequence[Chunk], *, without_logprobs: bool) -> None:
        """Let what was read and held back come once more, in front of what is still to come."""
        take = self.take

        def again(arrived: Sequence[Chunk]) -> Sequence[Chunk]:
            chunks = arrived if arrived is held else take(arrived)
            if without_logprobs:
                for chunk in chunks:
                    chunk.logprobs = ()
            return chunks

        self.take = again
        self.incoming = _replayed(held, self.incoming)
        self._exhausted = False

    def _take_and_tell(self, arrived: Sequence[Chunk]) -> Sequence[Chunk]:
        """Count, and let the observer hear what counts."""
        kept = self.counter.take(arrived)
        if (hears := self._span.hears) is not None:
            for chunk in kept:
                hears(chunk)
        return kept

    def _stop_waiting(self) -> None:
        self.timed_out = self.counter.cut_short()

    def _broken(self, message: str) -> StreamBroken:
        backend = self._model.backend
        return StreamBroken(message, backend=backend.name, model=backend.model)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Settle it; once is enough."""
        if self.record is not None:
            return
        refused = isinstance(exc, BackendError) and not isinstance(exc, StreamBroken | NoAnswer)
        self._is_refused = refused and self.counter.first_s is None
        try:
            if self._is_dispatched and not self._exhausted:
                await self._close()
        finally:
            record = self._settle(exc)
            try:
                self._span.end(record)
                self._tell_backend(exc)
            finally:
                await self._end(record)

    async def _close(self) -> None:
        """Close a stream that has more to give; what takes long continues in the background."""
        if self.counter.complete:  # it has not: there is nothing to wait for
            try:
                await self.incoming.aclose()
            except Exception as error:  # noqa: BLE001  # a backend of the user's may raise anything
                closing_failed(error)
            return
        lifetime, closing = self._flow.parts.lifetime, asyncio.create_task(carried(self._close_read))
        if self._reading is not None and not self._reading.done():
            lifetime.beside(closing)  # it was told to end, and waited for
        else:
            await lifetime.within(closing)

    async def _close_read(self) -> None:
        """Close the stream when nothing reads it any more."""
        if self._reading is not None and not self._reading.done():
            await asyncio.wait({self._reading})
        await self.incoming.aclose()

    def _tell_backend(self, exc: BaseException | None) -> None:
        if self._permit is None:
            return
        if isinstance(exc, NoAnswer):
            exc = None  # its server answered
        if exc is None and self.counter.first_s is None and not self.counter.complete:
            exc = TimeoutError()  # nothing came, and nobody waits any more: that speaks neither for it nor against it
        self._model.backend.attempt_ends(self._permit[0], exc)

    async def _end(self, record: Attempt) -> None:
        try:
            if self._charge is not None and self._is_dispatched:
                await self._flow.settled(partial(self._charge.settle, record.kind, record.usage, record.usd))
            elif self._charge is not None:
                await self._flow.settled(self._charge.release)
        finally:
            if not self._is_announced:  # it ended before it was run
                self._announce()
            self._flow.tell(ended(record))

    def _settle(self, exc: BaseException | None) -> Attempt:
        flow, model, counter = self._flow, self._model, self.counter
        duration_s = flow.budget.elapsed_s() - self._begun_s
        is_unbilled = self._is_unbilled
        usage = StageUsage() if is_unbilled else counter.usage(self._prompt.likely)
        reported_usd = counter.reported_usd
        if reported_usd is not None and model.backend.own_price is not None:
            reported_usd = None
        usd = flow.parts.prices.cost(
            model.name,
            usage,
            seconds=duration_s,
            reported_usd=reported_usd,
            backend_price=model.backend.price,
        )
        flow.budget.settle(self._held, tokens=usage.total_tokens, usd=usd)
        served = counter.served or _NOBODY
        error_type = None
        if exc is not None:
            error_type = type(exc).__name__ if isinstance(exc, Exception) else "cancelled"
        self.record = Attempt(
            model.stage,
            model.name,
            self._number,
            usage,
            usd,
            self._begun_s,
            duration_s,
            None if counter.first_s is None else counter.first_s - flow.budget.started - self._begun_s,
            error_type,
            kind=self.kind,
            limit_tokens=self._call.max_tokens * self._call.n,
            honoured=is_unbilled or counter.honours(usage.output_tokens),
            discarded=self.discarded,
            truncated=counter.truncated,
            finish_reasons=counter.finish_reasons,
            overlap_tokens=0 if self._needed_tokens is None else max(0, usage.output_tokens - self._needed_tokens),
            queued_s=self._queued_s,
            response_model=served.model,
            response_id=served.id,
            error=cause(exc, model.backend) if isinstance(exc, Exception) else None,
        )
        flow.draft.account.attempts.append(self.record)
        return self.record


def _nothing_to_raise() -> None:
    """The result of reading that went well."""


def _end(over: asyncio.Future[None], _: object = None) -> None:
    if not over.done():
        over.set_result(None)


async def _one_step() -> AsyncGenerator[Sequence[Chunk], None]:
    yield ()


async def _replayed(
    held: Sequence[Chunk], rest: AsyncGenerator[Sequence[Chunk], None]
) -> AsyncGenerator[Sequence[Chunk], None]:
    try:
        yield held
        async for arrived in rest:
            yield arrived
    finally:
        await rest.aclose()

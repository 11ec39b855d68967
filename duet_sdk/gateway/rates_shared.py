"""Requests and tokens a minute that workers and replicas share, through the Redis of their ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from duet_sdk.budget import BaseLedger, OpenOnFailure, RedisLedger
from duet_sdk.client import AsyncDuetClient
from duet_sdk.errors import ConfigError, LedgerError
from duet_sdk.gateway.rates import Bucket, LocalRates, Rates, Wait, Window
from duet_sdk.gateway_policy import RatesOnFailure

_log = logging.getLogger(__name__)
_LUA: Final = Path(__file__).with_name("rates.lua")
_ANSWER_S: Final = 1.0
"""Longest wait for the store, which answers within a millisecond: a count is not worth a longer one."""
_REST_S: Final = 5.0
"""How long a store that failed is left alone, as the ledger's own rest: one request in five seconds waits for it."""
_MICROSECONDS: Final = 1_000_000
"""In a second: the script counts in whole numbers, as Redis hands them back."""


class SharedRates:
    """Counts in a Redis, one call for each request and one for its tokens.

    A call whose answer was lost is repeated, and may then count a request twice.

    Args:
        ledger: whose Redis it is; it stays the caller's to close.
        on_failure: ``process`` counts in this process alone while the store fails; ``refuse`` stops requests.
        clock: seconds, never going back, of this process.
    """

    def __init__(
        self, ledger: RedisLedger, *, on_failure: RatesOnFailure, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._script = ledger.beside(_LUA)
        self._local = LocalRates(clock) if on_failure == "process" else None
        self._clock = clock
        self._rests_until: float | None = None

    async def take(self, windows: Sequence[Window], bucket: Bucket | None) -> Wait | None:
        """As `Rates.take`."""
        counted = [part for window in windows for part in (window.name, window.most)]
        asked = ("", 0, 0) if bucket is None else (bucket.name, bucket.most, bucket.wanted)
        if not self._rests():
            try:
                answer = await self._call("take", len(windows), *counted, *asked)
            except LedgerError as error:
                self._failed(error)
            else:
                return Wait(str(answer[0]), int(answer[1]) / _MICROSECONDS) if answer else None
        if self._local is None:
            raise LedgerError("the store of the limits a minute cannot be reached")
        return await self._local.take(windows, bucket)

    async def settle(self, bucket: Bucket, tokens: int) -> None:
        """As `Rates.settle`; what a failing store has not heard of is not booked there."""
        if not self._rests():
            try:
                await self._call("settle", bucket.name, bucket.most, bucket.wanted - tokens)
            except LedgerError as error:
                self._failed(error)
            else:
                return
        if self._local is not None:
            await self._local.settle(bucket, tokens)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._script.aclose()

    async def _call(self, *arguments: str | int) -> list[Any]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._script.call(*arguments)
        except TimeoutError:
            raise LedgerError(f"no answer within {_ANSWER_S:g} s") from None
        if self._rests_until is not None:
            self._rests_until = None
            _log.warning("the store of the limits a minute answers again")
        return answer

    def _rests(self) -> bool:
        return self._rests_until is not None and self._clock() < self._rests_until

    def _failed(self, error: LedgerError) -> None:
        if self._rests_until is None:
            what = "requests are refused" if self._local is None else "each process counts by itself"
            _log.warning("the limits a minute cannot be shared, and %s until they can: %s", what, error)
        self._rests_until = self._clock() + _REST_S


def rates_of(clients: Iterable[AsyncDuetClient], *, on_failure: RatesOnFailure) -> Rates:
    """Counts on the first Redis among the clients' ledgers, else in this process."""
    for client in clients:
        ledger = _ledger_of(client)
        store = ledger.store if isinstance(ledger, OpenOnFailure) else ledger
        if isinstance(store, RedisLedger):
            return SharedRates(store, on_failure=on_failure)
    return LocalRates()


def _ledger_of(client: AsyncDuetClient) -> BaseLedger | None:
    try:
        return client.ledger
    except ConfigError:  # it has none
        return None

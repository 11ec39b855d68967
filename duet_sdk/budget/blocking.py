"""A ledger for code without an event loop: its calls, without ``await``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from duet_sdk.budget.amount import Amount
from duet_sdk.budget.entry import EntryFacts
from duet_sdk.budget.ledger import BaseLedger, Hold

_Asked = ParamSpec("_Asked")
_Result = TypeVar("_Result")


class Waits(Protocol):
    """Runs work on an event loop elsewhere, and returns its result."""

    def __call__(self, work: Coroutine[object, object, _Result], /) -> _Result:
        """The work's result, or its error."""
        ...


# Each call below has the parameters and the docstring of the ledger's own; only the result is no longer awaited. A
# ledger's method is looked up by its name, as a ledger of its own kind may override it.


def _blocking(
    call: Callable[Concatenate[BaseLedger, _Asked], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[BlockingLedger, _Asked], _Result]:
    @wraps(call)
    def wait(self: BlockingLedger, /, *args: _Asked.args, **kwargs: _Asked.kwargs) -> _Result:
        work: Coroutine[Any, Any, _Result] = getattr(self._ledger, call.__name__)(*args, **kwargs)
        return self._wait(work)

    return wait


def _holding(
    call: Callable[Concatenate[BaseLedger, _Asked], Coroutine[Any, Any, Hold]],
) -> Callable[Concatenate[BlockingLedger, _Asked], BlockingHold]:
    make = _blocking(call)

    @wraps(call)
    def wait(self: BlockingLedger, /, *args: _Asked.args, **kwargs: _Asked.kwargs) -> BlockingHold:
        return BlockingHold(make(self, *args, **kwargs), self)

    wait.__signature__ = inspect.signature(call).replace(return_annotation="BlockingHold")  # type: ignore[attr-defined]
    return wait


def _ending(
    call: Callable[Concatenate[BaseLedger, Hold, _Asked], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[BlockingLedger, Hold | BlockingHold, _Asked], None]:
    @wraps(call)
    def wait(self: BlockingLedger, hold: Hold | BlockingHold, /, *args: _Asked.args, **kwargs: _Asked.kwargs) -> None:
        made = hold.made if isinstance(hold, BlockingHold) else hold
        self._wait(getattr(self._ledger, call.__name__)(made, *args, **kwargs))

    return wait


class BlockingLedger:
    """The calls of a `BaseLedger`, from any thread, also one that runs an event loop itself; see `DuetClient.ledger`.

    Parameters, results and errors are those of `BaseLedger`; a client that is closed, or that was made before the
    process was forked, is a ConfigError here as in its other calls.

    >>> from duet_sdk import DuetClient, Limit
    >>> with DuetClient("scripted/17", "scripted/There are 17.", ledger="memory:") as duet:
    ...     duet.ledger.set_limit("tenant:a", Limit(requests=10, window="day"))
    ...     _ = duet.chat("How many primes are below 60?", tenant="a")
    ...     duet.ledger.balance("tenant:a").remaining.requests
    9
    """

    def __init__(self, ledger: BaseLedger, wait: Waits) -> None:
        self._ledger = ledger
        self._wait = wait

    set_limit = _blocking(BaseLedger.set_limit)
    limits = _blocking(BaseLedger.limits)
    balance = _blocking(BaseLedger.balance)
    entries = _blocking(BaseLedger.entries)
    report = _blocking(BaseLedger.report)
    prune = _blocking(BaseLedger.prune)
    hold = _holding(BaseLedger.hold)
    settle = _ending(BaseLedger.settle)
    release = _ending(BaseLedger.release)
    close = _blocking(BaseLedger.aclose)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._ledger).__name__})"


@dataclass(frozen=True, slots=True)
class BlockingHold:
    """A `Hold` that is settled or released without ``await``."""

    made: Hold
    """What was reserved, and where."""
    _ledger: BlockingLedger

    def settle(self, amount: Amount, facts: EntryFacts | None = None) -> None:
        """Book what was really spent and return the rest, as `BaseLedger.settle` does."""
        self._ledger.settle(self.made, amount, facts)

    def release(self) -> None:
        """Return all of it, as `BaseLedger.release` does."""
        self._ledger.release(self.made)

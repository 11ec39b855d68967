"""Enforces one request's `Budget`: what a stage may still spend, before and while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from duet_sdk.errors import BudgetExceeded, DeadlineExceeded
from duet_sdk.policies import ResolvedBudget

SIGNAL_SHARE_OF_DEADLINE = 0.6
"""Of the request's deadline, unless the signal has an earlier one: the larger part, as a reasoner thinks before it
writes; the answer, without which a signal is worth nothing, keeps two fifths."""
_NO_USD: Final = Decimal(0)

UsdOf: TypeAlias = Callable[[int, int], Decimal | None]
"""(input tokens, output tokens) → the most that a call can cost, None where no money limit needs it."""


@dataclass(slots=True, eq=False)
class Reservation:
    """The most that one attempt may spend, reserved until it is settled or released."""

    tokens: int
    usd: Decimal


class RequestBudget:
    """The limits of one request and what is used of them.

    ``spent + held`` never exceeds a limit unless a server bills more than it was allowed to; that excess is booked.
    Times are seconds of a monotonic clock.

    Attributes:
        limits: of this request.
        charged: whether a ledger charges the request, too.

    >>> budget = RequestBudget(ResolvedBudget(total_tokens=100))
    >>> budget.largest_output(40, want=500, usd_of=lambda i, o: None)
    60
    """

    __slots__ = (
        "_held",
        "_held_tokens",
        "_is_limited",
        "charged",
        "clock",
        "counts",
        "deadline",
        "limits",
        "spent_tokens",
        "spent_usd",
        "started",
    )

    def __init__(
        self, limits: ResolvedBudget, *, charged: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.charged = charged
        self.clock = clock
        self.started = clock()
        self.spent_tokens = 0
        self.spent_usd = _NO_USD
        self._held: list[Reservation] = []
        self._held_tokens = 0
        self.deadline = None if limits.deadline_s is None else self.started + limits.deadline_s
        """When the request must be over; None for never."""
        self._is_limited = limits.total_tokens is not None or limits.cost_usd is not None
        self.counts = charged or self._is_limited
        """Whether tokens or money are limited or charged, so that prompts must be counted exactly."""

    @property
    def signal_deadline(self) -> float | None:
        """When the signal must be over: its own limit, or a share of the request's that leaves the generator time."""
        signal_s, whole_s = self.limits.signal_deadline_s, self.limits.deadline_s
        if whole_s is not None and (signal_s is None or signal_s >= whole_s):
            signal_s = whole_s * SIGNAL_SHARE_OF_DEADLINE
        return None if signal_s is None else self.started + signal_s

    @property
    def timed_by(self) -> str:
        """Names of the limits of the signal's time that were set, for advice."""
        named = {"signal_deadline_s": self.limits.signal_deadline_s, "deadline_s": self.limits.deadline_s}
        return " or ".join(name for name, limit_s in named.items() if limit_s is not None)

    def elapsed_s(self) -> float:
        """Seconds since the request began."""
        return self.clock() - self.started

    def left_s(self, until: float | None) -> float | None:
        """Seconds left until that moment, at least 0; None if there is no deadline."""
        if until is None:
            return None
        left_s = until - self.clock()
        return left_s if left_s > 0.0 else 0.0

    def check_deadline(self) -> None:
        """Refuse to go on once the deadline has passed.

        Raises:
            DeadlineExceeded: the request's time is used up.
        """
        if self.deadline is not None and self.clock() >= self.deadline:
            raise self.deadline_error()

    def deadline_error(self) -> DeadlineExceeded:
        """The error that says the request's time is used up."""
        limit, spent = self.limits.deadline_s, self.elapsed_s()
        return DeadlineExceeded(
            f"the request's deadline of {limit:g} s passed after {spent:.2f} s; "
            "raise deadline_s or lower answer_tokens",
            limit=limit,
            spent=spent,
        )

    @property
    def left_tokens(self) -> int | None:
        """Tokens neither spent nor held, None without a limit."""
        if self.limits.total_tokens is None:
            return None
        return self.limits.total_tokens - self.spent_tokens - self._held_tokens

    @property
    def left_usd(self) -> Decimal | None:
        """Money neither spent nor held, None without a limit."""
        if self.limits.cost_usd is None:
            return None
        return self.limits.cost_usd - self.spent_usd - sum((hold.usd for hold in self._held), _NO_USD)

    def largest_output(self, input_tokens: int, *, want: int, usd_of: UsdOf, outputs: int = 1) -> int:
        """The most output tokens, up to ``want`` for each of ``outputs``, that a call of this input can be given.

        Raises:
            BudgetExceeded: not even one token is left; nothing was spent on it.
        """
        if not self._is_limited and want >= 1:
            return want
        fits = want
        if (left := self.left_tokens) is not None:
            fits = min(fits, (left - input_tokens) // outputs)
        if fits >= 1 and (usd := self.left_usd) is not None:
            fits = _bisect(lambda tokens: _at_most(usd_of(input_tokens, tokens * outputs), usd), fits)
        if fits < 1:
            raise self._refusal(input_tokens + outputs, usd_of(input_tokens, outputs))
        return fits

    def largest_signal(
        self,
        input_tokens: int,
        answer_input_tokens: int,
        *,
        want: int,
        want_answer: int,
        signal_usd: UsdOf,
        answer_usd: UsdOf,
    ) -> int:
        """The longest signal, up to ``want`` tokens, that leaves the answer its share of what is left.

        A signal is paid twice: as output of the reasoner and as input of the generator. The answer's share is what it
        wants, but at most half of what the prompts leave.

        Raises:
            BudgetExceeded: no signal and answer of one token each fit; nothing was spent.
        """
        if not self._is_limited:
            return max(1, want)

        def usd_of(signal: int, answer: int) -> Decimal | None:
            first, second = signal_usd(input_tokens, signal), answer_usd(answer_input_tokens + signal, answer)
            return None if first is None or second is None else first + second

        left_tokens, left_usd = self.left_tokens, self.left_usd
        free = None if left_tokens is None else left_tokens - input_tokens - answer_input_tokens
        least = 3  # tokens: one of the signal, paid twice, and one of the answer
        if (free is not None and free < least) or (left_usd is not None and not _at_most(usd_of(1, 1), left_usd)):
            raise self._refusal(input_tokens + answer_input_tokens + least, usd_of(1, 1))
        answer = want_answer if free is None else min(want_answer, free // 2)
        if left_usd is not None:
            prompts = (signal_usd(input_tokens, 0) or _NO_USD) + (answer_usd(answer_input_tokens, 0) or _NO_USD)
            half = prompts + (left_usd - prompts) / 2
            answer = _bisect(lambda tokens: _at_most(usd_of(0, tokens), half), answer)
        answer = max(1, answer)
        signal = want if free is None else min(want, (free - answer) // 2)
        if left_usd is not None:
            signal = _bisect(lambda tokens: _at_most(usd_of(tokens, answer), left_usd), signal)
        return max(1, signal)

    def has_room(self, tokens: int, usd: Decimal | None) -> bool:
        """Whether that much is neither spent nor held."""
        left, left_usd = self.left_tokens, self.left_usd
        return (left is None or tokens <= left) and (left_usd is None or _at_most(usd, left_usd))

    def hold(self, tokens: int, usd: Decimal | None) -> Reservation:
        """Reserve the most that an attempt can spend.

        Raises:
            BudgetExceeded: that much is not left.
        """
        if self._is_limited and not self.has_room(tokens, usd):
            raise self._refusal(tokens, usd)
        held = Reservation(tokens, usd or _NO_USD)
        self._held.append(held)
        self._held_tokens += tokens
        return held

    def settle(self, held: Reservation, *, tokens: int, usd: Decimal | None) -> None:
        """Book what an attempt really spent and return the rest."""
        self._held.remove(held)
        self._held_tokens -= held.tokens
        self.spent_tokens += tokens
        if usd:
            self.spent_usd += usd

    def release(self, held: Reservation) -> None:
        """Return all of it: the attempt never ran."""
        self._held.remove(held)
        self._held_tokens -= held.tokens

    def _refusal(self, tokens: int, usd: Decimal | None) -> BudgetExceeded:
        left = self.left_tokens
        if left is not None and tokens > left:
            limit = self.limits.total_tokens or 0
            return BudgetExceeded(
                f"this request needs at least {tokens} tokens more, {max(0, left)} are left of total_tokens={limit}; "
                "raise total_tokens or send a shorter prompt",
                limit=limit,
                spent=self.spent_tokens,
                asked=tokens,
            )
        left_usd, limit_usd = self.left_usd or _NO_USD, self.limits.cost_usd or _NO_USD
        return BudgetExceeded(
            f"this request asks for {usd:f} USD more, {max(left_usd, _NO_USD):f} is left of cost_usd={limit_usd:f}; "
            "raise cost_usd or send a shorter prompt",
            limit=limit_usd,
            spent=self.spent_usd,
            asked=usd,
        )


def _at_most(usd: Decimal | None, left: Decimal) -> bool:
    return usd is not None and usd <= left


def _bisect(fits: Callable[[int], bool], high: int) -> int:
    """The largest count in 0..high that fits, 0 if none does; what fits at a count fits below it."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low

"""What a request passes before anything of it is read: its key's limits a minute, and the line for a place."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from duet_sdk import errors
from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway.line import Crowded, Line
from duet_sdk.gateway.rates import Bucket, LocalRates, Wait, Window
from duet_sdk.gateway.scope import session_of

if TYPE_CHECKING:
    from duet_sdk.gateway.keys import Caller
    from duet_sdk.gateway.line import Ticket
    from duet_sdk.gateway.rates import Rates
    from duet_sdk.gateway_policy import GatewayPolicy

_log = logging.getLogger(__name__)
_FIRST_TOKENS: Final = 1000
"""Tokens that a key's first request holds: a short question through both stages. Later ones hold what is usual."""
_NEWEST: Final = 0.2
"""Share of the newest request in what is usual: some ten requests make it."""
_CROWDED_S: Final = 1
"""Seconds after which to come back to a full line: soon, as a refusal costs next to nothing, and clients obey it."""
_UNSPENT: Final = (
    errors.InvalidRequest,
    errors.ContextOverflow,
    errors.BoundaryRefused,
    errors.LedgerError,
    errors.ConfigError,
    errors.ConnectFailed,
)
"""Ends of a request that has taken no tokens."""


class Admission:
    """Lets requests in, each after the other.

    Args:
        policy: its places, its line and its deadline.
        rates: where requests and tokens are counted.
        before: of the settings that these replace; what it has counted in this process goes on.
    """

    def __init__(self, policy: GatewayPolicy, rates: Rates, *, before: Admission | None = None) -> None:
        numbers = {"places": policy.at_once, "most": policy.queue}
        self.line: Line = Line(**numbers, wait_s=policy.queue_s) if before is None else before.line
        if before is not None:  # requests of before and of now share the places
            self.line.change(**numbers, wait_s=policy.queue_s)
        is_local = before is not None and isinstance(rates, LocalRates) and isinstance(before.rates, LocalRates)
        self.rates: Rates = before.rates if before is not None and is_local else rates
        self._policy = policy
        self.usual: dict[str, float] = {} if before is None else before.usual
        """Caller → tokens that its requests take."""

    @asynccontextmanager
    async def admitted(self, headers: Mapping[bytes, bytes], caller: Caller) -> AsyncIterator[Admitted]:
        """Count a request and put it into the line, until it is over.

        Raises:
            Refused: 429, a limit a minute is used up, or the line is full; 504, it took longer than is allowed.
            LedgerError: the store of the limits a minute fails, and requests are to be refused then.
        """
        try:
            ticket = self.line.enter(caller.id, caller.rights.priority)
        except Crowded:
            raise _crowded() from None
        one = Admitted(self, ticket, caller)
        try:
            async with asyncio.timeout(self._policy.deadline_s) as deadline:
                one.deadline_s = deadline.when()
                await one.begin(session_of({}, headers, caller))
                yield one
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise _over(self._policy.deadline_s) from None
            is_spent = isinstance(error, errors.BudgetExceeded) and error.reply is None
            if is_spent or isinstance(error, _UNSPENT) or (isinstance(error, Refused) and error.status < 500):
                await one.took(0)
            raise
        finally:
            ticket.leave()

    async def aclose(self) -> None:
        """Close the store of the limits."""
        await self.rates.aclose()

    async def count(self, caller: Caller, *, session: str | None, is_new: bool) -> Bucket | None:
        """Count a request, or its session alone; what it holds of its key's tokens.

        Raises:
            Refused: 429.
            LedgerError: as `admitted`.
        """
        rights, windows, bucket = caller.rights, [], None
        if is_new and rights.requests_per_minute is not None:
            windows.append(Window(f"key:{caller.id}", rights.requests_per_minute))
        most = rights.session_requests_per_minute or self._policy.session_requests_per_minute
        if session is not None and most is not None:
            windows.append(Window(f"session:{caller.id}:{session}", most))
        if is_new and rights.tokens_per_minute is not None:
            held = max(1, math.ceil(self.usual.get(caller.id, _FIRST_TOKENS)))
            bucket = Bucket(f"key:{caller.id}", rights.tokens_per_minute, held)
        if windows or bucket is not None:
            wait = await self.rates.take(windows, bucket)
            if wait is not None:
                raise _too_many(wait, windows, bucket)
        return bucket

    async def settle(self, caller: Caller, bucket: Bucket, tokens: int) -> None:
        """Book what a request took, 0 for one that never began."""
        if tokens:
            before = self.usual.get(caller.id, tokens)
            self.usual[caller.id] = before + (tokens - before) * _NEWEST
        try:
            await self.rates.settle(bucket, tokens)
        except errors.LedgerError as error:  # the answer is there: what it took is not worth losing it
            _log.warning("tokens of a request were not counted: %s", error)


class Admitted:
    """A request that was let in.

    Attributes:
        deadline_s: the loop's time when it must be over; None for never.
    """

    def __init__(self, admission: Admission, ticket: Ticket, caller: Caller) -> None:
        self._admission, self._ticket, self._caller = admission, ticket, caller
        self._bucket: Bucket | None = None
        self._has_session = False
        self.deadline_s: float | None = None

    async def begin(self, session: str | None) -> None:
        """Count it, with its session where the headers tell it."""
        self._has_session = session is not None
        self._bucket = await self._admission.count(self._caller, session=session, is_new=True)

    async def turn(self) -> None:
        """Wait for a place.

        Raises:
            Refused: 429, none came in time.
        """
        try:
            await self._ticket.turn()
        except Crowded:
            raise _crowded() from None

    async def belongs_to(self, session: str | None) -> None:
        """Count it in the session that its body names, unless the headers told one.

        Raises:
            Refused: 429.
        """
        if session is not None and not self._has_session:
            await self._admission.count(self._caller, session=session, is_new=False)

    async def took(self, tokens: int) -> None:
        """Book its tokens; without this they stay what was held."""
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            await self._admission.settle(self._caller, bucket, tokens)

    async def broke_off(self, tokens: int) -> None:
        """Book the tokens of one that ended early: at least what it held, as not all of them may be known."""
        if self._bucket is not None:
            await self.took(max(tokens, self._bucket.held))

    def left_s(self) -> float | None:
        """Seconds that are left of its time."""
        return None if self.deadline_s is None else self.deadline_s - asyncio.get_running_loop().time()


def _too_many(wait: Wait, windows: list[Window], bucket: Bucket | None) -> Refused:
    window = next((window for window in windows if window.name == wait.name), None)
    if window is None:
        what = f"this key may use {0 if bucket is None else bucket.most} tokens a minute"
    elif window.name.startswith("session:"):
        what = f"a session may begin {window.most} requests a minute"
    else:
        what = f"this key may begin {window.most} requests a minute"
    return _later("rate_limit_exceeded", what, max(1, math.ceil(wait.wait_s)))


def _over(most_s: float) -> Refused:
    what = f"the request took longer than {most_s:g} s, the most that is allowed here"
    return Refused(504, "deadline_exceeded", what, kind="server_error", headers=NOT_AGAIN)


def _crowded() -> Refused:
    return _later("overloaded", "too many requests are waiting here", _CROWDED_S)


def _later(code: str, what: str, wait_s: int) -> Refused:
    header = (b"retry-after", str(wait_s).encode())
    return Refused(429, code, f"{what}: come back in {wait_s} s", kind="rate_limit_error", headers=(header,))

"""Who is answered next where all places are taken: a bounded line, fair between keys."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final

from duet_sdk.gateway_key import Priority

SHARES: Final[Mapping[Priority, int]] = {"high": 16, "normal": 4, "low": 1}
"""How many places a class gets where all wait: four times those of the next, so that it goes first, and the lowest
still gets one in twenty-one."""


class Crowded(Exception):
    """There is no room in the line, or a place did not come in time."""


class Ticket:
    """One request on its way through the line; made by `Line.enter`, given back by `leave`.

    Attributes:
        caller: whose it is.
        priority: its class.
    """

    def __init__(self, line: Line, caller: str, priority: Priority) -> None:
        self._line = line
        self.caller = caller
        self.priority: Final = priority
        self.state: str = "here"
        """``here``, ``waiting``, ``running``, then ``gone``."""
        self.called: asyncio.Future[None] | None = None

    async def turn(self) -> None:
        """Wait for a place; one that is cancelled meanwhile leaves the line.

        Raises:
            Crowded: none came in time, or this one had to make room for another caller.
        """
        await self._line.wait(self)

    def leave(self) -> None:
        """Give the place back, or leave the line; harmless where it has left."""
        self._line.leave(self)


class Line:
    """Places for requests that run at once, and a line before them.

    Within a class callers take turns, each with its oldest request; classes share the places by `SHARES`. Where the
    line is full, the newest request of whoever has most in it gives way to one who has less, so that
    nobody fills it alone.

    Args:
        places: requests that run at once.
        most: requests that may wait, or whose body is being read, beyond the free places.
        wait_s: longest wait for a place.
    """

    def __init__(self, *, places: int, most: int, wait_s: float) -> None:
        self._places, self._most, self._wait_s = places, most, wait_s
        self._here: dict[str, dict[Ticket, None]] = {}
        """Caller → its requests that do not run yet, the oldest first."""
        self._waiting: dict[Priority, OrderedDict[str, deque[Ticket]]] = {name: OrderedDict() for name in SHARES}
        """Class → callers in the order of their turns → their requests."""
        self._passed: dict[Priority, float] = dict.fromkeys(SHARES, 0.0)
        """Class → what it has had by its share: the lowest is next."""
        self._reached = 0.0
        """What the class that was called last had: one that comes anew begins here, and claims nothing for the past."""
        self.running = 0
        """Requests that have a place."""
        self.waiting = 0
        """Requests that wait for one."""

    def change(self, *, places: int, most: int, wait_s: float) -> None:
        """Go on with other numbers; whoever runs above them keeps the place."""
        self._places, self._most, self._wait_s = places, most, wait_s
        self._call()

    def enter(self, caller: str, priority: Priority) -> Ticket:
        """Come in, before anything of the request is read.

        Raises:
            Crowded: the line is full, and nobody has more in it than this caller.
        """
        if self.running + sum(map(len, self._here.values())) >= self._places + self._most:
            self._make_room(caller)
        ticket = Ticket(self, caller, priority)
        self._here.setdefault(caller, {})[ticket] = None
        return ticket

    def _make_room(self, caller: str) -> None:
        most = max(self._here, key=lambda name: len(self._here[name]), default=caller)
        if len(self._here.get(most, ())) <= len(self._here.get(caller, ())) + 1:
            raise Crowded
        newest = next(reversed(self._here[most]))
        if newest.called is not None and not newest.called.done():
            newest.called.set_exception(Crowded())
            newest.called.exception()  # heard, also where its task is cancelled before it looks
        self.leave(newest)

    async def wait(self, ticket: Ticket) -> None:
        """As `Ticket.turn`."""
        if ticket.state != "here":
            raise Crowded
        if self.running < self._places and not self.waiting:
            self._place(ticket)
            return
        ticket.state, ticket.called = "waiting", asyncio.get_running_loop().create_future()
        callers = self._waiting[ticket.priority]
        if not callers:
            self._passed[ticket.priority] = max(self._passed[ticket.priority], self._reached)
        callers.setdefault(ticket.caller, deque()).append(ticket)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await ticket.called
        except TimeoutError:
            self.leave(ticket)
            raise Crowded from None
        except BaseException:
            self.leave(ticket)
            raise

    def leave(self, ticket: Ticket) -> None:
        """As `Ticket.leave`."""
        state, ticket.state = ticket.state, "gone"
        if state == "gone":
            return
        if state == "running":
            self.running -= 1
            self._call()
            return
        self._forget(ticket)
        if state == "waiting":
            callers = self._waiting[ticket.priority]
            callers[ticket.caller].remove(ticket)
            if not callers[ticket.caller]:
                del callers[ticket.caller]
            self.waiting -= 1

    def _call(self) -> None:
        """Give free places to who is next."""
        while self.running < self._places and self.waiting:
            name = min((name for name in SHARES if self._waiting[name]), key=self._passed.__getitem__)
            self._reached = self._passed[name]
            self._passed[name] += 1 / SHARES[name]
            callers = self._waiting[name]
            caller, tickets = callers.popitem(last=False)
            ticket = tickets.popleft()
            if tickets:
                callers[caller] = tickets  # behind all others
            self.waiting -= 1
            self._place(ticket)
            if ticket.called is not None and not ticket.called.done():
                ticket.called.set_result(None)

    def _place(self, ticket: Ticket) -> None:
        self._forget(ticket)
        ticket.state = "running"
        self.running += 1

    def _forget(self, ticket: Ticket) -> None:
        own = self._here[ticket.caller]
        del own[ticket]
        if not own:
            del self._here[ticket.caller]

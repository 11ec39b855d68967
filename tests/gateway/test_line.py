"""The line before the places: bounded, fair between keys, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.gateway.line import SHARES, Crowded, Line, Ticket
from duet_sdk.gateway_key import Priority


class Waiters:
    """Requests in a line, and the order in which they got their places."""

    def __init__(self, *, places: int = 1, most: int = 1000, wait_s: float = 60) -> None:
        self.line = Line(places=places, most=most, wait_s=wait_s)
        self.order: list[Ticket] = []
        self.tasks: dict[Ticket, asyncio.Task[None]] = {}

    async def come(self, caller: str, priority: Priority = "normal") -> Ticket:
        ticket = self.line.enter(caller, priority)
        self.tasks[ticket] = asyncio.create_task(self._turn(ticket))
        await self.settle()
        return ticket

    async def _turn(self, ticket: Ticket) -> None:
        await ticket.turn()
        self.order.append(ticket)

    async def leave(self, ticket: Ticket) -> None:
        ticket.leave()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(4):  # steps of the loop between a place that is free and the task that has it
            await asyncio.sleep(0)

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for ticket in self.tasks:
            ticket.leave()
        assert (self.line.running, self.line.waiting, self.line._here) == (0, 0, {})


async def served(waiters: Waiters, first: Ticket) -> list[str]:
    """The callers in the order in which the one place goes from one to the next."""
    at, ticket = len(waiters.order), first
    while True:
        await waiters.leave(ticket)
        if len(waiters.order) == at:
            return [ticket.caller for ticket in waiters.order[1:]]
        ticket, at = waiters.order[-1], len(waiters.order)


async def test_callers_take_turns_however_many_requests_one_of_them_has() -> None:
    waiters = Waiters()
    first = await waiters.come("z")
    for caller in "aaaaabbc":
        await waiters.come(caller)
    assert "".join(await served(waiters, first)) == "abcabaaa"
    await waiters.end()


async def test_a_caller_gets_its_places_in_the_order_of_its_requests() -> None:
    waiters = Waiters()
    first = await waiters.come("a")
    come = [await waiters.come("a") for _ in range(4)]
    await served(waiters, first)
    assert waiters.order[1:] == come
    await waiters.end()


async def test_a_higher_class_goes_first_and_the_lowest_does_not_wait_for_ever() -> None:
    waiters = Waiters()
    first = await waiters.come("z")
    classes: list[Priority] = ["low", "normal", "high"]
    for priority in classes:
        for _ in range(60):
            await waiters.come(priority, priority)
    order = (await served(waiters, first))[:42]
    assert Counter(order) == {"high": 32, "normal": 8, "low": 2}
    assert order[0] == "high"
    await waiters.end()


async def test_a_class_that_was_idle_claims_nothing_for_the_past() -> None:
    waiters = Waiters()
    ticket = await waiters.come("h", "high")
    for _ in range(100):
        await waiters.come("h", "high")
        await waiters.leave(ticket)
        ticket = waiters.order[-1]
    for _ in range(20):
        await waiters.come("l", "low")
        await waiters.come("h", "high")
    order = (await served(waiters, ticket))[100:]
    assert order[:17].count("l") <= 2
    await waiters.end()


async def test_a_full_line_refuses_and_its_fullest_caller_makes_room_for_another() -> None:
    waiters = Waiters(places=1, most=4)
    await waiters.come("a")
    greedy = [await waiters.come("a") for _ in range(4)]
    with pytest.raises(Crowded):
        waiters.line.enter("a", "normal")
    await waiters.come("b")
    with pytest.raises(Crowded):
        await waiters.tasks[greedy[-1]]
    assert not waiters.tasks[greedy[-2]].done()
    await waiters.come("b")
    assert waiters.line.waiting == 4
    with pytest.raises(Crowded):  # both have two
        waiters.line.enter("b", "high")
    await waiters.end()


async def test_a_request_whose_body_is_still_read_makes_room_too() -> None:
    waiters = Waiters(places=1, most=2)
    reading = [waiters.line.enter("a", "normal") for _ in range(3)]
    await waiters.come("b")
    with pytest.raises(Crowded):
        await reading[-1].turn()
    for ticket in reading:
        ticket.leave()
    await waiters.end()


async def test_who_waits_too_long_is_refused_and_leaves() -> None:
    waiters = Waiters(wait_s=0.01)
    await waiters.come("a")
    late = await waiters.come("b")
    with pytest.raises(Crowded):
        await waiters.tasks[late]
    assert waiters.line.waiting == 0
    await waiters.end()


async def test_who_leaves_while_it_waits_leaves_the_line() -> None:
    waiters = Waiters()
    first = await waiters.come("a")
    gone, next_one = await waiters.come("b"), await waiters.come("c")
    waiters.tasks[gone].cancel()
    await waiters.settle()
    assert waiters.line.waiting == 1
    await waiters.leave(first)
    assert waiters.order[-1] is next_one
    await waiters.end()


async def test_a_place_that_comes_as_its_task_is_cancelled_goes_to_the_next() -> None:
    waiters = Waiters()
    first = await waiters.come("a")
    gone, next_one = await waiters.come("b"), await waiters.come("c")
    first.leave()
    waiters.tasks[gone].cancel()
    await waiters.settle()
    assert waiters.order[-1] is next_one
    await waiters.end()


STEPS = st.lists(
    st.tuples(st.just("come"), st.sampled_from("abc"), st.sampled_from(["normal", "normal", "low"]))
    | st.tuples(st.just("leave"), st.integers(0, 20), st.none())
    | st.tuples(st.just("cancel"), st.integers(0, 20), st.none()),
    max_size=60,
)


@given(STEPS, st.integers(1, 3), st.integers(0, 6))
async def test_the_line_is_bounded_in_order_and_fair_whatever_comes(
    steps: list[tuple[Any, ...]], places: int, most: int
) -> None:
    waiters = Waiters(places=places, most=most)
    running: list[Ticket] = []
    waiting: list[Ticket] = []
    passed: Counter[tuple[str, Priority]] = Counter()
    """(caller, class) → places that others of its class got, each more than once, while it waited."""
    for kind, value, priority in steps:
        if kind == "come":
            try:
                ticket = await waiters.come(value, priority)
            except Crowded:
                assert len(running) + len(waiting) == places + most
                continue
            waiting.append(ticket)
        elif kind == "leave" and running:
            await waiters.leave(running.pop(value % len(running)))
        elif kind == "cancel" and waiting:
            gone = waiting.pop(value % len(waiting))
            waiters.tasks[gone].cancel()
            await waiters.settle()
        waiting = [ticket for ticket in waiting if ticket.state != "gone"]  # some had to make room
        for ticket in [ticket for ticket in waiters.order if ticket in waiting]:
            waiting.remove(ticket)
            running.append(ticket)
            same = [one for one in waiting if (one.caller, one.priority) == (ticket.caller, ticket.priority)]
            assert not any(waiters_index(waiters, one) < waiters_index(waiters, ticket) for one in same)
            passed[ticket.caller, ticket.priority] = 0
            others = {one.caller for one in waiting if one.priority == ticket.priority} - {ticket.caller}
            for caller in others:
                passed[caller, ticket.priority] += 1
                assert passed[caller, ticket.priority] <= 3 * 2, "two others take turns with it"
        for caller, of_class in list(passed):
            if not any((one.caller, one.priority) == (caller, of_class) for one in waiting):
                del passed[caller, of_class]
        assert waiters.line.running == len(running) <= places
        assert waiters.line.waiting == len(waiting) <= most
        assert not waiting or len(running) == places, "a place is free, and somebody waits"
    await waiters.end()


def waiters_index(waiters: Waiters, ticket: Ticket) -> int:
    return list(waiters.tasks).index(ticket)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(list(SHARES))), min_size=1, max_size=80))
async def test_everybody_who_waits_gets_a_place_within_the_shares(come: list[tuple[str, Priority]]) -> None:
    """Of any 21 places that become free while all classes wait, each gets its share; none is left out."""
    waiters = Waiters()
    first = await waiters.come("z")
    for caller, priority in come:
        await waiters.come(caller, priority)
    at, ticket, order = 1, first, []
    while True:
        await waiters.leave(ticket)
        if len(waiters.order) == at:
            break
        ticket, at = waiters.order[-1], len(waiters.order)
        order.append(ticket.priority)
    assert len(order) == len(come)
    left = Counter(priority for _, priority in come)
    since = dict.fromkeys(SHARES, 0)
    for priority in order:
        left[priority] -= 1
        since[priority] = 0
        for other in SHARES:
            if other != priority and left[other]:
                since[other] += 1
                assert since[other] <= sum(SHARES.values()) // SHARES[other] + len(SHARES)
    await waiters.end()

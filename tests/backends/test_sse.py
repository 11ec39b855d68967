"""Server-sent events, cut out of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_sdk.backends.server.sse import EventParser, LineTooLong

EVENTS = ['{"a": "ä 🙂"}', "[DONE]", '{"b":\n1}']


@given(
    events=st.lists(st.sampled_from(EVENTS) | st.text("ab é🙂{}:", min_size=1), max_size=6),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    noise=st.sampled_from(["", ": ping\n", "event: message\nid: 4\nretry: 10\n", "data\n", "\n\n"]),
    space=st.sampled_from(["", " "]),
    cuts=st.lists(st.integers(0, 400), max_size=40),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(events, newline, noise, space, cuts):
    text = "".join(
        noise + "".join(f"data:{space}{line}\n" for line in event.split("\n")) + "\n"
        for event in events
        if space or not event.startswith(" ")
    )
    data = text.replace("\n", newline).encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parser = EventParser()
    found = [event for start, end in itertools.pairwise(edges) for event in parser.feed(data[start:end])]
    assert [event.decode() for event in (*found, *parser.close())] == [
        event for event in events if space or not event.startswith(" ")
    ]


@pytest.mark.parametrize(
    "piece", [b"data: " + b"x" * (1 << 19), b"data: " + b"x" * (1 << 19) + b"\n", b"x" * (1 << 19)]
)
def test_a_line_or_an_event_without_end_is_given_up(piece):
    parser = EventParser()
    with pytest.raises(LineTooLong):
        [parser.feed(piece) for _ in range(4)]


def test_a_line_that_drips_in_is_not_copied_each_time():
    parser = EventParser()
    data = b"data: " + b"x" * 300_000 + b"\n\n"
    found = [event for at in range(len(data)) for event in parser.feed(data[at : at + 1])]
    assert [len(event) for event in found] == [300_000]

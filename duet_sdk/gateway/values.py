"""How many values a body may have: a body of many small ones takes far more time and memory than its bytes."""

from __future__ import annotations

from typing import Final

from duet_sdk.gateway.errors import NOT_AGAIN, Refused

MOST_SIGNS: Final = 1_000_000
"""Most ``,``, ``[`` and ``{`` of a body, those of its texts among them: a million tokens of code have 400,000, and to
parse that many values takes a tenth of a second, for which all others wait."""
MOST_VALUES: Final = 100_000
"""Most values of a body, objects and lists among them: 4,096 messages and 500 tools have 60,000."""


def check_signs(body: bytes) -> None:
    """Let a body be parsed.

    Raises:
        Refused: 413.
    """
    if len(body) > MOST_SIGNS and body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_SIGNS:
        raise _too_many(f"{MOST_SIGNS} commas and brackets")


def check_values(body: object) -> None:
    """Let a parsed body pass.

    Raises:
        Refused: 413.
    """
    left, waiting = MOST_VALUES, [body]
    while waiting:
        value = waiting.pop()
        inner = value.values() if type(value) is dict else value if type(value) is list else ()
        left -= len(inner)
        if left < 0:
            raise _too_many(f"{MOST_VALUES} values")
        waiting += [one for one in inner if type(one) in (dict, list)]


def _too_many(what: str) -> Refused:
    return Refused(413, "request_too_large", f"the body of a request may have {what} here", headers=NOT_AGAIN)

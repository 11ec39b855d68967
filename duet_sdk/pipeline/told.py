"""Which attempts a request's events have told of, so that each has its beginning and its end there."""

from __future__ import annotations

from duet_sdk.events import AttemptEnded, AttemptStarted, Event
from duet_sdk.receipt import Account
from duet_sdk.types import Stage


class Told:
    """Follows the events of stages that run beside each other: one that is stopped tells no more of itself."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._earlier = len(account.attempts)
        self._started: set[tuple[Stage, int]] = set()
        self._ended: set[tuple[Stage, int]] = set()

    def note(self, event: Event) -> None:
        """This one has been told."""
        match event:
            case AttemptStarted():
                self._started.add((event.stage, event.attempt))
            case AttemptEnded():
                self._ended.add((event.stage, event.attempt))

    def missing(self) -> list[Event]:
        """Beginnings and ends of attempts that are over and that no event has told of."""
        told: list[Event] = []
        for record in self._account.attempts[self._earlier :]:
            if (record.stage, record.attempt) not in self._started:
                told.append(AttemptStarted(record.stage, record.model, record.attempt))
            if (record.stage, record.attempt) not in self._ended:
                told.append(AttemptEnded(record.stage, record.model, record.attempt, record.usage, record.error_type))
        return told

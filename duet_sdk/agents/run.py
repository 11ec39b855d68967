"""An agent's run over several requests: its signals, the limit on the reasoner's calls, and what it has used."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from threading import Lock
from typing import Final

from duet_sdk.agents.history import in_force, question_at, turns, why_ask_again, without_signals
from duet_sdk.gate import Gate, TokenGate
from duet_sdk.receipt import Account
from duet_sdk.reply import GateDecision, RunTotals, Signal, Usage
from duet_sdk.request import Request
from duet_sdk.types import Message, ProviderParts, ToolCall

_UNSURE = "the generator was unsure how to continue"
POLICY = "run"
"""What a gate's decision is called where the run made it."""


def has_tools(request: Request) -> bool:
    """Whether a request belongs to an agent: it offers tools, or has tool results in its history."""
    if request.tools:
        return True
    for message in request.messages:  # noqa: SIM110  # a generator costs more than all else that is asked here
        if message.role == "tool":
            return True
    return False


@dataclass(slots=True)
class Tally:
    """What is remembered about one run."""

    calls: int = 0
    """How often the reasoner was asked."""
    usage: Usage = Usage()
    usd: Decimal | None = Decimal(0)
    signals: dict[tuple[int, str], str] = field(default_factory=dict)
    """The signal behind each turn, by its number and the ids of its tool calls."""
    parts: dict[tuple[int, str], ProviderParts] = field(default_factory=dict)
    """What each turn's model wants back with it, likewise."""
    used_s: float = 0.0


_MOST_PARTS_CHARS: Final = 16 << 20
"""Most that is remembered for callers who drop what providers want back: a few long runs, or hundreds of usual ones."""


class RunMemory:
    """Remembers the runs of a client for callers who drop what its messages carry. Safe in many threads.

    A run is known by tenant, session and user, by both models, by the messages up to its question, and by the ids of
    its first tool calls. Nothing crosses from one tenant to another.

    Args:
        max_entries: runs that are remembered; the least recently used one is evicted.
        idle_s: seconds after its last request until a run is forgotten.
        clock: seconds that only go forward.
    """

    def __init__(
        self, max_entries: int = 1024, *, idle_s: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._idle_s = idle_s
        self._clock = clock
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self._parts: deque[tuple[Tally, tuple[int, str], int]] = deque()  # the oldest first
        self._parts_chars = 0
        self.lock = Lock()

    def find(self, key: str) -> Tally:
        """What is remembered of that run, a new tally where nothing is; call it with the lock held."""
        now = self._clock()
        tally = self._tallies.pop(key, None)
        if tally is None or now - tally.used_s > self._idle_s:
            tally = Tally()
        self.keep(key, tally)
        return tally

    def keep(self, key: str, tally: Tally) -> None:
        """Remember that run; call it with the lock held."""
        tally.used_s = self._clock()
        self._tallies.pop(key, None)
        self._tallies[key] = tally
        while len(self._tallies) > self._max_entries:
            self._tallies.popitem(last=False)

    def keep_parts(self, tally: Tally, turn: tuple[int, str], parts: ProviderParts) -> None:
        """Remember what a turn's model wants back, and forget the oldest of too much; call it with the lock held."""
        tally.parts[turn] = parts
        self._parts.append((tally, turn, len(parts.text)))
        self._parts_chars += len(parts.text)
        while self._parts_chars > _MOST_PARTS_CHARS:
            oldest, key, chars = self._parts.popleft()
            oldest.parts.pop(key, None)
            self._parts_chars -= chars


class AgentRun:
    """The run that a request is a turn of.

    Attributes:
        request: the request, its messages with the run's signals in their places and no others.
        signal: the newest signal of the run, empty if there is none.
        why: what made the reasoner be asked again, empty where nothing did.
        left: the request is over and booked.
    """

    def __init__(self, request: Request, memory: RunMemory, models: Sequence[str]) -> None:
        self._memory = memory
        self._models = tuple(models)
        self._request = request
        self._asked = False
        self.left = False
        self.why = ""
        own = turns(request.messages)
        self._turn = len(own)
        self._tool_turns = sum(bool(request.messages[at].tool_calls) for at in own)
        with memory.lock:
            self._tally = memory.find(self._key(self._first_calls(own))) if own else Tally()
            messages = self._restored(own)
            carried = [message.signal for message in messages if message.signal]
            # After a restart the signals in the history are what is left to count.
            self._tally.calls = max(self._tally.calls, len(carried))
        self.signal = carried[-1] if carried else ""
        self.request = replace(request, messages=messages)

    def decide(self, gate: Gate | TokenGate) -> GateDecision | None:
        """What the run decides about asking the reasoner, before anything else does; None leaves it to the gate."""
        scope = self.request.signal_scope
        if scope is None or not self._turn:
            return None
        used_up = self._tally.calls >= scope.most_calls
        if self.signal:
            self.why = why_ask_again(scope, self.request.messages, self.request.tools) or ""
            if not self.why and "low_confidence" in scope.ask_again_on and isinstance(gate, TokenGate) and not used_up:
                self.why = _UNSURE
            if not self.why:
                return GateDecision(ask=False, policy=POLICY, reason="the run already has a signal")
        return self._used_up() if used_up else None

    @property
    def waits_for_doubt(self) -> bool:
        """Whether nothing but the generator's doubt can make the reasoner be asked, so that it is not asked at once."""
        return self.why == _UNSURE

    def allow(self, decision: GateDecision) -> GateDecision:
        """The gate's decision within the run's limit; a call that is allowed counts from now on."""
        if not decision.ask:
            return decision
        scope = self.request.signal_scope
        with self._memory.lock:
            if scope is not None and self._tally.calls >= scope.most_calls:
                return self._used_up()
            self._tally.calls += 1
            self._asked = True
        if not self.why:
            return decision
        reason = f"{self.why}; {decision.reason}" if decision.reason else self.why
        return replace(decision, policy=POLICY, reason=reason)

    def guiding(self) -> Signal:
        """The newest signal as one that this request did not pay for."""
        return Signal(text=self.signal)

    def totals(self, account: Account) -> RunTotals:
        """What the run has used, with what this request has used so far."""
        tally = self._tally
        if self.left:
            return RunTotals(tally.calls, self._tool_turns, tally.usage, tally.usd)
        usage, usd = _plus(tally.usage, account.usage()), _sum(tally.usd, account.cost().usd)
        return RunTotals(tally.calls - self._spared(account), self._tool_turns, usage, usd)

    def leave(self, message: Message, account: Account) -> None:
        """Book the request on its run, once, and remember the run for the next one.

        Args:
            message: the reply as the next request's history will have it.
            account: what the request has used.
        """
        tally = self._tally
        with self._memory.lock:
            self.left = True
            tally.calls -= self._spared(account)
            tally.usage, tally.usd = _plus(tally.usage, account.usage()), _sum(tally.usd, account.cost().usd)
            if message.tool_calls:
                turn = self._turn, _ids(message.tool_calls)
                if message.signal:
                    tally.signals[turn] = message.signal
                if message.provider_parts is not None:
                    self._memory.keep_parts(tally, turn, message.provider_parts)
                if not self._turn:
                    self._memory.keep(self._key(message.tool_calls), tally)

    def _spared(self, account: Account) -> int:
        """Calls of the reasoner that were counted but never made: a cache had the signal, or nothing was sent."""
        return int(self._asked and all(attempt.stage != "reasoner" for attempt in account.attempts))

    def _used_up(self) -> GateDecision:
        reason = f"the run has used its limit of {self._tally.calls} calls to the reasoner"
        if self.why:
            reason = f"{self.why}, but {reason}"
        return GateDecision(ask=False, policy=POLICY, reason=reason)

    def _restored(self, own: Sequence[int]) -> tuple[Message, ...]:
        """The messages with the signals and providers' parts that the caller dropped, where they are remembered."""
        messages = list(self._request.messages)
        for turn, at in enumerate(own):
            message, key = messages[at], (turn, _ids(messages[at].tool_calls))
            messages[at] = replace(
                message,
                signal=message.signal or self._tally.signals.get(key),
                provider_parts=message.provider_parts or self._tally.parts.get(key),
            )
        return without_signals(messages) if self._request.signal_scope is None else in_force(messages)

    def _first_calls(self, own: Sequence[int]) -> tuple[ToolCall, ...]:
        calls = (self._request.messages[at].tool_calls for at in own)
        return next((found for found in calls if found), ())

    def _key(self, first_calls: Sequence[ToolCall]) -> str:
        labels, messages = self._request.labels, self._request.messages
        asked = without_signals(messages[: question_at(messages) + 1])
        # repr quotes every text and names every field, so that no two runs read alike.
        facts = repr((labels.tenant, labels.session, labels.user, self._models, asked, _ids(first_calls)))
        return hashlib.sha256(facts.encode()).hexdigest()


def _ids(calls: Sequence[ToolCall]) -> str:
    return repr([call.id for call in calls])


def _plus(one: Usage, other: Usage) -> Usage:
    return Usage(one.reasoner + other.reasoner, one.generator + other.generator)


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one + other

"""One request on the terminal, while it runs: the answer to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

from rich.text import Text

from duet_sdk.cli.figures import short_name, spent
from duet_sdk.cli.terminal import Screen, spinner
from duet_sdk.errors import DuetError
from duet_sdk.events import (
    AnswerDelta,
    AttemptStarted,
    FellBack,
    GateDecided,
    Retried,
    SignalDelta,
    SignalDone,
)

if TYPE_CHECKING:
    from rich.status import Status

    from duet_sdk.events import Event
    from duet_sdk.reply import Reply
    from duet_sdk.sync import SyncRun
    from duet_sdk.types import ServedBy

LastLines = Callable[[Screen, "Reply"], None]
"""Prints the figures below a complete answer."""
_NEXT: Final[dict[ServedBy, str]] = {
    "generator_fallback": "the generator answers alone",
    "reasoner_fallback": "the reasoner answers",
    "fallback_pair": "the fallback pair takes over",
}
"""Who takes over → what happens next."""


def show(run: SyncRun, last_lines: LastLines, *, on_error: LastLines | None = None) -> Reply:
    """Stream one request to the terminal, and return its reply.

    Args:
        run: the request.
        last_lines: prints the figures of one that succeeded.
        on_error: prints those of one that failed; by default a line, where anything was spent.

    Raises:
        DuetError: the request failed.
    """
    display = Display()
    try:
        with run:
            for event in run:
                display.on(event)
        display.finish(run.reply)
    except (DuetError, KeyboardInterrupt):
        display.end_line()
        (on_error or _say_what_was_spent)(display.screen, run.reply)
        raise
    finally:
        display.end_line()
    last_lines(display.screen, run.reply)
    return run.reply


def say_how_it_ended(screen: Screen, reply: Reply) -> None:
    """Say why an answer is not whole, where it is not."""
    if reply.finish_reason not in ("stop", "tool_calls"):
        screen.print(reply.why, style="yellow")


def _say_what_was_spent(screen: Screen, reply: Reply) -> None:
    if reply.usage.total_tokens:
        screen.print(f"spent until then: {spent(reply)}", style="dim", soft_wrap=True)


class Display:
    """The lines of one request.

    Attributes:
        screen: standard error.
        answer: the first answer, as far as it has been shown.
    """

    def __init__(self) -> None:
        self.screen = Screen(stderr=True)
        self.answer = ""
        self._together = _is_same(sys.stdout, sys.stderr)  # else a label of the answer would stand alone
        self._line = ""  # what is written on the line that is not ended yet: "signal", "answer", "answer 2", or nothing
        self._told = ""  # the last error, which tries in a row have in common
        self._waiting: Status | None = None

    def on(self, event: Event) -> None:
        """Show what an event tells."""
        match event:
            case AttemptStarted(model=model):
                self._wait_for(model)
            case GateDecided(decision) if not decision.ask:
                self._say(f"the gate {decision.policy!r} did not ask the reasoner", "dim")
            case SignalDelta(text):
                self._signal(text)
            case SignalDone():
                self._signal_done(event)
            case AnswerDelta(text, 0) if text:
                self._answer(text)
            case Retried(stage, discard, error):
                self._start_over(f"the {stage} is asked again", error, discard=discard)
            case FellBack(stage, served_by, _, discard, error=error):
                self._start_over(f"the {stage} failed, {_NEXT.get(served_by, served_by)}", error, discard=discard)
            case _:
                pass

    def end_line(self) -> None:
        """End what is being written, so that the next text begins a line of its own."""
        self._stop_waiting()
        if self._line == "signal":
            self.screen.print()
        elif self._line:
            _write("\n")
        self._line = ""

    def finish(self, reply: Reply) -> None:
        """End the answer, and say what only the complete reply tells: how it ended, and what else was answered."""
        is_cut = reply.finish_reason == "length"
        cut_here = is_cut and self._line == "answer" and self._together
        if cut_here:
            self.screen.print(f" (cut at {_answer_limit(reply)} tokens)", style="yellow", end="")
        self.end_line()
        if reply.mode == "signal":
            if not self._together:
                _write(reply.signal.text + "\n")
        elif self.answer.strip() != reply.answers[0].strip():
            self.screen.print("that began with thinking; the answer:", style="yellow")
            _write(reply.answers[0].strip() + "\n")
        for number, answer in enumerate(reply.answers[1:], 2):
            self._begin(f"answer {number}", "bold green")
            _write(answer)
            self.end_line()
        if not (cut_here or (is_cut and reply.mode == "signal")):  # else it has been said
            say_how_it_ended(self.screen, reply)

    def _wait_for(self, model: str) -> None:
        self._stop_waiting()
        if self.screen.is_terminal and not self._line:
            self._waiting = spinner(self.screen, f"waiting for {short_name(model)}")
            self._waiting.start()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _signal(self, text: str) -> None:
        self._begin("signal", "bold cyan")
        self.screen.print(text, style="dim", end="", soft_wrap=True)

    def _signal_done(self, event: SignalDone) -> None:
        if self._line != "signal" and (event.signal.text or event.cut):  # a cache has it whole
            self._signal(event.signal.text)
        if event.cut:
            self.screen.print(f" (cut {event.cut})", style="yellow", end="", soft_wrap=True)
        if self._line == "signal":
            self.end_line()
            self.screen.print()

    def _answer(self, text: str) -> None:
        self._begin("answer", "bold green")
        self.answer += text
        _write(text)

    def _begin(self, what: str, style: str) -> None:
        self._stop_waiting()
        if self._line != what:
            self.end_line()
            self._line = what
            if what == "signal" or self._together:
                self.screen.print(Text(f"{what} ", style), end="")

    def _start_over(self, said: str, error: str, *, discard: bool) -> None:
        if discard:
            self.answer = ""
        is_new, self._told = error not in ("", self._told), error
        self._say(f"{said}: {error}" if is_new else said, "yellow")

    def _say(self, text: str, style: str) -> None:
        self.end_line()
        self.screen.print(text, style=style, soft_wrap=True)


def _is_same(one: TextIO, other: TextIO) -> bool:
    """Whether both write to the same terminal, file or pipe."""
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (OSError, ValueError):  # no file at all, or closed
        return False


def _answer_limit(reply: Reply) -> int:
    """Tokens that one of the answers was given."""
    return reply.receipt.attempts[-1].limit_tokens // len(reply.answers)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

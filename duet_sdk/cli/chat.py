"""The command ``duet chat``: a conversation at the terminal, or one whose turns are lines of standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, cast, get_args

from duet_sdk.cli.display import show
from duet_sdk.cli.exporting import exporting
from duet_sdk.cli.figures import print_line, short_name
from duet_sdk.cli.request import RequestOptions, taking
from duet_sdk.cli.terminal import Screen, print_error, reporting
from duet_sdk.errors import DuetError, InvalidRequest
from duet_sdk.types import Message, Mode

if TYPE_CHECKING:
    from duet_sdk.sync import DuetClient

_MODES: Final = get_args(Mode)
_PROMPT: Final = "you> "


@taking(RequestOptions)
def chat(options: RequestOptions) -> None:
    """Talk to a pair, turn by turn; /help lists what can be typed, Ctrl-D leaves."""
    with reporting(), exporting(options.otlp), options.client() as duet:
        talk = Talk(duet, options)
        if sys.stdin.isatty():
            _at_the_terminal(talk)
        else:
            _from_a_file(talk)


class Talk:
    """A conversation, and what its commands change.

    Args:
        duet: who answers; stays the caller's to close.
        options: what the conversation begins with.

    Attributes:
        screen: standard error.
        over: whether the user has said that it is.
    """

    def __init__(self, duet: DuetClient, options: RequestOptions) -> None:
        self.screen = Screen(stderr=True)
        self.over = False
        self._options = options
        self._conversation = duet.conversation(system=options.system)
        self._models = duet.models
        self._commands: dict[str, tuple[Callable[[str], None], str, str]] = {
            "/help": (self._help, "", "show this"),
            "/mode": (self._set_mode, "MODE", f"who is asked: {', '.join(_MODES)}"),
            "/system": (self._set_system, "TEXT", "set the system prompt; alone: show it"),
            "/clear": (self._clear, "", "forget what was said"),
            "/exit": (self._exit, "", "leave"),
        }

    def begin(self) -> None:
        """Say who talks, and how to leave."""
        names = {stage: short_name(name) for stage, name in self._models.items()}
        self.say(
            f"{names['reasoner']} writes signals, {names['generator']} answers; /help lists commands, Ctrl-D leaves"
        )

    def take(self, line: str) -> None:
        """Do what a line says: a command, or a question that is answered. An empty line says nothing.

        Raises:
            DuetError: there is no such command, or the question could not be answered; the conversation is as it was.
        """
        if line.startswith("/"):
            self._obey(line.strip())
        elif text := line.strip():
            show(self._conversation.stream(text, **self._options.call()), print_line)

    def say(self, text: str) -> None:
        """Tell the user, on standard error."""
        self.screen.print(text, style="dim", soft_wrap=True)

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            close = get_close_matches(name, self._commands, n=1)
            hint = f"did you mean {close[0]}?" if close else "/help lists the commands."
            raise InvalidRequest(f"there is no command {name}; {hint} A line to be sent as it is begins with a space")
        command[0](rest.strip())

    def _help(self, _: str) -> None:
        for name, (_do, argument, what) in self._commands.items():
            self.say(f"  {f'{name} {argument}':14} {what}")
        self.say("  Ctrl-C         stop an answer; at the prompt, twice: leave")
        self.say("  Ctrl-D         leave")

    def _set_mode(self, name: str) -> None:
        if name and name not in _MODES:
            raise InvalidRequest(f"there is no mode {name!r}; the modes are {', '.join(_MODES)}")
        if name:
            self._options = replace(self._options, mode=cast("Mode", name))
        self.say(f"mode {self._options.mode}")

    def _set_system(self, text: str) -> None:
        messages = self._conversation.messages
        has_one = bool(messages) and messages[0].role == "system"
        if text:
            messages[: 1 if has_one else 0] = [Message("system", text)]
        self.say(f"system prompt: {messages[0].text}" if text or has_one else "no system prompt; /system TEXT sets one")

    def _clear(self, _: str) -> None:
        messages = self._conversation.messages
        messages[:] = [message for message in messages[:1] if message.role == "system"]
        self.say("forgotten; the next question begins a new conversation")

    def _exit(self, _: str) -> None:
        self.over = True


def _at_the_terminal(talk: Talk) -> None:
    """Read lines with editing and history; errors and Ctrl-C end an answer, not the talk."""
    with suppress(ImportError):  # Windows has none, and its console edits lines itself
        import readline  # noqa: F401  # from here on input() edits lines, and arrow up brings earlier ones back
    talk.begin()
    leaving = False
    while not talk.over:
        try:
            line = _typed(talk.screen)
        except EOFError:
            talk.screen.print()
            return
        except KeyboardInterrupt:
            talk.screen.print()
            if leaving:
                return
            leaving = True
            talk.say("Ctrl-C again, or Ctrl-D, leaves")
            continue
        leaving = False
        try:
            talk.take(line)
        except DuetError as error:
            print_error(error)
        except KeyboardInterrupt:
            talk.say("stopped; the conversation is as it was before this question")


def _from_a_file(talk: Talk) -> None:
    """Take each line of standard input as a turn; the first error ends it, as a program reads what follows."""
    for line in iter(_line, ""):
        talk.take(line)
        if talk.over:
            return


def _typed(screen: Screen) -> str:
    if sys.stdout.isatty():
        return input(_PROMPT)
    screen.print(_PROMPT, end="")
    if not (line := _line()):
        raise EOFError
    return line


def _line() -> str:
    try:
        return sys.stdin.readline()
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not UTF-8 text") from None

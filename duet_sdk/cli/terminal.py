"""What the commands of ``duet`` share: text that is safe on a terminal, and how errors end them.

Models, servers and files write what a command shows. A terminal obeys some characters: they can set its title, its
clipboard, or lines that were printed before. None of them gets there; a pipe may end on a terminal, too, so text is the
same in pipes. JSON is exact: its own notation says what the characters are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from typing import IO, Annotated, Any, TextIO

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.status import Status
from rich.style import Style
from rich.text import Text
from typing_extensions import override

from duet_sdk._shown import OBEYED, shown
from duet_sdk.errors import ConfigError, DuetError, InvalidRequest

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def in_a_line(text: str) -> str:
    r"""As `shown`, with newlines and tabs written likewise, for what is to stay one line.

    >>> in_a_line("tenant:a\nfree")
    'tenant:a\\nfree'
    """
    return shown(text.replace("\n", r"\n").replace("\t", r"\t"))


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON, its text exact: what a terminal would obey has JSON's own notation."""
    plain = "utf" not in (sys.stdout.encoding or "utf").lower()
    written = json.dumps(value, ensure_ascii=plain, indent=indent)
    sys.stdout.write(OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", written) + "\n")


@contextmanager
def safe_streams() -> Iterator[None]:
    """All that is printed inside is made safe: by commands, log messages, warnings and libraries."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the stream's encoding lacks is no reason to end
    with redirect_stdout(_Safe(sys.stdout)), redirect_stderr(_Safe(sys.stderr)):
        yield


class _Safe:
    """A stream that gets text only as `shown` gives it.

    Attributes:
        rich_proxied_file: the stream itself, for rich, which writes control sequences of its own: see `Screen`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(shown(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def write_exactly(text: str) -> None:
    """Print a file's content, exact where it goes to a file or a program."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    stream.write(shown(text) if stream.isatty() else text)


class Screen(Console):
    """Standard error, or standard output, where everything is text: no markup, no emoji codes, nothing to obey.

    Args:
        stderr: whether it is standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    @property
    @override
    def file(self) -> IO[str]:
        """The stream itself: a bar or a spinner puts a proxy of rich's own around what `safe_streams` has put there."""
        file = super().file
        while (inner := getattr(file, "rich_proxied_file", None)) is not None:
            file = inner
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    @override
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The last place where text and the terminal's own control sequences are still told apart."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), _without_link(segment.style))


@contextmanager
def reporting() -> Iterator[None]:
    """Turn an error of ours into a line on standard error and an exit code."""
    try:
        yield
    except DuetError as error:
        print_error(error)
        raise typer.Exit(2 if isinstance(error, ConfigError | InvalidRequest) else 1) from error


def _without_link(style: Style | None) -> Style | None:
    """The style without what rich would make of a foreign OSC 8, which it reads while a bar or a spinner is shown."""
    return style if style is None or style.link is None else style.update_link(None)


def print_error(error: DuetError) -> None:
    """Print an error of ours as one line on standard error."""
    Screen(stderr=True).print(Text.assemble(("error:", "red"), f" {error}"), soft_wrap=True)


def spinner(screen: Screen, text: str) -> Status:
    """What turns while something is waited for; it is shown on a terminal alone, between its `start` and `stop`."""
    frames = "dots" if screen.encoding.startswith("utf") else "line"
    return screen.status(Text(in_a_line(text), "dim"), spinner=frames)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error that appears with the first report."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Screen(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, visible=False)

        def tell(text: str, share: float) -> None:
            bar.update(task, description=in_a_line(text), completed=share, visible=True)

        yield tell

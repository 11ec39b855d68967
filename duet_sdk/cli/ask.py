"""The command ``duet ask``: one question, one answer."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from duet_sdk.cli.display import say_how_it_ended, show
from duet_sdk.cli.exporting import exporting
from duet_sdk.cli.figures import print_table, print_tree
from duet_sdk.cli.request import RequestOptions, taking
from duet_sdk.cli.terminal import AsJson, Screen, print_json, reporting, spinner
from duet_sdk.errors import InvalidRequest
from duet_sdk.messages import MessagesLike
from duet_sdk.options import MOST_ANSWERS, CallOptions
from duet_sdk.reply import Reply
from duet_sdk.sync import DuetClient


@taking(RequestOptions)
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    options: RequestOptions,
    n: Annotated[int, typer.Option("-n", help="Answers from one signal.", min=1, max=MOST_ANSWERS)] = 1,
    trace: Annotated[bool, typer.Option("--trace", help="Print the request's spans: tokens, cost, time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask one question, and show signal and answer as they are written."""
    with reporting(), exporting(options.otlp):
        text = _standard_input() if question == "-" else question
        asked: MessagesLike = text
        if options.system is not None:
            asked = [{"role": "system", "content": options.system}, {"role": "user", "content": text}]
        with options.client() as duet:
            if as_json:
                reply = _whole(duet, asked, options.call(n=n))
                _print_whole(reply, trace=trace)
            else:
                run = duet.stream(asked, **options.call(n=n))
                reply = show(run, print_tree, on_error=print_tree) if trace else show(run, print_table)
        if reply.is_empty:
            raise typer.Exit(1)


def _whole(duet: DuetClient, asked: MessagesLike, call: CallOptions) -> Reply:
    screen = Screen(stderr=True)
    with spinner(screen, "waiting for the answer") if screen.is_terminal else nullcontext():
        return duet.chat(asked, **call)


def _print_whole(reply: Reply, *, trace: bool) -> None:
    print_json(reply.to_dict())
    screen = Screen(stderr=True)
    say_how_it_ended(screen, reply)
    if trace:
        print_tree(screen, reply)


def _standard_input() -> str:
    """The question on standard input, without the newline that ends its last line."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")

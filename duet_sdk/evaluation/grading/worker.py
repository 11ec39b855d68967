"""The process that grades: one line of JSON in, one out, until its input ends.

It is started by its path, so that it needs nothing of its parent but the first line, which says where modules lie and
which grader to be. What a grader prints goes to standard error; standard output is for the grades.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO

LEEWAY_S = 5
"""Seconds past the limit after which the process ends itself: by then its parent has killed it, or is gone."""


def main() -> None:
    """Answer lines until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    sys.path[:] = order["sys_path"]
    try:
        judge = _prepare(order)
    except BaseException as error:  # noqa: BLE001 - the edge of the process: whatever it is, the parent is told
        _write(replies, {"failed": _words(error, graded=False)})
        return
    _write(replies, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        signal.alarm(int(asked["limit_s"]) + LEEWAY_S)
        try:
            reply = judge(asked)
        except Exception as error:  # noqa: BLE001 - as above
            reply = {"fault": _words(error, graded=True)}
        signal.alarm(0)
        _write(replies, reply)


def _prepare(order: dict[str, object]) -> Callable[[dict[str, object]], dict[str, object]]:
    if (megabytes := order.get("memory_mb")) is not None:
        import resource

        size = int(str(megabytes)) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    if order["kind"] == "math":
        from duet_sdk.evaluation.grading.math_answers import judge

        return judge
    from duet_sdk.evaluation.grading.reward_function import load_judge

    return load_judge(str(order["function"]))


def _write(replies: TextIO, reply: dict[str, object]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _words(error: BaseException, *, graded: bool) -> str:
    """The kind of an error; while grading its message may hold the answer's text, so it stays out.

    A function that cannot be found is told by the message alone, which says what is missing.
    """
    if not graded and isinstance(error, (ImportError, AttributeError)) and str(error):
        return str(error)
    return type(error).__name__ if graded else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()

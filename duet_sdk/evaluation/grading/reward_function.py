"""A user's reward function as the worker calls it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from typing import Any


def load_judge(name: str) -> Callable[[dict[str, object]], dict[str, object]]:
    """The function ``module:function``, as one from the worker's question to its reply.

    Raises:
        ImportError: the module cannot be imported.
        AttributeError: it holds nothing of that name.
        TypeError: that is not a function.
    """
    module, _, path = name.partition(":")
    function: Any = importlib.import_module(module)
    for part in path.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{name} is not a function")

    def judge(asked: dict[str, Any]) -> dict[str, object]:
        return {"grades": [_graded(score) for score in call(function, asked["rows"])]}

    return judge


def call(function: Callable[..., Any], rows: list[dict[str, Any]]) -> list[object]:
    """The function's scores for the rows, by TRL's signature.

    Raises:
        TypeError: it did not give one score for each row.
    """
    names = {name for row in rows for name in row["columns"]}
    columns = {name: [row["columns"].get(name) for row in rows] for name in names}
    scores = function(
        prompts=[[{"role": "user", "content": row["question"]}] for row in rows],
        completions=[[{"role": "assistant", "content": row["answer"]}] for row in rows],
        **{name: values for name, values in columns.items() if name not in ("prompts", "completions")},
    )
    if inspect.isawaitable(scores):
        scores = asyncio.run(_awaited(scores))
    scores = list(scores)
    if len(scores) != len(rows):
        raise TypeError(f"{len(scores)} scores for {len(rows)} answers")
    return scores


async def _awaited(scores: Any) -> Any:
    return await scores


def _graded(score: object) -> dict[str, object]:
    if score is None:
        return {"score": 0.0, "read": False}
    try:
        # Scores of numpy and torch are numbers, too; a bool is a usual way to say right or wrong.
        return {"score": float(score), "read": True}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {"fault": f"a score of type {type(score).__name__}; it must be a number in [0, 1]"}

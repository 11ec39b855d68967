"""math-verify as the worker calls it: answers compared as mathematics.

Its own time limits are alarms, which work in a main thread only and cannot stop C code; here the parent kills the whole
process instead.
"""

from __future__ import annotations

import logging
from typing import Any

from duet_sdk.evaluation.grading.plain import final_answer, stated_answer

# It warns that its own limits are off, which they are on purpose.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def judge(asked: dict[str, object]) -> dict[str, object]:
    """Grade ``answer`` by ``reference``, or with no ``answer`` say whether the reference can be read."""
    reference = _parse_reference(str(asked["reference"]))
    if "answer" not in asked:
        # What is only kept as text could be compared with nothing but itself.
        return {"score": 0.0, "read": any(not isinstance(part, str) for part in reference)}
    if not reference:
        return {"score": 0.0, "read": False, "fault": "the reference cannot be read"}
    from math_verify import verify

    # The last stated answer alone: math-verify would take any formula of the text, and of several boxes their set.
    stated = stated_answer(str(asked["answer"]))
    found = [] if stated is None else _parse_stated(stated)
    if not found:
        return {"score": 0.0, "read": False}
    # An answer on which the comparison itself fails is odd, not right: math-verify says False.
    return {"score": float(verify(reference, found, timeout_seconds=None)), "read": True}


def _parse_reference(text: str) -> list[Any]:
    """A reference is mathematics whether or not the data set put it between dollars."""
    return _parse_stated(final_answer(text) or text)


def _parse_stated(text: str) -> list[Any]:
    bare = text.strip().rstrip(".").strip("*$ ")
    return _parse(f"\\boxed{{{bare}}}") or _parse(text)


def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    return list(parse(text, extraction_config=configs, parsing_timeout=None))

"""From the fields that clients send to the limits of a request: the one table of it, which the reference shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from duet_sdk.gateway.errors import Refused
from duet_sdk.policies import Budget

if TYPE_CHECKING:
    from duet_sdk.gateway.names import Choice
    from duet_sdk.gateway_policy import ServedMode

EFFORTS: Final[Mapping[str, float]] = {
    "none": 0,
    "minimal": 0,
    "low": 0.25,
    "medium": 0.5,
    "high": 1,
    "xhigh": 1,
    "max": 1,
}
"""``reasoning_effort`` → the share of the name's limit that the signal may have; at 0 the generator answers alone, and
any other word is read over."""


def limits(
    choice: Choice,
    *,
    effort: object = None,
    signal: int | None = None,
    answer: int | None = None,
    both: int | None = None,
) -> tuple[ServedMode, Budget]:
    """The mode and the budget of a request.

    Args:
        choice: what the model's name stands for.
        effort: how much of the signal's limit is wanted, a key of `EFFORTS`.
        signal: most tokens of the signal.
        answer: most tokens of an answer.
        both: most tokens of signal and answer together.
    """
    share = EFFORTS.get(effort, 1) if isinstance(effort, str) else 1
    most = min(choice.answer_tokens if answer is both is None else choice.most_answer_tokens, answer or 1 << 62)
    if choice.mode != "duet":
        return choice.mode, Budget(answer_tokens=min(most, both or most))
    signal = min(int(choice.signal_tokens * share), signal or choice.signal_tokens)
    if both is not None:
        signal = min(signal, both // 2)  # the answer keeps at least half: without one, a signal is of no use
        most = min(most, both - signal)
    if signal == 0:
        return "generator", Budget(answer_tokens=most)
    return "duet", Budget(signal_tokens=signal, answer_tokens=most)


def tokens(body: Mapping[str, object], name: str) -> int | None:
    """A field that counts tokens; None where it is left out.

    Raises:
        Refused: 400, it is no whole number above 0.
    """
    given = body.get(name)
    if given is None:
        return None
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if type(given) is not int or given < 1:
        raise Refused(400, None, f"{name} must be a whole number of at least 1", param=name)
    return given

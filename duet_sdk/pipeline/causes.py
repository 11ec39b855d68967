"""Why a request went as it did: an error in words that labels may hold, and the sentence of a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from duet_sdk.backends.redaction import one_line
from duet_sdk.errors import BackendError, DuetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duet_sdk.backends.base import Backend
    from duet_sdk.reply import GateDecision
    from duet_sdk.types import Mode, ServedBy

_SERVED: Final[dict[ServedBy, str]] = {
    "pair": "the generator answered from the reasoner's signal",
    "pair_cut": "the generator answered from a signal that was cut",
    "generator": "the generator answered without a signal",
    "generator_fallback": "there was no signal, so the generator answered alone",
    "reasoner": "the reasoner answered",
    "reasoner_fallback": "no generator answered, so the reasoner did",
    "fallback_pair": "the fallback pair answered",
    "cache": "the generator answered from a signal that the cache had kept",
}
_ENDED: Final = {
    "content_filter": "the provider's content filter ended the answer",
    "deadline": "the deadline ended the answer",
    "cancelled": "the request was cancelled",
    "error": "the answer broke off",
}
"""What a finish reason means; one that is not here needs no words."""
_SAYS: Final = " says"
"""Stands before words that DUET has not written: its own errors name the model themselves."""


def cause(error: BaseException, backend: Backend | None = None) -> str:
    """An error in its own words, masked and on one line, with who and where as far as it does not say so itself.

    What is no error of ours may hold anything, and is named by its class.
    """
    if not isinstance(error, DuetError):
        return type(error).__name__
    words = str(error)
    if isinstance(error, BackendError) and (name := f"{error.backend}/{error.model}") not in words:
        url = backend.base_url if backend is not None and backend.model == error.model else None
        at = f" at {url}" if url else ""
        status = f" ({error.status})" if error.status is not None and str(error.status) not in words else ""
        words = f"{name}{at}{status}{_SAYS}: {words}"
    return one_line(words)


def without_foreign_words(said: str) -> str:
    """A cause for where no content may be: words that DUET has not written are left out, who and where stay.

    >>> without_foreign_words("mine/m (500) says: cannot answer 'why?'")
    'mine/m (500)'
    """
    who, colon, _ = said.partition(": ")
    return who.removesuffix(_SAYS) if colon and who.endswith(_SAYS) else said


def why(
    mode: Mode,
    served_by: ServedBy,
    gate: GateDecision | None,
    causes: Sequence[str],
    *,
    finish_reason: str,
    answer_tokens: int,
    misfit: str = "",
) -> str:
    """Why a reply was served as it was, in a sentence.

    Args:
        mode: the request's.
        served_by: who answered.
        gate: what the gate decided.
        causes: what failed on the way, in words.
        finish_reason: how the answer ended.
        answer_tokens: its limit.
        misfit: why it is not of the type that was asked for.
    """
    if mode == "signal":
        served = "only the signal was asked for"
    elif mode != "duet" and served_by == mode:
        served = f"only the {mode} was asked"
    else:
        served = _SERVED[served_by]
    told = []
    if served_by == "generator" and gate is not None and not gate.ask:
        told.append(f"the gate {gate.policy!r} did not ask the reasoner" + (f" ({gate.reason})" if gate.reason else ""))
    told += causes
    if finish_reason == "length":
        told.append(f"the answer was cut at its limit of {answer_tokens} tokens" if mode != "signal" else "it was cut")
    elif finish_reason in _ENDED:
        told.append(_ENDED[finish_reason])
    if misfit:
        told.append(f"the answer does not match response_format ({misfit})")
    return f"{served}: {'; '.join(told)}" if told else served

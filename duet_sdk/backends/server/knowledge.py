"""What is known of a server, and when it is asked anew: servers come back with other flags, under the same address."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from duet_sdk.backends.server.probing import Facts
from duet_sdk.backends.shared import Shared
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConnectFailed,
    ContextOverflow,
    DuetError,
    ModelNotFound,
    Rejected,
)

_log = logging.getLogger(__name__)

GOOD_S: Final = 300.0
"""How long facts are good without any sign: some small questions every five minutes are no load, and no one notices a
changed flag much later than that."""
_DOUBT_S: Final = 60.0
"""Age from which a refusal of any kind casts doubt on them, and pause between two doubts that came to nothing: most
refusals are the caller's fault, and must not double a server's work."""
_OLD_S: Final = 10.0
"""How long facts are good that should be asked anew, where the server does not answer just then."""
_OURS: Final = (
    "thinking_token_budget",
    "return_token_ids",
    "continuous_usage_stats",
    "chat_template_kwargs",
    "enable_thinking",
    "continue_final_message",
    "add_generation_prompt",
    "stream_options",
)
"""Fields that are sent because of the facts; a refusal that names one contradicts them.
Source: `duet_sdk.backends.server.wire` and `fields`."""


class Knowledge:
    """The facts of one server; those who want them while it is asked share the answer.

    Args:
        probe: asks the server.

    Attributes:
        epoch: how often they turned out to have changed; what was derived from them before is stale.
    """

    def __init__(self, probe: Callable[[], Coroutine[Any, Any, Facts]]) -> None:
        self._asking = Shared(probe)
        self._facts: Facts | None = None
        self._answer: Facts | None = None
        self._asked = 0.0
        self._doubted = -_DOUBT_S
        self._good_until = 0.0
        self._is_lost = False
        self.epoch = 0

    @property
    def found(self) -> Facts | None:
        """The facts as far as they are good, None where `get` has to ask; a hot path looks here first."""
        return self._facts if monotonic() < self._good_until else None

    async def get(self) -> Facts:
        """The facts; asks the server where there are none, or none that are still good.

        Raises:
            BackendError: the server does not answer, and nothing is known of it, or it was lost.
            ConfigError: as `duet_sdk.backends.server.probing.probe`.
        """
        if (facts := self.found) is not None:
            return facts
        try:
            answer = await self._asking.get()
        except BackendError as error:
            gone = self._is_lost and isinstance(error, ConnectFailed)
            if self._facts is None or gone or isinstance(error, ModelNotFound | Authentication):
                raise
            self._good_until = monotonic() + _OLD_S  # they are only old, and the call itself decides
            return self._facts
        if answer is not self._answer:
            self._take(answer)
        self._asking.forget()
        return self._facts or answer

    def _take(self, answer: Facts) -> None:
        self._answer, self._asked = answer, monotonic()
        self._good_until, self._is_lost = self._asked + GOOD_S, False
        if answer == self._facts:
            return  # the same objects as before: nothing that was derived from them is stale
        if self._facts is not None:
            _log.info("the server has changed since it was last asked what it can do")
            self.epoch += 1
        self._facts = answer

    def lost(self) -> None:
        """A connection failed or broke: another server may be there the next time."""
        self._good_until, self._is_lost = 0.0, True

    def doubt(self) -> None:
        """Something stands in for the server, which may come back as another; what is known holds where it does not."""
        self._good_until = 0.0

    async def contradicted(self, error: DuetError) -> bool:
        """Ask anew where a refusal may mean that the facts are stale; whether they were.

        Raises:
            ModelNotFound: the model is no longer there; the text names those that are.
        """
        now = monotonic()
        if self._facts is None or now - self._doubted < _DOUBT_S or not self._casts_doubt(error, now - self._asked):
            return False
        before = self.epoch
        self.doubt()
        try:
            await self.get()
        except ModelNotFound:
            raise
        except DuetError:
            return False
        if self.epoch == before:
            self._doubted = now
        return self.epoch != before

    def _casts_doubt(self, error: DuetError, age_s: float) -> bool:
        if isinstance(error, ContextOverflow):
            known = self._facts.can.context_tokens if self._facts is not None else None
            return known is not None and error.context_tokens not in (0, known)
        if not isinstance(error, Rejected | ModelNotFound):
            return False
        return age_s >= _DOUBT_S or any(name in str(error) for name in _OURS)

    def cancel(self) -> None:
        """End the question that is under way on this event loop."""
        self._asking.cancel()

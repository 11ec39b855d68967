"""What keeps one failing endpoint from failing a request: when to try again, and when to leave it alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState
from tenacity.wait import wait_random_exponential
from typing_extensions import override

from duet_sdk.backends.base import Backend, Capabilities, Wrapped
from duet_sdk.errors import BackendError, EndpointResting
from duet_sdk.policies import BreakerPolicy, Retry

_EARLY_S: Final = 0.001
"""A timer may fire this much before its time: whoever waited for the rest to end is then not sent away once more."""
_TRIAL_S: Final = 1.0
"""When to ask again while one call tries an endpoint: when it ends cannot be known, and most answer in seconds."""


def wait_s(retry: Retry, attempt: int, error: BackendError, *, left_s: float | None) -> float | None:
    """Seconds until the call after number ``attempt``; None if there is none, or it would be too long in coming.

    Full jitter, and at least what the server asked for, or what is left of its rest. What is asked beyond the policy's
    bound, or beyond the time that is left, is not waited for.

    >>> from duet_sdk.errors import ConnectFailed
    >>> failed = ConnectFailed("refused", backend="vllm", model="m", retry_after=7)
    >>> wait_s(Retry(), 1, failed, left_s=None) >= 7, wait_s(Retry(), 3, failed, left_s=None)
    (True, None)
    >>> wait_s(Retry(longest_retry_after_s=5), 1, failed, left_s=None) is None
    True
    """
    asked = error.retry_after or 0.0
    if not error.retryable or attempt >= retry.attempts or asked > retry.longest_retry_after_s:
        return None
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]  # waits ask for the number alone
    state.attempt_number = attempt
    jittered = wait_random_exponential(multiplier=retry.first_wait_s, max=retry.longest_wait_s)(state)
    wait = max(jittered, asked)
    return wait if left_s is None or wait < left_s else None


class Breaker(Wrapped):
    """A backend that leaves its endpoint alone for a while after several failures in a row.

    Closed, it passes every call on. After the policy's ``failures`` retryable errors in a row it is open: calls fail at
    once with `EndpointResting`, which says how long. After ``rest_s`` one call is let through: it closes it, or opens
    it again. Our own, as the libraries at hand wrap a call, not a stream, let every caller through when half open, or
    count a cancelled call as a failure.
    """

    def __init__(
        self,
        backend: Backend,
        policy: BreakerPolicy = BreakerPolicy(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(backend)
        self._most = policy.failures
        self._rest_s = policy.rest_s
        self._clock = clock
        self._failed = 0
        self._open_until = 0.0
        self._trying = False

    @override
    async def connect(self) -> Capabilities:
        """As the backend does, unless the endpoint rests.

        Raises:
            EndpointResting: the endpoint rests.
        """
        trial = self.attempt_begins()
        try:
            return await self._backend.connect()
        except BackendError as error:
            self._failure(error)
            raise
        finally:
            if trial:
                self._trying = False

    @override
    def attempt_begins(self) -> bool:
        """Refuse an attempt while the endpoint rests; whether this one is its trial.

        Raises:
            EndpointResting: the endpoint rests.
        """
        if self._failed < self._most:
            return False
        left_s = self._open_until - self._clock()
        if left_s > _EARLY_S or self._trying:
            left_s = max(left_s, _TRIAL_S if self._trying else 0.0)
            raise EndpointResting(
                f"{self.name}/{self.model} failed {self._failed} times in a row and will not be called for another "
                f"{left_s:.1f} s",
                backend=self.name,
                model=self.model,
                retry_after=left_s,
            )
        self._trying = True
        return True

    @override
    def attempt_ends(self, begun: object, error: BaseException | None) -> None:
        """Count a failure of the endpoint; an answer of any kind, also one that was cut, ends the row of failures."""
        if error is None:
            self._failed, self._open_until = 0, 0.0
        elif isinstance(error, BackendError):
            self._failure(error)
        if begun is True:
            self._trying = False

    def _failure(self, error: BackendError) -> None:
        if error.retryable:
            self._failed += 1
            if self._failed >= self._most:
                self._open_until = self._clock() + self._rest_s

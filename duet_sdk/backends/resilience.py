"""What keeps one failing endpoint from failing a request: when to try again, and when to leave it alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from tenacity import RetryCallState
from tenacity.wait import wait_random_exponential

from duet_sdk.backends.base import Backend, Call, Capabilities, Chunk
from duet_sdk.errors import BackendError, EndpointResting
from duet_sdk.policies import Retry
from duet_sdk.pricing import Price
from duet_sdk.rendering import TokenizerFiles
from duet_sdk.types import Json, Message


def wait_s(retry: Retry, attempt: int, error: BackendError, *, left_s: float | None) -> float | None:
    """Seconds until the call after number ``attempt``; None where there is none, or no time left for it.

    Full jitter, and at least what the server asked for.

    >>> from duet_sdk.errors import ConnectFailed
    >>> failed = ConnectFailed("refused", backend="vllm", model="m", retry_after=7)
    >>> wait_s(Retry(), 1, failed, left_s=None) >= 7, wait_s(Retry(), 3, failed, left_s=None)
    (True, None)
    """
    if not error.retryable or attempt >= retry.attempts or isinstance(error, EndpointResting):
        return None
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]  # waits ask for the number alone
    state.attempt_number = attempt
    jittered = wait_random_exponential(multiplier=retry.first_wait_s, max=retry.longest_wait_s)(state)
    wait = max(jittered, error.retry_after or 0.0)
    return wait if left_s is None or wait < left_s else None


class Breaker:
    """A backend that leaves its endpoint alone for a while after several failures in a row.

    Closed, it passes every call on. After ``failures`` retryable errors in a row it is open: calls fail at once with
    `EndpointResting`, which says how long. After ``rest_s`` one call is let through: it closes it, or opens it again.
    Our own, as the libraries at hand wrap a call, not a stream, let every caller through when half open, or count a
    cancelled call as a failure.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        failures: int = 5,
        rest_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._most = failures
        self._rest_s = rest_s
        self._clock = clock
        self._failed = 0
        self._open_until = 0.0
        self._trying = False

    @property
    def name(self) -> str:
        """The backend's."""
        return self._backend.name

    @property
    def model(self) -> str:
        """The backend's."""
        return self._backend.model

    @property
    def price(self) -> Price | None:
        """The backend's."""
        return self._backend.price

    @property
    def boundary(self) -> str:
        """The backend's."""
        return self._backend.boundary

    @property
    def base_url(self) -> str | None:
        """Where the backend's model is served, None where it is in this process."""
        url: str | None = getattr(self._backend, "base_url", None)
        return url

    async def connect(self) -> Capabilities:
        """As the backend does, unless the endpoint rests.

        Raises:
            EndpointResting: the endpoint rests.
        """
        trial = self._enter()
        try:
            able = await self._backend.connect()
        except BackendError as error:
            self._failure(error)
            raise
        finally:
            self._leave(trial)
        return able

    async def stream(self, call: Call) -> AsyncIterator[Chunk]:
        """As the backend does, unless the endpoint rests.

        Raises:
            EndpointResting: the endpoint rests.
        """
        trial = self._enter()
        try:
            async with aclosing(self._backend.stream(call)) as chunks:  # type: ignore[type-var]  # an async generator
                async for chunk in chunks:
                    yield chunk
        except BackendError as error:
            self._failure(error)
            raise
        else:
            self._failed, self._open_until = 0, 0.0
        finally:
            self._leave(trial)

    async def count_tokens(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), thinking: bool | None = None
    ) -> int | None:
        """As the backend does."""
        return await self._backend.count_tokens(messages, tools=tools, thinking=thinking)

    async def tokenizer(self) -> TokenizerFiles | None:
        """As the backend does."""
        return await self._backend.tokenizer()

    async def server_renderer(self) -> object:
        """The backend's, None where it has none."""
        load = getattr(self._backend, "server_renderer", None)
        return await load() if load is not None else None

    async def thought_placer(self) -> object:
        """The backend's, None where it has none."""
        load = getattr(self._backend, "thought_placer", None)
        return await load() if load is not None else None

    async def chat_ids(self, messages: Sequence[Message]) -> tuple[int, ...] | None:
        """The backend's, None where it has none."""
        ask = getattr(self._backend, "chat_ids", None)
        found: tuple[int, ...] | None = None if ask is None else await ask(messages)
        return found

    async def aclose(self) -> None:
        """Close the backend."""
        await self._backend.aclose()

    def _enter(self) -> bool:
        if self._failed < self._most:
            return False
        left_s = self._open_until - self._clock()
        if left_s > 0 or self._trying:
            raise EndpointResting(
                f"{self.name}/{self.model} failed {self._failed} times in a row and is left alone for another "
                f"{max(left_s, 0.0):.1f} s",
                backend=self.name,
                model=self.model,
                retry_after=max(left_s, 0.0),
            )
        self._trying = True
        return True

    def _leave(self, trial: bool) -> None:
        if trial:
            self._trying = False

    def _failure(self, error: BackendError) -> None:
        if error.retryable:
            self._failed += 1
            if self._failed >= self._most:
                self._open_until = self._clock() + self._rest_s

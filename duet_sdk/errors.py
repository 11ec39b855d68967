"""Every error of DUET, in one tree.

    DuetError
    ├── ConfigError            a setting, model name, price or option that cannot work
    │   └── BoundaryRefused    a request may not travel as far as the model is
    ├── MissingExtra           an optional dependency that is not installed
    ├── InvalidRequest         a request that no model could answer as it stands
    ├── Misuse                 a client or run is used as something else than it is
    ├── DegradedWarning        what was asked for by name cannot be had; a warning, unless filters make it an error
    ├── ContextOverflow        the prompt and its limits do not fit a model's context
    ├── SignalError            the signal is unusable and the policy says to fail
    ├── BudgetExceeded         a limit in tokens or money is used up
    │   └── DeadlineExceeded   a limit in time is used up
    ├── PairError              a pair on disk is broken, or not what its manifest says
    ├── LedgerError            the store of a ledger failed
    │   └── HoldMisused        a hold was settled twice with two amounts, or its key used for another
    ├── CacheError             a signal cache failed for now; requests go on without it
    ├── EvaluationError        questions, a grader or a measurement cannot be used
    │   └── DataError              a data set, or a row of it, cannot be read
    ├── TrainingError          a training run cannot start or go on
    └── BackendError           a model or its server failed
        ├── ConnectFailed      no answer at all
        │   └── EndpointResting    it failed several times in a row and is left alone
        ├── Authentication     the key is missing or was refused
        ├── RateLimited        asked to come back later
        │   └── QuotaExceeded      the account is empty, or its quota used up
        ├── ModelNotFound      the server or folder has no such model
        ├── Rejected           the server refuses these parameters
        │   └── ContentFiltered    its content filter stopped the prompt or the answer
        ├── NoAnswer           the answer says nothing: it is empty, or all thinking
        └── StreamBroken       the answer broke off midway

`ConfigError` and `InvalidRequest` are `ValueError`s, too, `UnknownOption` and `Misuse` `TypeError`s. A message says
what happened, with which values, and what to do. It never holds a prompt, a signal or a key. `DegradedWarning` is
raised only where filters of warnings say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from duet_sdk._origin import install_command
from duet_sdk._shown import shown

if TYPE_CHECKING:
    from decimal import Decimal

    from duet_sdk.reply import Reply, StageUsage


class DuetError(Exception):
    """Root of every error that DUET raises on purpose.

    Its text holds nothing that a terminal obeys, whoever wrote a part of it.
    """

    @override
    def __str__(self) -> str:
        return shown(super().__str__())

    @override
    def __reduce__(self) -> tuple[object, ...]:
        # Python's own way calls the class with the message alone, which most of these cannot be made of.
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[DuetError], args: tuple[object, ...]) -> DuetError:
    """An error as it was pickled, in the process that reads it; its attributes follow."""
    return kind.__new__(kind, *args)


class DegradedWarning(DuetError, UserWarning):
    """What was asked for by name cannot be had, and the request goes on without it; once for each client and cause.

    ``warnings.simplefilter("error", DegradedWarning)`` makes it end the request instead.
    """


class ConfigError(DuetError, ValueError):
    """A setting, model name, price or option cannot work."""


class BoundaryRefused(ConfigError):
    """The request may not leave its boundary, and the model is beyond it; nothing was sent there.

    Attributes:
        model: full name of the model that was refused.
        boundary: where it is.
        allowed: where the request may go.
    """

    def __init__(self, *, model: str, boundary: str, allowed: frozenset[str]) -> None:
        may = ", ".join(sorted(allowed)) or "local"
        super().__init__(
            f"{model} is at {boundary!r}, and this request may go to {may} only; "
            "name a nearer model, or allow more with boundary="
        )
        self.model = model
        self.boundary = boundary
        self.allowed = allowed


class MissingExtra(DuetError):
    """An optional dependency is not installed.

    Attributes:
        extra: its name; the message has the command that installs it.
    """

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs an extra that is not installed: {install_command(extra)}")
        self.extra = extra


class InvalidRequest(DuetError, ValueError):
    """The request cannot be answered as it stands; nothing was spent."""


class UnknownOption(InvalidRequest, TypeError):
    """A keyword argument that clients or requests do not have; the message says what was probably meant."""


class Misuse(DuetError, AttributeError, TypeError):
    """A client or run is used as something else, such as another library's; the message says what to write."""


class ContextOverflow(DuetError):
    """The prompt and its limits do not fit the model's context window.

    Attributes:
        model: the model whose window is too small.
        needed_tokens: prompt and output limits together.
        context_tokens: the window.
    """

    def __init__(self, message: str, *, model: str, needed_tokens: int, context_tokens: int) -> None:
        super().__init__(message)
        self.model = model
        self.needed_tokens = needed_tokens
        self.context_tokens = context_tokens


class SignalError(DuetError):
    """The signal is unusable (cut or empty) and the policy says to fail."""


class BudgetExceeded(DuetError):
    """A limit in tokens or money is used up.

    Attributes:
        scope: what the limit belongs to (``"request"``, or a ledger's scope).
        limit: the limit: USD as a Decimal, else tokens, requests or seconds, as the message says.
        spent: what is used up.
        held: what a ledger holds for others on top of that, None if there is no ledger.
        asked: what was asked for on top.
        reply: what had been written before the limit was reached, None if nothing had.
    """

    def __init__(
        self,
        message: str,
        *,
        scope: str = "request",
        limit: Decimal | float | None = None,
        spent: Decimal | float | None = None,
        held: Decimal | float | None = None,
        asked: Decimal | float | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(message)
        self.scope = scope
        self.limit = limit
        self.spent = spent
        self.held = held
        self.asked = asked
        self.reply = reply


class DeadlineExceeded(BudgetExceeded):
    """A limit in time is used up. ``limit`` and ``spent`` are seconds."""


class PairError(DuetError):
    """A pair on disk is broken, or not what its manifest says."""


class LedgerError(DuetError):
    """The store of a ledger failed."""


class HoldMisused(LedgerError):
    """A hold was settled twice with two amounts, or its key was used for another hold; nothing changed."""


class CacheError(DuetError):
    """A signal cache failed for now (busy, disk full, damaged): the request goes on as if there were none."""


class EvaluationError(DuetError):
    """Questions, a grader or a measurement cannot be used."""


class DataError(EvaluationError, ValueError):
    """A data set, or a row of it, cannot be read."""


class TrainingError(DuetError):
    """A training run cannot start or go on."""


class BackendError(DuetError):
    """A model or its server failed.

    Attributes:
        backend: name of the backend, such as ``"transformers"``.
        model: the model as that backend knows it.
        status: HTTP status, None if there was none.
        retry_after: seconds the server asked to wait, None where it did not.
        retryable: whether the same call may succeed later.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        backend: str,
        model: str,
        status: int | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.model = model
        self.status = status
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable

    @property
    def replaceable(self) -> bool:
        """Whether another model may answer without hiding a mistake of yours, such as a wrong name or key."""
        return self.retryable


class ConnectFailed(BackendError):
    """No answer at all: refused, unreachable, timed out before the first byte."""

    retryable = True


class EndpointResting(ConnectFailed):
    """The endpoint failed several times in a row and is left alone for ``retry_after`` seconds; nothing was sent."""


class Authentication(BackendError):
    """The key is missing or was refused."""


class RateLimited(BackendError):
    """The server asks to come back later."""

    retryable = True


class QuotaExceeded(RateLimited):
    """The account is empty, a limit of it is used up, or this call is larger than it allows: trying again is no use."""

    retryable = False

    @property
    @override
    def replaceable(self) -> bool:
        """Another model may answer."""
        return True


class ModelNotFound(BackendError):
    """The server or folder has no such model, or it is incomplete."""


class Rejected(BackendError):
    """The server refuses these parameters."""


class ContentFiltered(Rejected):
    """The server's content filter stopped the prompt or the answer: it would stop them again."""

    @property
    @override
    def replaceable(self) -> bool:
        """Another model may answer."""
        return True


class NoAnswer(BackendError):
    """A model has ended its answer without saying anything, no text but thinking and no tool call; it was billed."""


class StreamBroken(BackendError):
    """The answer broke off midway.

    Attributes:
        partial: the text written until then.
        usage: what it cost, None where the server never said.
    """

    retryable = True

    def __init__(self, message: str, *, partial: str = "", usage: StageUsage | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.partial = partial
        self.usage = usage

    @property
    @override
    def replaceable(self) -> bool:
        """Another model may answer: the call itself was accepted."""
        return True

"""DUET: a large reasoner writes a short signal, a light generator writes the answer.

>>> from duet_sdk import Budget, DuetClient
>>> with DuetClient(reasoner="scripted/17", generator="scripted/There are 17 primes.") as duet:
...     reply = duet.chat("How many primes are below 60?", budget=Budget(signal_tokens=64))
>>> reply.text, reply.signal.text, reply.signal.tokens
('There are 17 primes.', '17', 1)
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A library leaves it to the application where records go; without this, Python prints warnings to standard error.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from duet_sdk.budget import Limit
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.endpoints import Endpoint
    from duet_sdk.errors import (
        Authentication,
        BackendError,
        BoundaryRefused,
        BudgetExceeded,
        CacheError,
        ConfigError,
        ConnectFailed,
        ContentFiltered,
        ContextOverflow,
        DataError,
        DeadlineExceeded,
        DegradedWarning,
        DuetError,
        EndpointResting,
        EvaluationError,
        HoldMisused,
        InvalidRequest,
        LedgerError,
        MissingExtra,
        Misuse,
        ModelNotFound,
        NoAnswer,
        PairError,
        QuotaExceeded,
        RateLimited,
        Rejected,
        SignalError,
        StreamBroken,
        TrainingError,
        UnknownOption,
    )
    from duet_sdk.events import (
        AnswerDelta,
        AnswerDone,
        AttemptEnded,
        AttemptStarted,
        Done,
        Event,
        FellBack,
        GateDecided,
        Retried,
        SignalDelta,
        SignalDone,
        ToolCallDelta,
    )
    from duet_sdk.pair import Pair
    from duet_sdk.policies import (
        BreakerPolicy,
        Budget,
        FailurePolicy,
        GateConfig,
        Ladder,
        Progressive,
        Prompts,
        Retry,
        RunScope,
        Sampling,
    )
    from duet_sdk.pricing import GpuHour, TokenPrice
    from duet_sdk.reply import Reply, Signal, Usage
    from duet_sdk.settings import Settings
    from duet_sdk.sync import DuetClient
    from duet_sdk.types import ImagePart, Message, TextPart, ToolCall

# Where each name lives. The imports above say it to type checkers, this says it to Python, and `__all__` to readers;
# tests/test_public_surface.py holds the three together.
_MODULES = {
    "budget": ("Limit",),
    "client": ("AsyncDuetClient",),
    "endpoints": ("Endpoint",),
    "errors": (
        "Authentication",
        "BackendError",
        "BoundaryRefused",
        "BudgetExceeded",
        "CacheError",
        "ConfigError",
        "ConnectFailed",
        "ContentFiltered",
        "ContextOverflow",
        "DataError",
        "DeadlineExceeded",
        "DegradedWarning",
        "DuetError",
        "EndpointResting",
        "EvaluationError",
        "HoldMisused",
        "InvalidRequest",
        "LedgerError",
        "Misuse",
        "MissingExtra",
        "ModelNotFound",
        "NoAnswer",
        "PairError",
        "QuotaExceeded",
        "RateLimited",
        "Rejected",
        "SignalError",
        "StreamBroken",
        "UnknownOption",
        "TrainingError",
    ),
    "events": (
        "AnswerDelta",
        "AnswerDone",
        "AttemptEnded",
        "AttemptStarted",
        "Done",
        "Event",
        "FellBack",
        "GateDecided",
        "Retried",
        "SignalDelta",
        "SignalDone",
        "ToolCallDelta",
    ),
    "pair": ("Pair",),
    "policies": (
        "BreakerPolicy",
        "Budget",
        "FailurePolicy",
        "GateConfig",
        "Ladder",
        "Progressive",
        "Prompts",
        "Retry",
        "RunScope",
        "Sampling",
    ),
    "pricing": ("GpuHour", "TokenPrice"),
    "reply": ("Reply", "Signal", "Usage"),
    "settings": ("Settings",),
    "sync": ("DuetClient",),
    "types": ("ImagePart", "Message", "TextPart", "ToolCall"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AnswerDelta",
    "AnswerDone",
    "AsyncDuetClient",
    "AttemptEnded",
    "AttemptStarted",
    "Authentication",
    "BackendError",
    "BoundaryRefused",
    "BreakerPolicy",
    "Budget",
    "BudgetExceeded",
    "CacheError",
    "ConfigError",
    "ConnectFailed",
    "ContentFiltered",
    "ContextOverflow",
    "DataError",
    "DeadlineExceeded",
    "DegradedWarning",
    "Done",
    "DuetClient",
    "DuetError",
    "Endpoint",
    "EndpointResting",
    "EvaluationError",
    "Event",
    "FailurePolicy",
    "FellBack",
    "GateConfig",
    "GateDecided",
    "GpuHour",
    "HoldMisused",
    "ImagePart",
    "InvalidRequest",
    "Ladder",
    "LedgerError",
    "Limit",
    "Message",
    "MissingExtra",
    "Misuse",
    "ModelNotFound",
    "NoAnswer",
    "Pair",
    "PairError",
    "Progressive",
    "Prompts",
    "QuotaExceeded",
    "RateLimited",
    "Rejected",
    "Reply",
    "Retried",
    "Retry",
    "RunScope",
    "Sampling",
    "Settings",
    "Signal",
    "SignalDelta",
    "SignalDone",
    "SignalError",
    "StreamBroken",
    "TextPart",
    "TokenPrice",
    "ToolCall",
    "ToolCallDelta",
    "TrainingError",
    "UnknownOption",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use, so that importing the package costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

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
    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.errors import BackendError, BudgetExceeded, DuetError
    from duet_sdk.pair import Pair
    from duet_sdk.policies import Budget, Prompts, Sampling
    from duet_sdk.reply import Reply, Signal, Usage
    from duet_sdk.settings import Settings
    from duet_sdk.sync import DuetClient
    from duet_sdk.types import Message

_HOME = {
    "AsyncDuetClient": "client",
    "BackendError": "errors",
    "Budget": "policies",
    "BudgetExceeded": "errors",
    "DuetClient": "sync",
    "DuetError": "errors",
    "Message": "types",
    "Pair": "pair",
    "Prompts": "policies",
    "Reply": "reply",
    "Sampling": "policies",
    "Settings": "settings",
    "Signal": "reply",
    "Usage": "reply",
}

__all__ = [
    "AsyncDuetClient",
    "BackendError",
    "Budget",
    "BudgetExceeded",
    "DuetClient",
    "DuetError",
    "Message",
    "Pair",
    "Prompts",
    "Reply",
    "Sampling",
    "Settings",
    "Signal",
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

"""Signals kept for reuse, so that a question asked again costs no reasoner tokens. Off unless a client is given one.

A signal belongs to everything that shaped it (`signal_key`) and is reused as it is, also where the reasoner
samples: whoever wants a fresh draw for each request leaves the cache off or changes the seed, which is part of the
key. Kept is only a signal that is whole: not empty, not cut, within its limit (`storable`).

Tenants never share a signal. Users and sessions of one tenant do; they are labels, by which signals are purged.
"""

from duet_sdk.cache.key import CacheKey, signal_key
from duet_sdk.cache.memory import MemorySignalCache
from duet_sdk.cache.protocol import SignalCache, storable
from duet_sdk.cache.sqlite import SqliteSignalCache
from duet_sdk.errors import CacheError

__all__ = [
    "CacheError",
    "CacheKey",
    "MemorySignalCache",
    "SignalCache",
    "SqliteSignalCache",
    "signal_key",
    "storable",
]

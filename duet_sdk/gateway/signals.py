"""Signals of agents' runs, kept for their next tool turns: clients send a history back without them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from duet_sdk.types import Message, ToolCall

_MOST: Final = 12_288
"""Signals that are kept, each by its calls, the first of them and its signature: some minutes of agents at work, and a
few megabytes."""
_SHARE: Final = 4
"""One tenant keeps at most a quarter of them, so that none pushes out all others' signals."""


class Signals:
    """Finds the signal behind an assistant's message by the calls in it, within a tenant.

    A run whose signal is not here asks the reasoner once more, as it would without this.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._tenants: dict[str | None, OrderedDict[bytes, str]] = {}

    def keep(
        self, tenant: str | None, messages: Sequence[Message], calls: Sequence[ToolCall], signal: str, receipt: str
    ) -> None:
        """Remember which signal led to these calls, which answer these messages, and the signature of its request.

        It is kept under the first call alone, too, as that is all that a client gets who takes one at a time.
        """
        if not calls or not signal:
            return
        question = next((_digest(message.text) for message in reversed(messages) if message.role == "user"), b"")
        kept = self._tenants.setdefault(tenant, OrderedDict())
        for key in {_key(question, calls), _key(question, calls[:1]), _signed(self.signature(tenant, receipt))}:
            kept[key] = signal
            kept.move_to_end(key)
        while len(kept) > (_MOST if tenant is None else _MOST // _SHARE):
            kept.popitem(last=False)
        while sum(map(len, self._tenants.values())) > _MOST:
            fullest = max(self._tenants, key=lambda one: len(self._tenants[one]))
            self._tenants[fullest].popitem(last=False)

    def signature(self, tenant: str | None, receipt: str) -> str:
        """What clients send back to name a request's signal; nobody can make one up."""
        name = f"{tenant or ''}\0{receipt}".encode("utf-8", "surrogatepass")
        return base64.b64encode(hmac.digest(self._secret, name, "sha256")).decode()

    def signed(self, tenant: str | None, signature: object) -> str | None:
        """The signal that a signature names; None where it is no one's, another's, or forgotten."""
        kept = self._tenants.get(tenant)
        return kept.get(_signed(signature)) if kept and isinstance(signature, str) and signature else None

    def restored(self, tenant: str | None, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the signals of those that are known."""
        kept = self._tenants.get(tenant)
        if not kept or messages[-1].role != "tool":
            return messages
        found, question = list(messages), b""
        for at, message in enumerate(messages):
            if message.role == "user":
                question = _digest(message.text)
            elif message.tool_calls and message.signal is None:
                signal = kept.get(_key(question, message.tool_calls))
                found[at] = message if signal is None else replace(message, signal=signal)
        return found


def _key(question: bytes, calls: Sequence[ToolCall]) -> bytes:
    """A digest of the calls and of the question that they serve; ids alone are not the same in all engines' answers."""
    return _digest("\0".join((question.hex(), *(part for call in calls for part in (call.id, call.name)))))


def _signed(signature: str) -> bytes:
    return _digest("\0".join(("signature", signature)))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

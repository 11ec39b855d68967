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

_MOST: Final = 8192
"""Signals that are kept, each by its calls and by its signature: some minutes of agents at work, and a few
megabytes."""


class Signals:
    """Finds the signal behind an assistant's message by the calls in it, within a tenant.

    A run whose signal is not here asks the reasoner once more, as it would without this.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def keep(
        self, tenant: str | None, messages: Sequence[Message], calls: Sequence[ToolCall], signal: str, receipt: str
    ) -> None:
        """Remember which signal led to these calls, which answer these messages, and the signature of its request."""
        if not calls or not signal:
            return
        for key in (_key(tenant, messages, calls), _signed(tenant, self.signature(tenant, receipt))):
            self._kept[key] = signal
            self._kept.move_to_end(key)
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)

    def signature(self, tenant: str | None, receipt: str) -> str:
        """What clients send back to name a request's signal; nobody can make one up."""
        name = f"{tenant or ''}\0{receipt}".encode("utf-8", "surrogatepass")
        return base64.b64encode(hmac.digest(self._secret, name, "sha256")).decode()

    def signed(self, tenant: str | None, signature: object) -> str | None:
        """The signal that a signature names; None where it is no one's, another's, or forgotten."""
        return self._kept.get(_signed(tenant, signature)) if isinstance(signature, str) and signature else None

    def restored(self, tenant: str | None, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the signals of those that are known."""
        if not self._kept or messages[-1].role != "tool":
            return messages
        found = list(messages)
        for at, message in enumerate(messages):
            if message.tool_calls and message.signal is None:
                signal = self._kept.get(_key(tenant, messages[:at], message.tool_calls))
                found[at] = message if signal is None else replace(message, signal=signal)
        return found


def _key(tenant: str | None, before: Sequence[Message], calls: Sequence[ToolCall]) -> bytes:
    """A digest of the calls and of the question that they serve; ids alone are not the same in all engines' answers."""
    question = next((message.text for message in reversed(before) if message.role == "user"), "")
    parts = (tenant or "", question, *(part for call in calls for part in (call.id, call.name)))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def _signed(tenant: str | None, signature: str) -> bytes:
    parts = ("signature", tenant or "", signature)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()

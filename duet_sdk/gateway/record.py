"""What is remembered of a request for metrics, the access log and its span: numbers and names, never what was said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from duet_sdk.reply import Reply

Ended: TypeAlias = Literal["complete", "error", "left", "drained"]
"""How a request ended: the client has all of it; it got an error, at once or within a stream; it went away; the server
ended and took the request with it."""


@dataclass(slots=True)
class Record:
    """One request; filled while it runs.

    Attributes:
        receipt: its name in logs and in answers.
        method: of HTTP.
        path: one that is served, else empty.
        wire: its protocol's name; empty where no model was asked for.
        tenant: whose key it came with; None without keys, and before the key was looked at.
        asked: the model's name as the client wrote it.
        model: the configured name that it was counted under.
        streamed: whether a stream was asked for.
        status: of the response; 499 where the client left first.
        code: of the error, for programs.
        ended: how.
        reply: all of it, or the part that was written; None where nothing was.
        refused_scope: the kind of the ledger's scope that had no room.
        began_s: `time.perf_counter` at its beginning.
    """

    receipt: str
    method: str
    path: str = ""
    wire: str = ""
    tenant: str | None = None
    asked: str = ""
    model: str = ""
    streamed: bool = False
    status: int = 0
    code: str | None = None
    ended: Ended = "complete"
    reply: Reply | None = None
    refused_scope: str | None = None
    began_s: float = field(default_factory=time.perf_counter)

    def told(self, part: Reply) -> None:
        """What there was of the reply, all of it or a part."""
        self.reply = part

    @property
    def so_far_s(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self.began_s

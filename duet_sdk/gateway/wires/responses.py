"""``/v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.wires.responses_in import asked
from duet_sdk.gateway.wires.responses_out import Head, keep, output_of
from duet_sdk.gateway.wires.responses_stream import Events

if TYPE_CHECKING:
    from duet_sdk.gateway.errors import Headers, Refused
    from duet_sdk.gateway.wires.wire import Answer, Asked, Given, Wire
    from duet_sdk.reply import Reply

_SPENT: Final = 402
"""The status of a spent budget, which agents repeat six times on this wire …"""
_RATE: Final = 429
"""… and what it becomes here: with ``insufficient_quota`` they end at once."""


class Responses:
    """OpenAI's Responses."""

    name = "responses"
    receipt_headers: tuple[bytes, ...] = (b"x-duet-receipt",)

    def asked(self, given: Given) -> Asked:
        """The request that a body makes."""
        return asked(given)

    def writer(self, given: Given, what: Asked) -> Events:
        """For a stream of this request."""
        return Events(given)

    def whole(self, given: Given, answers: Sequence[Answer], reply: Reply) -> Mapping[str, Any]:
        """The body of a whole response, which is kept where that is wanted."""
        answer = answers[0]
        response = Head(given).whole(output_of(given, answer, reply), answer.finish_reason, reply)
        keep(given, response)
        return response

    def refusal(self, told: Refused, receipt: str) -> tuple[int, Mapping[str, Any], Headers]:
        """Status, body and headers of an error."""
        # Codex asks six times after a 402; after this status it goes by the code.
        return _RATE if told.status == _SPENT else told.status, told.body(), told.headers


RESPONSES: Final[Wire] = Responses()

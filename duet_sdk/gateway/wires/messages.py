"""``/v1/messages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.wires.messages_in import asked
from duet_sdk.gateway.wires.messages_out import error_of, message
from duet_sdk.gateway.wires.messages_stream import Events

if TYPE_CHECKING:
    from duet_sdk.gateway.errors import Headers, Refused
    from duet_sdk.gateway.wires.wire import Answer, Asked, Given, Wire
    from duet_sdk.reply import Reply


class Messages:
    """Anthropic's Messages."""

    name = "messages"
    receipt_headers: tuple[bytes, ...] = (b"x-duet-receipt", b"request-id")

    def asked(self, given: Given) -> Asked:
        """The request that a body makes."""
        return asked(given)

    def writer(self, given: Given, what: Asked) -> Events:
        """For a stream of this request."""
        return Events(given, what)

    def whole(self, given: Given, answers: Sequence[Answer], reply: Reply) -> Mapping[str, Any]:
        """The body of a whole response."""
        return message(given, answers[0], reply)

    def refusal(self, told: Refused, receipt: str) -> tuple[int, Mapping[str, Any], Headers]:
        """Status, body and headers of an error."""
        status, body = error_of(told, receipt)
        return status, body, told.headers


MESSAGES: Final[Wire] = Messages()

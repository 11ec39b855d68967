"""``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from duet_sdk.gateway.wires.chat_in import asked
from duet_sdk.gateway.wires.chat_out import Head, completion
from duet_sdk.gateway.wires.chat_stream import Chunks

if TYPE_CHECKING:
    from duet_sdk.gateway.errors import Headers, Refused
    from duet_sdk.gateway.wires.wire import Answer, Asked, Given, Wire
    from duet_sdk.reply import Reply


class Chat:
    """OpenAI's chat completions, which its errors of all other paths take after."""

    name = "chat"
    receipt_headers: tuple[bytes, ...] = (b"x-duet-receipt", b"x-request-id")

    def asked(self, given: Given) -> Asked:
        """The request that a body makes."""
        return asked(given)

    def writer(self, given: Given, what: Asked) -> Chunks:
        """For a stream of this request."""
        return Chunks(_head(given), what, given.signal_field)

    def whole(self, given: Given, answers: Sequence[Answer], reply: Reply) -> Mapping[str, Any]:
        """The body of a whole response."""
        return completion(_head(given), answers, reply, signal_field=given.signal_field)

    def refusal(self, told: Refused, receipt: str) -> tuple[int, Mapping[str, Any], Headers]:
        """Status, body and headers of an error."""
        return told.status, told.body(), told.headers


def _head(given: Given) -> Head:
    return Head(given.receipt, given.body["model"], given.created)


CHAT: Final[Wire] = Chat()

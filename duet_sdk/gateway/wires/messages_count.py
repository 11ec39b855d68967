"""``/v1/messages/count_tokens``: tokens of a prompt, without spending any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duet_sdk.gateway.wires.messages_in import asked
from duet_sdk.gateway.wires.wire import tools_of

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Given
    from duet_sdk.types import Stage


async def count(given: Given) -> dict[str, int]:
    """The body of a response: what the stage that would answer makes of the messages.

    Raises:
        Refused: 400, a field that cannot be used.
        InvalidRequest: likewise, in the words of the SDK.
    """
    what = asked(given)
    stage: Stage = "reasoner" if given.choice.mode == "reasoner" else "generator"
    client = given.choice.client
    return {"input_tokens": await client.count_tokens(what.messages, tools=tools_of(what), stage=stage)}

"""``/v1/messages/count_tokens`` and ``/v1/responses/input_tokens``: tokens of a prompt, without spending any."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from duet_sdk.gateway.wires.messages_count import measured
from duet_sdk.gateway.wires.wire import tools_of

if TYPE_CHECKING:
    from duet_sdk.gateway.wires.wire import Given, Wire
    from duet_sdk.types import Stage


async def count(given: Given, wire: Wire) -> dict[str, Any]:
    """The body of a response: what the stage that would answer makes of the messages.

    Raises:
        Refused: 400, a field that cannot be used.
        InvalidRequest: likewise, in the words of the SDK.
        BoundaryRefused: the stage's model is beyond what the key allows.
    """
    what = wire.asked(replace(given, body=measured(given.body)) if wire.name == "messages" else given)
    stage: Stage = "reasoner" if given.choice.mode == "reasoner" else "generator"
    boundary = given.caller.rights.boundaries or None
    client = given.choice.client
    tokens = await client.count_tokens(what.messages, tools=tools_of(what), stage=stage, boundary=boundary)
    kind = {"object": "response.input_tokens"} if wire.name == "responses" else {}
    return {**kind, "input_tokens": tokens}

"""What a request that is too long is told: agents shorten their history at one answer, and must not at the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duet_sdk.gateway.errors import NOT_AGAIN, Refused
from duet_sdk.gateway.wires.wire import Asked, tools_of
from duet_sdk.pipeline.admission import likely_prompt_tokens

if TYPE_CHECKING:
    from duet_sdk.errors import ContextOverflow


def overflowed(error: ContextOverflow, what: Asked) -> Exception:
    """The error, or another one where instructions and tools alone are too long, which no shorter history can help."""
    instructions = [message for message in what.messages if message.role == "system"]
    tokens = likely_prompt_tokens(instructions, tools_of(what))
    if tokens < error.context_tokens:
        return error
    message = (
        f"instructions and tools alone have about {tokens} tokens, and this model reads {error.context_tokens}: "
        "offer fewer tools, or shorten the instructions"
    )
    return Refused(400, "instructions_too_long", message, headers=NOT_AGAIN)

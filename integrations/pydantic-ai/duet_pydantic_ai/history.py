"""What pydantic-ai keeps of a conversation → the messages of a request to a pair."""

from collections.abc import Iterator, Sequence

from pydantic_ai import messages as pai
from pydantic_ai.exceptions import UserError

from duet_sdk import ImagePart, Message, TextPart, ToolCall
from duet_sdk.types import Part, ProviderParts

PARTS = "provider_parts"
"""In the details of a response: what its model wants back with it."""
SIGNAL = "signal"
"""In their details: the signal itself, where it is not all that was streamed."""


def to_duet(history: Sequence[pai.ModelMessage], instructions: Sequence[pai.InstructionPart] | None) -> list[Message]:
    """The conversation, with the instructions in its leading system message.

    Raises:
        UserError: a part that a pair cannot read, such as an audio file.
    """
    turns: list[Message] = []
    for message in history:
        turns += [_answered(message)] if isinstance(message, pai.ModelResponse) else _asked(message)
    leading = next((at for at, turn in enumerate(turns) if turn.role != "system"), len(turns))
    standing = [turn.text for turn in turns[:leading]] + [part.content for part in instructions or ()]
    # In one piece, as many templates support only one system message.
    return ([Message("system", "\n\n".join(standing))] if standing else []) + turns[leading:]


def _asked(message: pai.ModelRequest) -> Iterator[Message]:
    files: list[pai.UserContent] = []
    for part in message.parts:
        match part:
            case pai.SystemPromptPart(content):
                yield Message("system", content)
            case pai.UserPromptPart(content):
                yield Message("user", content if isinstance(content, str) else tuple(_read(content)))
            case pai.ToolReturnPart(name, tool_call_id=call):
                text, attached = part.model_response_str_and_user_content()
                files += attached
                failed = part.outcome in ("failed", "retried")
                yield Message("tool", text, tool_call_id=call, name=name, failed=failed)
            case _:
                raise UserError(f"a pair reads no {part.part_kind!r} part; pass the history through an Agent")
    if files:
        yield Message("user", tuple(_read(files)))


def _answered(message: pai.ModelResponse) -> Message:
    """What other providers keep in other parts means nothing to a pair, their thoughts above all."""
    text, signal, calls = "", "", []
    for part in message.parts:
        match part:
            case pai.TextPart(content):
                text += content
            case pai.ThinkingPart(content, provider_name="duet", provider_details=details):
                signal = (details or {}).get(SIGNAL, content)
            case pai.ToolCallPart(name, tool_call_id=call):
                calls.append(ToolCall(call, name, part.args_as_json_str()))
    own = (message.provider_details or {}) if message.provider_name == "duet" else {}
    back = ProviderParts.parse(own.get(PARTS))
    return Message("assistant", text, tuple(calls), signal=signal or None, provider_parts=back)


def _read(content: Sequence[pai.UserContent]) -> Iterator[Part]:
    for item in content:
        match item:
            case str(text) | pai.TextContent(text):
                yield TextPart(text)
            case pai.ImageUrl(url):
                yield ImagePart(url)
            case pai.BinaryContent(is_image=True):
                yield ImagePart(item.data_uri)
            case pai.CachePoint():
                continue
            case _:
                raise UserError(f"a pair accepts text and images, not {type(item).__name__}")

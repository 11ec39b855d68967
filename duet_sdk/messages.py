"""What callers write as messages (text, mappings in OpenAI form, `Message`) → checked `Message` values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast, get_args

from duet_sdk.errors import InvalidRequest
from duet_sdk.types import ImagePart, Json, Message, Part, ProviderParts, Role, TextPart, ToolCall

MessageLike: TypeAlias = Message | Json
"""A `Message`, or a mapping in OpenAI's form."""
MessagesLike: TypeAlias = str | Sequence[MessageLike]
"""A conversation, or the text of one question."""

_ROLES = get_args(Role)
_THOUGHT = re.compile(r"think|thought|reasoning")
_ALIASES = {"developer": "system", "function": "tool"}
_OTHER_ROLES = {
    "human": "user",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "instruction": "system",
}
"""Roles of other libraries → ours."""
_URL = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_PARTS = {
    "image": "write {'type': 'image_url', 'image_url': {'url': 'data:image/png;base64,…'}}",
    "input_image": "write {'type': 'image_url', 'image_url': {'url': …}}",
    "tool_result": "a tool's result is a message: {'role': 'tool', 'tool_call_id': …, 'content': …}",
    "tool_use": "a call stands in the message's tool_calls",
    "tool_call": "a call stands in the message's tool_calls",
}
"""Parts of other libraries' contents → what stands in their place here."""


def parse_messages(given: MessagesLike) -> tuple[Message, ...]:
    """Check what the caller wrote and bring it into one form.

    Raises:
        InvalidRequest: nothing to answer, an unknown role, or content of a kind DUET does not know; the text says
            which message, counted from 0.
    """
    if isinstance(given, str) and given.strip():
        return (Message("user", given),)
    if isinstance(given, str):
        given = [Message("user", given)]
    if isinstance(given, Mapping | Message):
        raise InvalidRequest(f"messages must be a list, got one {type(given).__name__}: write [{{…}}], a list of one")
    items: object = given
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        raise InvalidRequest(f"messages must be a string or a list of messages, got {type(items).__name__}")
    messages = tuple(_parse(item, at) for at, item in enumerate(items))
    if not messages:
        raise InvalidRequest("messages is empty: pass a question, or a list that ends with one")
    last = messages[-1]
    if last.role == "user" and not last.text.strip() and not last.images:
        raise InvalidRequest("the question is empty: the last user message has no text")
    if last.role not in ("user", "tool"):
        raise InvalidRequest(f"the last message must be from 'user' or 'tool', this one is from {last.role!r}")
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("no message is from 'user': there is no question to answer")
    return messages


def _parse(item: object, at: int) -> Message:
    if isinstance(item, Message):
        item = {
            "role": item.role,
            "content": item.content,
            "tool_calls": item.tool_calls,
            "tool_call_id": item.tool_call_id,
            "name": item.name,
            "signal": item.signal,
            "is_error": item.failed,
            "provider_parts": item.provider_parts,
        }
    if not isinstance(item, Mapping):
        raise InvalidRequest(
            f"message {at} must be a Message or a mapping, got {type(item).__name__}; {_instead_of(item)}"
        )
    role = _ALIASES.get(str(item.get("role")), item.get("role"))
    if role not in _ROLES:
        raise InvalidRequest(f"message {at} {_wrong_role(item, role)}; known: {', '.join(_ROLES)}")
    given = item.get("tool_calls") or ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidRequest(f"message {at}: tool_calls must be a list, got {type(given).__name__}")
    calls = tuple(_tool_call(call, at) for call in given)
    written = item.get("content")
    if role == "assistant" and not written and isinstance(item.get("refusal"), str):
        written = item["refusal"]  # OpenAI's: what was said in place of an answer
    if written is None and ("text" in item or "parts" in item):
        raise InvalidRequest(f"message {at} has no content: its text belongs in 'content'")
    content = _content(written, at, may_be_empty=role == "tool" or (role == "assistant" and bool(calls)))
    tool_call_id = item.get("tool_call_id")
    if tool_call_id is not None and not isinstance(tool_call_id, str):
        raise InvalidRequest(f"message {at}: tool_call_id must be a string, got {type(tool_call_id).__name__}")
    if role == "tool" and not tool_call_id:
        raise InvalidRequest(f"message {at} is a tool result without tool_call_id: name the call it answers")
    failed = role == "tool" and (
        item.get("is_error") is True or item.get("failed") is True or item.get("status") == "error"
    )
    return Message(
        cast("Role", role),
        content,
        calls,
        tool_call_id,
        item.get("name"),
        _signal(item, cast("Role", role), at),
        failed,
        _provider_parts(item.get("provider_parts"), at) if role == "assistant" else None,
    )


def _instead_of(item: object) -> str:
    """What to write for an object that stands in the place of a message."""
    if hasattr(item, "receipt"):
        return "write reply.message"
    if hasattr(item, "lc_secrets") or type(item).__name__ in ("HumanMessage", "AIMessage", "SystemMessage"):
        return "messages of LangChain are for ChatDuet of the package langchain-duet"
    if hasattr(item, "model_dump"):
        return "write its model_dump()"
    return "write {'role': 'user', 'content': '…'}"


def _wrong_role(item: Json, role: object) -> str:
    """What is wrong with a role; one that may be a text of the conversation is not shown."""
    if item.get("content") in _ROLES:
        return f"has its role in the place of its content: the role comes first, Message({item['content']!r}, '…')"
    if role is None:
        return "has no role"
    if (meant := _OTHER_ROLES.get(str(role))) is not None:
        return f"has the role {role!r}; did you mean {meant!r}?"
    shown = f"the role {role!r}" if re.fullmatch(r"\w{1,20}", str(role)) else "an unknown role"
    return f"has {shown}"


def _signal(item: Json, role: str, at: int) -> str | None:
    """The signal that an assistant's message carries; what stands as reasoning may be any other model's."""
    own = item.get("signal")
    if own is not None and not isinstance(own, str):
        raise InvalidRequest(f"message {at}: signal must be a string, got {type(own).__name__}")
    if own and role != "assistant":
        raise InvalidRequest(f"message {at} is from {role!r} and carries a signal; only assistant messages can")
    return own if role == "assistant" and own and own.strip() else None


def _provider_parts(given: object, at: int) -> ProviderParts | None:
    parts = ProviderParts.parse(given)
    if given is not None and parts is None:
        raise InvalidRequest(f"message {at}: provider_parts must be as Message.to_dict() writes them, or be left out")
    return parts


def _content(content: object, at: int, *, may_be_empty: bool) -> str | tuple[Part, ...]:
    if content is None:
        if may_be_empty:
            return ""
        raise InvalidRequest(f"message {at} has no content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = tuple(part for piece in content if (part := _part(piece, at)) is not None)
        if not parts and not may_be_empty:
            raise InvalidRequest(f"message {at} has no content: its list of parts has neither text nor an image")
        if all(isinstance(part, TextPart) for part in parts):
            return "".join(part.text for part in parts if isinstance(part, TextPart))
        return parts
    raise InvalidRequest(f"message {at}: content must be a string or a list of parts, got {type(content).__name__}")


def _part(piece: object, at: int) -> Part | None:
    if isinstance(piece, TextPart | ImagePart):
        if isinstance(piece, TextPart):
            return _part({"type": "text", "text": piece.text}, at)
        return _with_url(piece, at)
    if isinstance(piece, str):
        return TextPart(piece)
    if isinstance(piece, Mapping):
        kind = piece.get("type")
        if kind == "refusal" and isinstance(piece.get("refusal"), str):
            return TextPart(piece["refusal"])
        if (isinstance(kind, str) and _THOUGHT.search(kind)) or piece.get("thought") is True:
            return None  # another model's thoughts: neither stage should take them for its own
        if kind in ("text", "input_text", "output_text") and isinstance(piece.get("text"), str):
            return TextPart(piece["text"])
        if kind == "image_url":
            image = piece.get("image_url")
            url = image.get("url") if isinstance(image, Mapping) else image
            if isinstance(url, str):
                return _with_url(ImagePart(url, image.get("detail") if isinstance(image, Mapping) else None), at)
        hint = _PARTS.get(str(kind), "known: 'text' and 'image_url'")
        raise InvalidRequest(f"message {at} has a content part of type {kind!r}; {hint}")
    raise InvalidRequest(f"message {at} has a content part that is neither a string nor a mapping")


def _with_url(image: ImagePart, at: int) -> ImagePart:
    url: object = image.url
    if not isinstance(url, str) or _URL.match(url) is None:
        raise InvalidRequest(
            f"message {at} has an image without a URL; write https://…, or for a file 'data:image/png;base64,' + "
            "base64.b64encode(content).decode()"
        )
    return image


def _tool_call(call: object, at: int) -> ToolCall:
    if isinstance(call, ToolCall):
        call = {"id": call.id, "name": call.name, "arguments": call.arguments}
    if isinstance(call, Mapping) and "function" not in call and "arguments" in call:
        call = {**call, "function": call}  # ours, as `dataclasses.asdict` writes it
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        function = call["function"]
        arguments = {} if function.get("arguments") is None else function["arguments"]
        if isinstance(function.get("name"), str) and isinstance(call.get("id"), str):
            try:
                text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            except (TypeError, ValueError, RecursionError):
                raise InvalidRequest(f"message {at} has a tool call whose arguments are not JSON") from None
            return ToolCall(call["id"], function["name"], text)
    raise InvalidRequest(f"message {at} has a tool call without id or function name")


def _odd_tool(wire: object) -> str:
    """What was probably written in the place of a tool."""
    if isinstance(wire, str):
        return ", which is given itself and not by its name"
    if not isinstance(wire, Mapping):
        return f", got {type(wire).__name__}"
    if "input_schema" in wire:
        return "; this is Anthropic's form, whose input_schema is parameters here"
    if wire.get("type") == "function" and "name" in wire:
        return "; this is the form of OpenAI's Responses, whose name and parameters stand in 'function' here"
    if "function_declarations" in wire:
        return "; this is Gemini's form, whose declarations are a 'function' each here"
    kind = wire.get("type")
    return f"; tools of a provider's own, such as {kind!r}, are not known" if kind not in (None, "function") else ""


def check_tool_choice(choice: object, tools: Sequence[Json]) -> None:
    """Check that a choice can be fulfilled by these tools.

    Raises:
        InvalidRequest: an unknown word, a tool that is not there, or a call where there is none.
    """
    if choice in (None, "auto", "none"):
        return
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, str) and choice != "required":
        named = f"{{'type': 'function', 'function': {{'name': {choice!r}}}}}"
        meant = {"any": "'required'", **dict.fromkeys(names, named)}.get(choice)
        hint = f"did you mean {meant}?" if meant else "known: 'auto', 'none', 'required', or a tool in OpenAI's form"
        raise InvalidRequest(f"tool_choice {choice!r} is unknown; {hint}")
    if not names:
        raise InvalidRequest("tool_choice asks for a call, and there are no tools: give them as tools=[…]")
    if not isinstance(choice, Mapping) or choice.get("type") == "allowed_tools":
        return
    function = choice.get("function")
    wanted = function.get("name") if isinstance(function, Mapping) else None
    if wanted is None:
        raise InvalidRequest("tool_choice must look like {'type': 'function', 'function': {'name': …}}")
    if wanted not in names:
        raise InvalidRequest(f"tool_choice names {wanted!r}; the tools are {', '.join(names)}")


def check_tools(tools: Sequence[object]) -> tuple[Json, ...]:
    """Check that each tool is a function in OpenAI form, names unique.

    Raises:
        InvalidRequest: a tool without a name, or two of one name.
    """
    names: set[str] = set()
    for at, tool in enumerate(tools):
        wire: object = tool
        function: object = wire.get("function") if isinstance(wire, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise InvalidRequest(
                f'tool {at} must look like {{"type": "function", "function": {{"name": …, "parameters": …}}}}, or be a '
                f"Python function{_odd_tool(wire)}"
            )
        if name in names:
            raise InvalidRequest(f"two tools are named {name!r}")
        parameters = function.get("parameters")
        fields = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if not isinstance(parameters, Mapping | None) or not isinstance(fields, Mapping | None):
            raise InvalidRequest(f"the parameters of tool {name!r} must be a JSON schema")
        names.add(name)
    try:
        json.dumps(list(tools))
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("the tools contain a value that is not JSON") from None
    return tuple(cast("Sequence[Json]", tools))

"""Messages → text by a model's chat template: Jinja in a sandbox, set up as transformers sets it up."""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final, NoReturn

from duet_sdk.errors import ConfigError, InvalidRequest, MissingExtra
from duet_sdk.types import Json, Message, TextPart, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jinja2 import nodes
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment


_ARGUMENTS: Final = {"\u241fkey\u241f": "\u241fvalue\u241f"}
"""Arguments of a sample call, which no template has of its own."""
_TOOL: Final[Json] = {
    "type": "function",
    "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}},
}


def _called(arguments: object) -> list[Json]:
    """A conversation with a call and its result; Mistral's templates want ids of nine letters."""
    call = {"id": "callnumb1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "callnumb1", "name": "f"},
    ]


class ChatTemplate:
    """One model's template, compiled.

    A template is foreign code: it runs in Jinja's sandbox, away from files and modules.

    Raises:
        ConfigError: the template is not valid Jinja.
        MissingExtra: jinja2 is not installed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        import jinja2

        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"the chat template is not valid Jinja (line {error.lineno}): {error.message}") from error
        self._failure = jinja2.TemplateError
        self._special_tokens = dict(special_tokens)

    @cached_property
    def arguments_as_text(self) -> bool:
        """Whether a tool call's arguments are to be text: an object is printed as Python does, or makes it fail.

        Some official templates join them to a text (DeepSeek), others walk through an object (GLM, Qwen3-Coder); what
        prints JSON (Qwen3, Llama) would escape a text once more.
        """
        try:
            shown = self.render(_called(_ARGUMENTS), generation=False, tools=(_TOOL,))
        except InvalidRequest:
            try:
                self.render(_called(json.dumps(_ARGUMENTS)), generation=False, tools=(_TOOL,))
            except InvalidRequest:
                return False  # it knows no tool calls at all
            return True
        return str(_ARGUMENTS) in shown

    def render(
        self,
        turns: Sequence[Json],
        *,
        generation: bool,
        tools: Sequence[Json] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt's text; with ``generation`` the assistant's turn is opened at its end.

        Raises:
            InvalidRequest: the template refuses these messages; the text holds its words.
        """
        values: dict[str, object] = {
            **self._special_tokens,
            "messages": turns,
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": generation,
            **(kwargs or {}),
        }
        try:
            return self._template.render(values)
        except self._failure as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}") from error
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            # A template's own bug. Its text may quote a message, so only its kind is shown.
            raise InvalidRequest(
                f"the model's chat template failed on these messages ({type(error).__name__}); "
                "check that it knows their roles, parts and tool calls"
            ) from error


def as_turn(message: Message, *, arguments_as_text: bool = False) -> dict[str, object]:
    """A message as templates read it: OpenAI's form, but tool arguments parsed, as most templates print JSON.

    Args:
        message: the message.
        arguments_as_text: for a template that has `ChatTemplate.arguments_as_text`.
    """
    turn: dict[str, object] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        turn["tool_calls"] = [_tool_call(call, as_text=arguments_as_text) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    return turn


def _content(message: Message) -> str | list[dict[str, object]]:
    if not message.images or isinstance(message.content, str):
        return message.text
    # Templates tell an image by its type or by the key "image_url"; this form satisfies both kinds.
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image", "image_url": {"url": part.url}}
        for part in message.content
    ]


def _tool_call(call: ToolCall, *, as_text: bool) -> dict[str, object]:
    arguments: object = call.arguments
    if not as_text:
        with suppress(ValueError, RecursionError):  # stays as the model wrote it; most templates print text unchanged
            arguments = json.loads(call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    try:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("rendering a chat template", extra="render") from error

    class GenerationTag(Extension):
        """``{% generation %}`` marks the assistant's words for training; for the text it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 — Jinja's own form

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A call block and no bare body: what is set inside stays inside, as in transformers.
            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002, RUF100 — the template's call decides
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002, RUF100
) -> str:
    """Jinja's own filter escapes HTML and sorts keys; models were trained on neither."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    """The local date, as templates print it."""
    return datetime.now().astimezone().strftime(form)

"""Chat messages → text → token ids of one model, so that nothing in a signal can act as a control token.

The think handoff is rendered here and sent as token ids, by trainer and client alike. What the caller writes
is trusted; the signal alone is not. It is encoded by a second tokenizer that knows no control tokens.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from duet_sdk.errors import ConfigError, InvalidRequest, MissingExtra, SignalError
from duet_sdk.rendering import control
from duet_sdk.rendering.files import TokenizerFiles, parse
from duet_sdk.rendering.folding import Folding, folded
from duet_sdk.rendering.probe import NO_ROOM, ThinkBlock, find_block, find_role_markers
from duet_sdk.rendering.template import ChatTemplate, as_turn
from duet_sdk.think_tags import is_left_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Encoding, Tokenizer

    from duet_sdk.types import Json, Message

_BLANK = re.compile(r"[\s▁]+")


class Renderer:
    """One model's chat template and tokenizer. Safe to use from many threads.

    >>> from duet_sdk.types import Message
    >>> words = {"type": "WordLevel", "vocab": {"?": 0, "hello": 1}, "unk_token": "?"}
    >>> files = TokenizerFiles(json.dumps({"version": "1.0", "model": words}), "{{ messages[0].content }}")
    >>> Renderer(files).chat_ids([Message("user", "hello")])
    (1,)

    Raises:
        ConfigError: the tokenizer cannot be read, or the template is not valid Jinja.
        MissingExtra: jinja2 or tokenizers is not installed.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        raw = parse(files.tokenizer_json, "tokenizer.json")
        self._raw = raw
        self._full = _tokenizer(files.tokenizer_json)
        # Asked of the tokenizer, as it numbers added tokens anew where the file's own numbers leave gaps.
        added = {at: token.content for at, token in self._full.get_added_tokens_decoder().items()}
        # Runs of spaces are added tokens in Gemma: ordinary text is full of them, and they control nothing.
        self._control = {at: text for at, text in added.items() if not _BLANK.fullmatch(text)}
        self._unknown = _unknown_id(raw)
        self._folding = Folding()
        self._template = (
            ChatTemplate(files.chat_template, files.special_tokens) if files.chat_template is not None else None
        )

    # What the caller wrote: trusted.

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation: bool = True,
        tools: Sequence[Json] = (),
        **template_kwargs: object,
    ) -> str:
        """The prompt's text; with ``generation`` the assistant's turn is opened at its end.

        Raises:
            ConfigError: the model has no chat template.
            InvalidRequest: the template refuses these messages; the text holds its words.
        """
        chat = self._chat()

        def text(asked: Sequence[Message]) -> str:
            as_text = any(message.tool_calls for message in asked) and chat.arguments_as_text
            turns = [as_turn(message, arguments_as_text=as_text) for message in asked]
            while True:
                level = self._folding.level
                fit = folded(turns, level) if level else turns
                try:
                    return chat.render(fit, generation=generation, tools=tools, kwargs=template_kwargs)
                except InvalidRequest:
                    if not self._folding.learns(turns, level=level):
                        raise

        try:
            return text(messages)
        except InvalidRequest:
            sendable = [_sendable(message) for message in messages]
            if sendable == list(messages):
                raise
            return text(sendable)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of trusted text: control strings in it become control tokens, none is added."""
        return tuple(self._encoding(text).ids)

    def chat_ids(
        self, messages: Sequence[Message], *, tools: Sequence[Json] = (), **template_kwargs: object
    ) -> tuple[int, ...]:
        """Ids of the prompt for these messages, the assistant's turn opened. Raises as `render`."""
        return self.encode(self.render(messages, generation=True, tools=tools, **template_kwargs))

    def count(self, messages: Sequence[Message], *, tools: Sequence[Json] = (), **template_kwargs: object) -> int:
        """Prompt tokens that these messages make. Raises as `render`."""
        return len(self.chat_ids(messages, tools=tools, **template_kwargs))

    def count_text(self, text: str) -> int:
        """Tokens of a text on its own."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens written out."""
        text: str = self._full.decode(list(ids), skip_special_tokens=False)
        return text

    def decode_shown(self, ids: Sequence[int]) -> str:
        """The text of ids as it is shown: special tokens left out, think tags that are ordinary text kept."""
        text: str = self._full.decode(list(ids), skip_special_tokens=True)
        return text

    # What a model wrote: untrusted.

    def encode_untrusted(self, text: str) -> tuple[int, ...]:
        """Ids of text after a control token, none of them a control token, whatever the text holds.

        Where a tokenizer knows no token for a character, its token for the unknown stands in the ids.

        Raises:
            SignalError: the tokenizer makes a control token all the same; none known does.
        """
        ids = self._bare.encode(control.clean(text), add_special_tokens=False).ids
        if any(self._controls(at) for at in ids):
            raise SignalError("the tokenizer makes a control token out of plain text; use handoff='instruct'")
        return tuple(ids)

    def neutralise(self, text: str) -> str:
        """Untrusted text as it may stand in a chat message: it makes no control token and no role marker.

        What would be one is broken by an invisible character after its first, by a space where the tokenizer
        drops invisible ones, and left out where even that fails. Ordinary text stays as it is. Idempotent.
        """
        text = control.without_leading_accents(control.clean(text))
        for breaker in control.BREAKERS:
            if not (spans := self._offences(text)):
                return text
            text = control.without_leading_accents(control.split(text, spans, breaker))
        while text and (spans := self._offences(text)):
            text = control.without_leading_accents(control.drop(text, spans))
        return text

    @cached_property
    def control_strings(self) -> frozenset[str]:
        """All added tokens, whatever their ``special`` flag, except runs of spaces."""
        return frozenset(self._control.values())

    @cached_property
    def role_markers(self) -> frozenset[str]:
        """What parts turns where no control token does, such as ``### Response:``, found in the template."""
        return find_role_markers(self._template, self.control_strings) if self._template else frozenset()

    # The think handoff.

    @property
    def can_think(self) -> bool:
        """Whether `think_ids` can hold a signal safely with this template and tokenizer."""
        return isinstance(self._found_block, ThinkBlock)

    @property
    def think_block(self) -> ThinkBlock:
        """Where the template puts thinking. Raises ConfigError as `think_ids`."""
        found = self._found_block
        if isinstance(found, str):
            raise ConfigError(f"no think handoff with this model: {found}; use handoff='instruct'")
        return found

    @property
    def no_think_block(self) -> str | None:
        """Why the template has no place for thinking, as a clause; None where it has one."""
        found = self._found_block
        return found if isinstance(found, str) else None

    @property
    def think_tags(self) -> tuple[str, str]:
        """What opens and closes the block: ``("<think>", "</think>")``. Raises as `think_ids`."""
        return self.think_block.tags

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the generation prompt itself ends inside an open think block, closable or not."""
        if self._template is None:
            return False
        found = self._found_block
        if isinstance(found, ThinkBlock):
            return not found.opener.strip()
        try:
            prompt = self._template.render([{"role": "user", "content": "?"}], generation=True)
        except InvalidRequest:
            return False
        return is_left_open(prompt)

    def think_ids(
        self, messages: Sequence[Message], signal: str, *, closed: bool = True, tools: Sequence[Json] = ()
    ) -> tuple[int, ...]:
        """Prompt whose open assistant turn holds ``signal``, stripped, as the model's own thinking.

        With ``closed`` the block is closed and the answer comes next, otherwise the thinking goes on. A training
        row is these ids and those of the answer, encoded apart.

        Raises:
            SignalError: the signal is empty: without one the generator is asked alone.
            ConfigError: this template or tokenizer cannot hold a signal safely.
            InvalidRequest: the template refuses these messages, or they switch its thinking off.
        """
        return self.put_thought(self.encode(self._prompt(messages, tools)), signal, closed=closed)

    def put_thought(self, prompt_ids: Sequence[int], signal: str, *, closed: bool = True) -> tuple[int, ...]:
        """As `think_ids`, for a prompt that was rendered elsewhere, its assistant's turn opened.

        Raises:
            SignalError: the signal is empty.
            ConfigError: as `think_ids`.
            InvalidRequest: the prompt does not end as this template ends one that leaves room for a think block.
        """
        block = self.think_block
        signal = signal.strip()
        if not signal:
            raise SignalError("the signal is empty; ask the generator without one")
        # One piece with the newlines around it: encoded apart, they give other ids than in training.
        span = self.encode_untrusted(block.lead + signal + (block.trail if closed else ""))
        return block.open(prompt_ids, self._header_ids, self._head_ids) + span + (self._closing_ids if closed else ())

    def partial_think_ids(
        self, messages: Sequence[Message], sampled_ids: Sequence[int], *, tools: Sequence[Json] = ()
    ) -> tuple[int, ...]:
        """Prompt in which the model goes on thinking after the ids it sampled, opening tag included or not.

        The ids are taken as they are: text encoded anew may give others, and loses a half-written character.
        From the closing tag on they are left out.

        Raises:
            ConfigError: as `think_ids`.
            InvalidRequest: as `think_ids`.
        """
        prompt = self._prompt(messages, tools)
        opener = self.encode(self.think_block.opener)
        sampled = tuple(sampled_ids)
        if any(self._controls(at) and at in sampled for at in opener):
            opener = ()
        closing = self._closing_ids[0]
        kept = sampled[: sampled.index(closing)] if closing in sampled else sampled
        return self.encode(prompt) + opener + kept

    def open_thought_tokens(self, prompt_ids: Sequence[int] = ()) -> int:
        """Tokens of the think block that these ids leave open, its opening tag left out; 0 where none is open.

        Without ids, what every generation prompt has. Raises ConfigError as `think_ids`.
        """
        ids = tuple(prompt_ids) or self._header_ids
        opening, closing = self._head_ids[-1], self._closing_ids[0]
        for after, at in enumerate(reversed(ids)):
            if at in (opening, closing):
                return after if at == opening else 0
        return 0

    # Inside.

    def _chat(self) -> ChatTemplate:
        if self._template is None:
            raise ConfigError(
                "the model has no chat template: it is a base model, or its chat_template.jinja is missing"
            )
        return self._template

    def _encoding(self, text: str) -> Encoding:
        return self._full.encode(control.clean(text), add_special_tokens=False)

    def _controls(self, at: int) -> bool:
        return at in self._control and at != self._unknown

    @cached_property
    def _bare(self) -> Tokenizer:
        unreachable = frozenset(self._control) - {self._unknown}
        return _tokenizer(json.dumps(control.bare_tokenizer(self._raw, control=unreachable)))

    @cached_property
    def _marker_pattern(self) -> re.Pattern[str] | None:
        return control.marker_pattern(self.role_markers)

    @cached_property
    def _header_ids(self) -> tuple[int, ...]:
        return self.encode(self.think_block.header)

    @cached_property
    def _head_ids(self) -> tuple[int, ...]:
        return self.encode(self.think_block.head)

    @cached_property
    def _closing_ids(self) -> tuple[int, ...]:
        return self.encode(self.think_block.closing)

    def _offences(self, text: str) -> list[control.Span]:
        """Where the text would be read as a control token or role marker."""
        encoding = self._encoding(text)
        spans = [
            span
            for at, span in zip(encoding.ids, encoding.offsets, strict=True)
            # The unknown id is an offence only where it is spelled out.
            if at in self._control and (at != self._unknown or text[slice(*span)].strip() == self._control[at])
        ]
        pattern, normalizer = self._marker_pattern, self._full.normalizer
        if pattern is not None:
            spans += control.find(pattern, text)
            if not spans and normalizer is not None and pattern.search(normalizer.normalize_str(text)):
                # The tokenizer drops what broke the marker. Found nowhere, it gives up the whole text.
                spans = control.find(pattern, text, without=control.BREAKERS[:2]) or [(0, len(text))]
        return spans

    @cached_property
    def _found_block(self) -> ThinkBlock | str:
        """The think block of the template, or why it has none that is safe."""
        if self._template is None:
            return "it has no chat template"
        return find_block(self._template, self._control_spans)

    def _control_spans(self, text: str) -> list[control.Span]:
        """Where control tokens stand in trusted text."""
        encoding = self._encoding(text)
        return [span for at, span in zip(encoding.ids, encoding.offsets, strict=True) if self._controls(at)]

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Json]) -> str:
        """The generation prompt, with thinking on."""
        block = self.think_block
        prompt = self.render(messages, generation=True, tools=tools, **block.kwargs)
        if not prompt.endswith(block.header):
            raise InvalidRequest(NO_ROOM)
        return prompt


def _sendable(message: Message) -> Message:
    """The message with its calls as a server gets them, for a template that walks through their arguments."""
    calls = tuple(replace(call, arguments=call.arguments_on_wire) for call in message.tool_calls)
    return replace(message, tool_calls=calls) if calls else message


def _tokenizer(text: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("encoding a prompt", extra="render") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises Exception itself, nothing narrower
        raise ConfigError(f"tokenizer.json cannot be loaded: {error}") from error
    tokenizer.no_truncation()  # a limit left in the file would cut prompts silently
    tokenizer.no_padding()
    return tokenizer


def _unknown_id(raw: dict[str, Any]) -> int | None:
    """The id that the model itself gives to characters it does not know, None where it knows all."""
    model = raw["model"]
    if isinstance(model.get("vocab"), list):
        unknown: int | None = model.get("unk_id")
    else:
        unknown = model["vocab"].get(model.get("unk_token"))
    return unknown

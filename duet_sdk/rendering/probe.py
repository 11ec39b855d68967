"""What a chat template shows when it renders sample turns: where thinking stands, what parts its turns.

Nothing is known of families by name: a new model works as soon as its template does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet_sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from duet_sdk.rendering.control import Span
    from duet_sdk.rendering.template import ChatTemplate

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_THINKING_ON: tuple[Mapping[str, bool], ...] = ({}, {"enable_thinking": True}, {"thinking": True})
NO_ROOM = (
    "these messages make the chat template end its prompt without room for a think block "
    "(do they switch thinking off?); use handoff='instruct' for them"
)
_BRACKETED = re.compile(r"[\[<{]\S*[\]>}]")
# Letters between rare marks: templates keep them as they are, and have none of their own.
_SYSTEM, _USER, _SIGNAL, _ANSWER, _NEXT = (
    f"\u241f{name}\u241f" for name in ("system", "user", "signal", "answer", "next")
)


@dataclass(frozen=True, slots=True)
class ThinkBlock:
    """Where a template puts thinking: conversation and header, opener, signal, trail and closing, answer."""

    header: str
    """The end of the generation prompt, from its last control token on."""
    opener: str
    """Between generation prompt and signal; empty where the generation prompt opens the block."""
    lead: str
    """Plain text before the signal: the end of header and opener after their last control token."""
    trail: str
    """Plain text after the signal."""
    closing: str
    """From the control token that closes the block up to the answer."""
    tags: tuple[str, str]
    kwargs: Mapping[str, bool]
    """The template's arguments that turn thinking on."""

    @property
    def head(self) -> str:
        """Header and opener up to their last control token."""
        text = self.header + self.opener
        return text[: len(text) - len(self.lead)]

    def open(self, prompt_ids: Sequence[int], header_ids: Sequence[int], head_ids: Sequence[int]) -> tuple[int, ...]:
        """The prompt with an open block, up to the last control token before the thinking.

        Args:
            prompt_ids: a generation prompt.
            header_ids: the ids of ``header``.
            head_ids: the ids of ``head``.

        Raises:
            InvalidRequest: the prompt does not end with the header.
        """
        start = len(prompt_ids) - len(header_ids)
        # The header begins with a control token, so what precedes it cannot change its ids.
        if start < 0 or tuple(prompt_ids[start:]) != tuple(header_ids):
            raise InvalidRequest(NO_ROOM)
        return (*prompt_ids[:start], *head_ids)


def find_block(template: ChatTemplate, control_spans: Callable[[str], Sequence[Span]]) -> ThinkBlock | str:
    """The think block of a template, or why a signal cannot stand in one safely.

    ``control_spans`` tells where the tokenizer finds control tokens in a text.
    """
    reason = "its chat template drops the thinking of an assistant's turn"
    for kwargs in _THINKING_ON:
        for field in _REASONING_FIELDS:
            user = {"role": "user", "content": _USER}
            row = [user, {"role": "assistant", field: _SIGNAL, "content": _ANSWER}]
            try:
                text = template.render(row, generation=False, kwargs=kwargs)
                prompt = template.render([user], generation=True, kwargs=kwargs)
            except InvalidRequest:
                continue
            before, found, rest = text.partition(_SIGNAL)
            glue, answered, after = rest.partition(_ANSWER)
            if not found or not answered or _SIGNAL in rest or _ANSWER in before + after:
                continue
            if not before.startswith(prompt):
                reason = "its chat template begins a turn in another way than its generation prompt"
                continue
            block = _measure(prompt, before[len(prompt) :], glue, kwargs, control_spans)
            if isinstance(block, ThinkBlock):
                return block
            reason = block
    return reason


def _measure(
    prompt: str,
    opener: str,
    glue: str,
    kwargs: Mapping[str, bool],
    control_spans: Callable[[str], Sequence[Span]],
) -> ThinkBlock | str:
    """The parts around the signal, cut where the tokenizer cuts: a token may include adjacent whitespace."""
    before = prompt + opener
    start, end = len(before), len(before) + len(_SIGNAL)
    spans = control_spans(before + _SIGNAL + glue)
    earlier = [span for span in spans if span[1] <= start]
    later = [span for span in spans if span[0] >= end]
    cut = later[0][0] - end if later else len(glue)
    lead = before[earlier[-1][1] :] if earlier else before
    if not later or glue[:cut].strip() or any(map(_BRACKETED.fullmatch, lead.split())):
        return "what opens or closes its think block is not one control token, so a signal could do it too"
    header = max((span[0] for span in earlier if span[1] <= len(prompt)), default=0)
    if header < prompt.index(_USER):
        return "no control token stands between the question and its think block"
    opening_tag = opener.strip() or before[slice(*earlier[-1])].strip()
    closing_tag = glue[cut : later[0][1] - end].strip()
    return ThinkBlock(
        header=prompt[header:],
        opener=opener,
        lead=lead,
        trail=glue[:cut],
        closing=glue[cut:],
        tags=(opening_tag, closing_tag),
        kwargs=kwargs,
    )


def find_role_markers(template: ChatTemplate, control_strings: frozenset[str]) -> frozenset[str]:
    """What parts turns where no control string does, such as ``### Response:``, and tags that are text."""
    turns = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _NEXT},
    ]
    for head in ([{"role": "system", "content": _SYSTEM}], []):
        try:
            text = template.render([*head, *turns], generation=True)
        except InvalidRequest:
            continue  # many templates know no system prompt
        separators = re.split("|".join((_SYSTEM, _USER, _ANSWER, _NEXT)), text)
        return _markers(separators, control_strings, with_head=bool(head))
    return frozenset()


def _markers(separators: Sequence[str], control_strings: frozenset[str], *, with_head: bool) -> frozenset[str]:
    longest_first = sorted(control_strings, key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    markers: set[str] = set()
    for place, separator in enumerate(separators):
        pieces = control.split(separator)
        if len(pieces) == 1 and (place > 0 or with_head):
            markers.update(line.strip() for line in separator.splitlines())
        else:
            markers.update(word for piece in pieces for word in piece.split() if _BRACKETED.fullmatch(word))
    return frozenset(marker for marker in markers if 2 <= len(marker) <= 64)

"""Thinking that a model writes into its text: the tags of the published families, and what of a text is the answer.

Servers that know a model's tags hand its thinking over in a field of its own. Others leave it in the text: with its
tags, or with the closing one alone where the chat template has opened the block in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

THINK_TAGS = ("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models marks its thinking."""

    opens: tuple[str, ...]
    """What begins a thought."""
    closes: tuple[str, ...]
    """What ends it."""
    answers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What may introduce the answer, with what may end it; neither is a part of it."""
    is_prose: bool = False
    """Its marks are ordinary words, which open a thought only where they close it, too."""


_HARMONY_END = ("<|return|>", "<|end|>")

FAMILIES: Final = (
    # DeepSeek R1 and V3.1, Qwen3, QwQ, GLM-4.5, MiniMax M1 and M2, Kimi K2, Phi-4, Nemotron, OLMo 3, Step3, EXAONE 4,
    # Hunyuan; Granite 3.3 and ERNIE 4.5 put the answer into tags as well: vllm/reasoning, sglang/srt/parser
    Family(("<think>",), ("</think>",), (("<response>", ("</response>",)),)),
    Family(("<thinking>",), ("</thinking>",)),  # what prompts ask for: Claude's prompt guide; Open WebUI's list
    Family(("<reasoning>",), ("</reasoning>",)),  # the same; Hermes 4
    Family(("<reason>",), ("</reason>",)),  # Open WebUI's list
    Family(("<thought>", "<Thought>"), ("</thought>", "</Thought>")),  # EXAONE Deep's template; Open WebUI's list
    Family(("<reflection>",), ("</reflection>",)),  # Reflection 70B's model card
    Family(("<seed:think>",), ("</seed:think>",)),  # Seed-OSS: vllm/reasoning/seedoss_reasoning_parser.py
    Family(("<mm:think>",), ("</mm:think>",)),  # MiniMax M3: sglang/srt/parser/reasoning_parser.py
    Family(("<longcat_think>",), ("</longcat_think>",)),  # LongCat Flash: vllm/reasoning/longcat_reasoning_parser.py
    Family(("[THINK]",), ("[/THINK]",)),  # Magistral: vllm/reasoning/mistral_reasoning_parser.py
    Family(("◁think▷",), ("◁/think▷",)),  # Kimi VL and Kimi Dev: sglang/srt/parser/reasoning_parser.py
    # OpenThinker, Sky-T1: the data set's system prompt
    Family(
        ("<|begin_of_thought|>",),
        ("<|end_of_thought|>",),
        (("<|begin_of_solution|>", ("<|end_of_solution|>",)),),
    ),
    # Command A Reasoning, Command 4: sglang/srt/parser/reasoning_parser.py, llama.cpp common/chat.cpp
    Family(
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        (("<|START_RESPONSE|>", ("<|END_RESPONSE|>",)), ("<|START_TEXT|>", ("<|END_TEXT|>",))),
    ),
    Family(("<|inner_prefix|>",), ("<|inner_suffix|>",)),  # Apertus: vllm/reasoning/apertus_reasoning_parser.py
    Family(("<|channel>thought",), ("<channel|>",)),  # Gemma 4: vllm/reasoning/gemma4_reasoning_parser.py
    # Kimi K3: sglang/srt/parser/reasoning_parser.py
    Family(
        ("<|open|>think<|sep|>",),
        ("<|close|>think<|sep|>",),
        (("<|open|>response<|sep|>", ("<|close|>response<|sep|>",)),),
    ),
    # Inkling: sglang/srt/parser/reasoning_parser.py
    Family(
        ("<|message_model|><|content_thinking|>", "<|content_thinking|>"),
        ("<|end_message|>",),
        (
            ("<|message_model|><|content_text|>", ("<|end_message|>", "<|content_model_end_sampling|>")),
            ("<|content_text|>", ("<|end_message|>", "<|content_model_end_sampling|>")),
        ),
    ),
    # gpt-oss: https://cookbook.openai.com/articles/openai-harmony
    Family(
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|end|>",),
        (
            ("<|start|>assistant<|channel|>final<|message|>", _HARMONY_END),
            ("<|channel|>final<|message|>", _HARMONY_END),
        ),
    ),
    # The same where a server has left out the special tokens: https://github.com/vllm-project/vllm/issues/22403
    Family(("analysis",), ("assistantfinal",), (("assistantfinal", ()),), is_prose=True),
    # Granite 3.2: vllm/reasoning/granite_reasoning_parser.py
    Family(
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        is_prose=True,
    ),
)
"""The families; a new one is a row here and a case in ``tests/test_think_tags.py``."""

_OPENS: Final = {mark: family for family in FAMILIES for mark in family.opens}
_ANSWERS: Final = {mark: ends for family in FAMILIES for mark, ends in family.answers}
_CLOSES: Final = tuple(dict.fromkeys(mark for family in FAMILIES if not family.is_prose for mark in family.closes))
_CLOSE_SET: Final = frozenset(_CLOSES)
_MARKS: Final = tuple(dict.fromkeys((*_CLOSES, *_ANSWERS, *_OPENS)))
_BY_FIRST: Final = {first: tuple(mark for mark in _MARKS if mark[0] == first) for first in {mark[0] for mark in _MARKS}}
"""First character → what may begin with it: most answers begin with none."""
_MAY_BEGIN: Final = frozenset((*_BY_FIRST, *(chr(code) for code in range(0x3001) if chr(code).isspace())))
"""What may stand before a mark, or begin it: every whitespace is below U+3001."""
_BEHIND_A_THOUGHT: Final = frozenset({"<response>"})
"""Marks that people use for other things, too: they introduce an answer only behind a thought."""
BLOCKS: Final = tuple(family for family in FAMILIES if not family.is_prose)
"""The families whose marks are tags."""
_TAG_OPENS: Final = tuple(mark for family in BLOCKS for mark in family.opens)
_OPENED: Final = Family((), _CLOSES, is_prose=True)
"""The block that a template has opened: whether there is one, and of which family, shows at its end."""
_OPEN: Final = re.compile("|".join(re.escape(mark) for mark, family in _OPENS.items() if not family.is_prose))
_CLOSE: Final = re.compile("|".join(re.escape(mark) for mark in sorted(_CLOSES, key=len, reverse=True)))
_MOST_TALK: Final = 64
"""Tags that a text is looked through for one that is meant: a text with more is about them, and each costs a look back
to where the text begins."""
_STEP: Final = 1 << 13
"""Characters that are looked at in one go: each mark copies what is behind it, and a text may be nothing but marks."""
_MOST_PIECES: Final = 64
"""Pieces of a text that are kept apart: each takes 60 bytes more than its letters, in every stream that is open."""
_QUOTED: Final = re.compile(r"[`\"'“”‘’«»]")
_GOES_ON: Final = re.compile(r"[^\S\n]*(?:[a-z]|[,.;:)])")
"""How a sentence goes on behind a tag that it is about."""
_SENTENCE_END: Final = re.compile(r"(?:^|[.!?:…。！？\n])[^\S\n]*$")


class LeadingThought:
    """Takes thinking off the start of an answer that comes in pieces; tags anywhere else are the answer's own text.

    >>> thought = LeadingThought()
    >>> thought.feed("<think>let me see") + thought.feed("</think>") + thought.feed(" 17") + thought.end()
    ' 17'

    Args:
        opened: the model's template opens a block: everything may be thinking, up to a closing tag.

    Attributes:
        is_over: the answer's own text has begun, and `feed` gives back what it is given.
        found: there was thinking in the text.
    """

    __slots__ = (
        "_block",
        "_ends",
        "_family",
        "_is_done",
        "_opener",
        "_pending",
        "_separate",
        "_thought",
        "found",
        "is_over",
    )

    def __init__(self, *, opened: bool = False) -> None:
        self._family: Family | None = _OPENED if opened else None
        self._opener = ""
        self._pending = ""
        self._thought: list[str] = []
        self._block: list[str] = []  # of the thought, what stands in the block that is open
        self._separate: list[str] = []
        self._ends: tuple[str, ...] | None = None
        self._is_done = False
        self.found = False
        self.is_over = False

    def feed(self, text: str, reasoning: str = "") -> str:
        """Take a piece of the answer, and of the thinking that its server keeps apart; gives what of it to show."""
        if self.is_over:
            return text
        if text and not (text[0] in _MAY_BEGIN or self._pending or self._family or self._ends or reasoning):
            self.is_over = True  # most answers: no mark begins here
            return text
        if reasoning:
            self._separate.append(reasoning)
            if self._family is _OPENED:
                self._family = None  # its server knows where the thinking ends
        if len(text) > _STEP:
            return "".join(self.feed(text[at : at + _STEP]) for at in range(0, len(text), _STEP))
        if not text or self._is_done:
            return ""
        self._pending += text
        while (shown := self._step()) is None:
            pass
        return shown

    def _step(self) -> str | None:
        """What to show of what is pending; None where that has changed, and is to be looked at once more."""
        if self._family is not None:
            return self._inside(self._family)
        return self._outside() if self._ends is None else self._introduced(self._ends)

    def _inside(self, family: Family) -> str | None:
        pending = self._pending
        if found := [(at, mark) for mark in family.closes if (at := pending.find(mark)) >= 0]:
            at, mark = min(found)
            self._thought += [*self._block, pending[:at]]
            self._block.clear()
            self._family, self._pending, self.found = None, pending[at + len(mark) :], True
            return None
        keep = max(overlap(pending, mark) for mark in family.closes)
        self._block.append(pending[: len(pending) - keep])
        self._pending = pending[len(pending) - keep :]
        return ""

    def _outside(self) -> str | None:
        start = self._pending.lstrip()
        if not start:
            return ""
        if (marks := _BY_FIRST.get(start[0])) is not None:
            for mark in marks:
                if start.startswith(mark) and self._take(mark, start):
                    return None
            if any(mark.startswith(start) for mark in marks):
                return ""  # one may be split over two pieces
        self.is_over, rest, self._pending = True, self._pending, ""
        return rest

    def _take(self, mark: str, start: str) -> bool:
        """Take a mark off the start of what is pending; whether it is one here."""
        rest = start[len(mark) :]
        if mark in _CLOSE_SET:
            self.found = True
        elif mark in _ANSWERS:
            if not self.found and mark in _BEHIND_A_THOUGHT:
                return False
            self._ends = _ANSWERS[mark]
        else:
            family = _OPENS[mark]
            # A word of its own is no mark: where a server has left out the tokens around it, nothing stands between.
            if family.is_prose and mark[-1].isalpha() and rest[:1].isspace():
                return False
            self._opener, self._family = mark, family
        self._pending = rest
        return True

    def _introduced(self, ends: Sequence[str]) -> str:
        """The answer up to the mark that ends it."""
        pending = self._pending
        if found := [at for mark in ends if (at := pending.find(mark)) >= 0]:
            self._is_done, self._pending = True, ""
            return pending[: min(found)]
        keep = max((overlap(pending, mark) for mark in ends), default=0)
        self._pending = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]

    def end(self, *, was_cut: bool = False) -> str:
        """What is left to show when the answer is over.

        Args:
            was_cut: its limit ended it; then what words have opened is thinking although nothing closed it.
        """
        family, rest = self._family, self._pending
        self.is_over, self._family, self._pending = True, None, ""
        if family is None:
            return rest
        if family.is_prose and not was_cut:
            return "".join([self._opener, *self._block, rest])
        self._thought += [*self._block, rest]
        self.found = True
        return ""

    @property
    def text(self) -> str:
        """The thinking that stood in the text, without surrounding whitespace."""
        return "".join(self._thought).strip()

    @property
    def separate(self) -> str:
        """The thinking that the server kept apart, as far as it came before the text."""
        return "".join(self._separate)


def split(text: str, *, anywhere: bool = False) -> tuple[str, str]:
    r"""The thinking in a whole text, and the answer.

    Thinking is a block at the start, or what stands before a closing tag that nothing has opened. Tags in code, in
    quotation marks or amid a sentence are talked about, and are text.

    >>> split("The west coast.\n</think>\n\nBergen.")
    ('The west coast.', '\n\nBergen.')
    >>> split("A block ends with `</think>`.")
    ('', 'A block ends with `</think>`.')

    Args:
        text: all that a model wrote.
        anywhere: a block that is opened further on and closed counts as well, with what stands before it.
    """
    # Every closing tag holds one of these, and few texts do: to look for four costs a fraction of the whole pattern.
    is_hinted = "</" in text or "[/" in text or "◁/" in text or "|>" in text
    if not is_hinted and text[:1] not in _MAY_BEGIN:
        return "", text
    thought = LeadingThought()
    answer = thought.feed(text) + thought.end()
    if thought.found or answer != text:
        return thought.text, answer
    if not is_hinted or (close := _first_meant(_CLOSE, text)) is None:
        return "", text
    before = text[: close.start()]
    if not anywhere and _first_meant(_OPEN, before) is not None:
        return "", text
    rest = LeadingThought()
    rest.found = True
    return before.strip(), rest.feed(text[close.end() :]) + rest.end()


def _first_meant(tags: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The first tag that the text does not talk about."""
    found = islice(tags.finditer(text), _MOST_TALK)
    return next((tag for tag in found if not _is_mentioned(text, tag.start(), tag.end())), None)


def _is_mentioned(text: str, start: int, end: int) -> bool:
    """Whether a text talks about the tag that stands there."""
    if text.count("```", 0, start) % 2:
        return True
    line = text[text.rfind("\n", 0, start) + 1 : start]
    if line.count("`") % 2 and "`" in text[end:].partition("\n")[0]:
        return True
    if line and _QUOTED.match(line[-1]) and _QUOTED.match(text, end):
        return True
    is_apart = line[-1:].isspace() and not _SENTENCE_END.search(line)
    return is_apart and _GOES_ON.match(text, end) is not None


def is_left_open(prompt: str) -> bool:
    """Whether a prompt ends inside a block, which the answer then goes on in."""
    return prompt.rstrip().endswith(_TAG_OPENS)


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of ``text`` that is a start of ``tag``, at most one less than the tag."""
    start = max(0, len(text) - len(tag) + 1)
    while (start := text.find(tag[0], start)) >= 0:
        if tag.startswith(text[start:]):
            return len(text) - start
        start += 1
    return 0


def gather(pieces: list[str], piece: str) -> None:
    """Append a piece of a text, and now and then make one of them all."""
    pieces.append(piece)
    if len(pieces) > _MOST_PIECES:
        pieces[:] = ["".join(pieces)]

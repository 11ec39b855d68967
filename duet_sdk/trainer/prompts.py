"""What both models read in training: token ids, made by the very code that serves the pair.

The reasoner is asked as `duet_sdk.handoff.Think` asks it, its output becomes a signal by `duet_sdk.signal.Extractor`,
and the generator's prompt is `Renderer.think_ids`. An empty signal leaves the generator alone, as in serving.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from duet_sdk.errors import ConfigError
from duet_sdk.handoff import LocalThinkRenderer, Think, without_signal
from duet_sdk.policies import Prompts
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.signal import Extractor, Sentence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from duet_sdk.types import Message

_NO_PROMPTS = Prompts()


@dataclass(frozen=True, slots=True)
class WrittenSignal:
    """What the reasoner wrote for a question."""

    text: str
    """The signal, as the generator gets it; empty if there is none."""
    tokens: int
    """All tokens it wrote, tags included."""
    cut: bool
    """Whether its limit ended it."""


def renderer_to_train(stage: str, folder: str | Path) -> Renderer:
    """The renderer of a model in a folder. Raises as `PairPrompts`, and ConfigError where its tokenizer is missing."""
    return _that_thinks(stage, TokenizerFiles.from_folder(folder))


def cannot_train(stage: str, why: str) -> str:
    """The message for a model whose template has no place for thinking."""
    return (
        f"the {stage} cannot be trained: {why}, and signals are trained as thinking; take a model that thinks, such as "
        "Qwen/Qwen3-0.6B"
    )


def _that_thinks(stage: str, files: TokenizerFiles) -> Renderer:
    renderer = Renderer(files)
    if (why := renderer.no_think_block) is not None:
        raise ConfigError(cannot_train(stage, why))
    return renderer


class PairPrompts:
    """Questions and signals → token ids for a pair.

    Args:
        reasoner: the reasoner's tokenizer and template.
        generator: the generator's.

    Raises:
        ConfigError: a template cannot hold a signal safely.
    """

    def __init__(self, reasoner: TokenizerFiles, generator: TokenizerFiles) -> None:
        self.reasoner, self.generator = _that_thinks("reasoner", reasoner), _that_thinks("generator", generator)
        self._handoff = Think(LocalThinkRenderer(self.generator), reasoner=self.reasoner, takes_ids=True)
        self._thinks, self._answers = reasoner.thinking_kwargs(True), generator.thinking_kwargs(False)
        self.ask_ids = lru_cache(maxsize=4096)(self._ask_ids)
        self.unguided_ids = lru_cache(maxsize=4096)(self._unguided_ids)

    @classmethod
    def of(cls, reasoner: str | Path, generator: str | Path) -> PairPrompts:
        """For the models in two folders. Raises as the class, and ConfigError where a tokenizer is missing."""
        return cls(TokenizerFiles.from_folder(reasoner), TokenizerFiles.from_folder(generator))

    @property
    def closing_id(self) -> int:
        """The token that ends the reasoner's thinking, and with it its signal."""
        return self.reasoner.encode(self.reasoner.think_tags[1])[0]

    def _ask_ids(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The prompt that makes the reasoner think about a question."""
        call = self._handoff.ask(messages, limit=1, prompts=_NO_PROMPTS, tools=())
        return self.reasoner.chat_ids(call.messages, **self._thinks)

    def _unguided_ids(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The prompt of the generator without a signal, its thinking off."""
        call = without_signal(messages, prompts=_NO_PROMPTS)
        return self.generator.chat_ids(call.messages, **self._answers)

    def guided_ids(self, messages: tuple[Message, ...], signal: str) -> tuple[int, ...]:
        """The prompt of the generator whose turn holds the signal; that without one where it is empty."""
        return self.generator.think_ids(messages, signal) if signal.strip() else self.unguided_ids(messages)

    def signal(self, sampled: Sequence[int], *, ends: frozenset[int] = frozenset()) -> WrittenSignal:
        """The signal in what the reasoner sampled: up to the closing tag, or cut as serving cuts it.

        Args:
            sampled: token ids.
            ends: tokens that end its output without closing the block.
        """
        ids, tags = list(sampled), self.reasoner.think_tags
        closed = self.closing_id in ids
        kept = ids[: ids.index(self.closing_id)] if closed else ids
        extractor = Extractor("thinking", tags=tags, opened=self.reasoner.opens_thinking)
        extractor.feed(self.reasoner.decode_shown(kept) + (tags[1] if closed else ""))
        cut = not closed and (not ids or ids[-1] not in ends)
        text = Sentence().cut(extractor.text, limit=len(ids)) if cut else extractor.text
        return WrittenSignal(text, len(ids), cut)

    def signal_ids(self, text: str) -> tuple[int, ...]:
        """What the reasoner samples to write this signal, for supervised rows; their prompt is `ask_ids`.

        Opening tag where it is not in the prompt already, text, closing tag.
        """
        block, text = self.reasoner.think_block, text.strip()
        opener = block.opener.removesuffix(block.lead)
        lead = block.lead if block.opener else ""
        return (
            *self.reasoner.encode(opener),
            *self.reasoner.encode_untrusted(lead + text + block.trail),
            self.closing_id,
        )

    def answer_text(self, sampled: Sequence[int]) -> str:
        """The text of an answer, special tokens left out."""
        return self.generator.decode_shown(sampled).strip()

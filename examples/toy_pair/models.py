"""The toy's tokenizer and models: a word is a token, and both models are Qwen3's architecture, very small."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from duet_sdk.handoff import THINK_REQUEST
from toy_pair.family import BRIEFLY, DAYS, NUMBERS, OPENINGS, OPERATORS, QUESTIONS

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }} "
    "{% if message.role == 'assistant' %}<think> {{ message.reasoning_content or '' }} </think> {% endif %}"
    "{{ message.content }} <|im_end|> "
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant <think>"
    "{% if enable_thinking is defined and not enable_thinking %} </think>{% endif %}{% endif %}"
)
END, PAD = "<|im_end|>", "<|pad|>"
SPECIAL = (PAD, "<|im_start|>", END)
THINK = ("<think>", "</think>")
UNKNOWN = "?unknown"


def tokenizer() -> Tokenizer:
    """A word-level tokenizer for the family, with think tags as Qwen3 ships them."""
    rest = "is ; . , assistant user system reason"
    words = " ".join((*OPENINGS, *QUESTIONS, BRIEFLY, *NUMBERS, *DAYS, *OPERATORS, rest))
    vocabulary = dict.fromkeys([UNKNOWN, *words.split()])
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    # The handoff's request is fixed text: one word represents it, so that the vocabulary stays small.
    made.normalizer = normalizers.Replace(THINK_REQUEST, "reason")
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(SPECIAL))
    made.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINK])
    return made


def save(folder: Path, *, hidden: int, layers: int, seed: int) -> Path:
    """Write a model with random weights into ``folder``."""
    words = tokenizer()
    end, pad = words.token_to_id(END), words.token_to_id(PAD)
    config = Qwen3Config(
        vocab_size=words.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=max(16, hidden // 4),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=end, pad_token_id=pad, do_sample=False
    )
    model.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**facts, "padding_side": "left", "clean_up_tokenization_spaces": False}), encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder

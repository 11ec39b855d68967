"""Tiny models on disk, made in a second: one that recites given pieces, one with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")


def recite(folder: Path, pieces: list[str | bytes], *, end: bool = True, context_tokens: int = 4096) -> Path:
    """Save a model that answers every prompt with these pieces, one token each, and ends (or starts over)."""
    raw = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    tokenizer = _tokenizer([_mapped(piece) for piece in raw])
    names = [piece if piece in (*SPECIAL, *THINK) else _mapped(one) for piece, one in zip(pieces, raw, strict=True)]
    ids = [tokenizer.token_to_id(name) for name in names]
    assert len(set(ids)) == len(ids), "a token can have only one successor"
    model = _model(tokenizer, context_tokens)
    size = tokenizer.get_vocab_size()
    following = dict(zip(ids, [*ids[1:], tokenizer.token_to_id("<|im_end|>") if end else ids[0]], strict=True))
    with torch.no_grad():
        # No layer adds anything: what comes next depends on the last token alone.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token in range(size):
            model.lm_head.weight[following.get(token, ids[0]), token] = 1.0
    return _save(folder, model, tokenizer)


def random_weights(folder: Path, *, seed: int = 0, layers: int = 2, context_tokens: int = 4096) -> Path:
    """Save a model that says any bytes, nearly all alike in probability, and hardly ever ends."""
    tokenizer = _tokenizer([])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _model(tokenizer, context_tokens, layers)
    return _save(folder, model, tokenizer)


def _tokenizer(pieces: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *dict.fromkeys(piece for piece in pieces if piece not in alphabet)]
    tokenizer = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINK])
    return tokenizer


def _mapped(piece: bytes) -> str:
    """Bytes in the letters that byte-level tokenizers write them in."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return "".join(letters[byte] for byte in piece)


def _model(tokenizer: Tokenizer, context_tokens: int, layers: int = 1) -> LlamaForCausalLM:
    size = tokenizer.get_vocab_size()
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,  # the least that vLLM has a CPU kernel for
        max_position_embeddings=context_tokens,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def _save(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> Path:
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.token_to_id("<|im_end|>"))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder

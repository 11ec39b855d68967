"""How large a model is, from its ``config.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from duet_sdk import models
from duet_sdk.errors import DuetError, TrainingError
from duet_sdk.models.folder import read_json

KNOWN: Mapping[str, Mapping[str, int | bool]] = {
    "Qwen/Qwen3-4B": {
        "num_hidden_layers": 36, "hidden_size": 2560, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen3-8B": {
        "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936, "tie_word_embeddings": False,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen3-1.7B": {
        "num_hidden_layers": 28, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 6144, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "Qwen/Qwen3-0.6B": {
        "num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
}  # fmt: skip
"""The paper's pair and its siblings, to plan for where nothing is downloaded. Source: their config.json on the hub."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder with gated feed-forward layers (Llama, Qwen, Mistral, Gemma, SmolLM …).

    >>> round(ModelShape.of(KNOWN["Qwen/Qwen3-4B"]).parameters / 1e9, 2)
    4.02
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether input and output embeddings are one matrix."""
    window: int | None = None
    """Longest prompt and output together, in tokens."""

    @classmethod
    def of(cls, config: Mapping[str, object]) -> ModelShape:
        """The sizes that a ``config.json`` says.

        Raises:
            TrainingError: it does not describe a decoder.
        """
        inner = config.get("text_config")
        facts = {**config, **inner} if isinstance(inner, Mapping) else config
        try:
            heads, hidden = _whole(facts["num_attention_heads"]), _whole(facts["hidden_size"])
            return cls(
                layers=_whole(facts["num_hidden_layers"]),
                hidden=hidden,
                heads=heads,
                kv_heads=_whole(facts.get("num_key_value_heads") or heads),
                head_dim=_whole(facts.get("head_dim") or hidden // heads),
                intermediate=_whole(facts["intermediate_size"]),
                vocabulary=_whole(facts["vocab_size"]),
                tied=bool(facts.get("tie_word_embeddings", False)),
                window=_whole(facts["max_position_embeddings"]) if facts.get("max_position_embeddings") else None,
            )
        except (KeyError, TypeError, ZeroDivisionError) as err:
            raise TrainingError(f"its config.json does not describe a decoder with gated layers ({err})") from err

    @property
    def parameters(self) -> int:
        """All weights; biases and the norms of queries and keys, below a thousandth, are left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        feed_forward = 3 * self.hidden * self.intermediate
        layer = attention + feed_forward + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Weights of a LoRA adapter on all linear layers: rank · (inputs + outputs) of each."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sums = 2 * (self.hidden + queries) + 2 * (self.hidden + keys) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * sums

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one token, held in two bytes a number.

        >>> tuple(ModelShape.of(KNOWN[name]).kv_bytes // 1024 for name in KNOWN)
        (144, 144, 112, 112)
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


def find_shape(model: str, *, revision: str | None = None) -> ModelShape | None:
    """The shape of a model that lies here, in the cache, or is known; None for others: nothing is downloaded.

    Raises:
        TrainingError: its ``config.json`` does not describe a decoder.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        try:
            folder = models.find(model, revision=revision) or folder
        except DuetError:
            return None
    file = folder / "config.json"
    if not file.is_file():
        return ModelShape.of(KNOWN[model]) if model in KNOWN else None
    config = read_json(file)
    if config is None:
        raise TrainingError(f"{file} is not a JSON object; fetch or copy the model again")
    try:
        return ModelShape.of(config)
    except TrainingError as err:
        raise TrainingError(f"{model}: {err}; its memory cannot be planned") from err


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value

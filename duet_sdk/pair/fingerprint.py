"""What identifies a model's tokenizer, template and quantisation, here and on a server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from duet_sdk.errors import ConfigError, InvalidRequest, MissingExtra
from duet_sdk.models.folder import read_json
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.types import Message

CONVERSATION = (
    Message("user", "How many primes are below 60?"),
    Message("assistant", "There are 17."),
    Message("user", "  And below  100? Naïve, 日本, 3×7=21.\n\n- one\n- two"),
)
"""What is rendered on both sides to compare templates and tokenizers together; part of the manifest's format."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 sums of a model's parts; None where a part is not there or not at hand."""

    tokenizer: str | None = None
    """Of ``tokenizer.json``."""
    chat_template: str | None = None
    """Of the template's text."""
    quantisation: str | None = None
    """Of the quantisation's settings."""
    conversation: str | None = None
    """Of the token ids that `CONVERSATION` makes."""


def fingerprint_of_folder(folder: Path) -> Fingerprint:
    """The sums of a model, or an adapter, in a folder; what the folder lacks is None."""
    try:
        files = TokenizerFiles.from_folder(folder)
    except ConfigError:
        return Fingerprint(quantisation=quantisation_of_folder(folder))
    return replace(
        fingerprint_of_files(files),
        quantisation=quantisation_of_folder(folder),
        conversation=None if files.chat_template is None else _conversation(files),
    )


def quantisation_of_folder(folder: Path) -> str | None:
    """The sum of the quantisation's settings in a model's ``config.json``, None for a model that is not quantised."""
    settings = (read_json(folder / "config.json") or {}).get("quantization_config")
    return None if settings is None else _sum(json.dumps(settings, sort_keys=True))


def fingerprint_of_files(files: TokenizerFiles) -> Fingerprint:
    """The sums of a tokenizer and template at hand."""
    template = None if files.chat_template is None else _sum(files.chat_template)
    return Fingerprint(tokenizer=_sum(files.tokenizer_json), chat_template=template)


def sum_of_ids(ids: Sequence[int]) -> str:
    """The sum of token ids."""
    return _sum(json.dumps(list(ids)))


def _conversation(files: TokenizerFiles) -> str | None:
    try:
        return sum_of_ids(Renderer(files).chat_ids(CONVERSATION))
    except (ConfigError, InvalidRequest, MissingExtra):
        # No template, one that refuses these turns, or no library to render it with.
        return None


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""What a model's folder says about its tokenizer and chat template, as plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duet_sdk.errors import ConfigError

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a model's folder says about its tokenizer; costs nothing to hold, needs no extra."""

    tokenizer_json: str
    """The text of ``tokenizer.json``."""
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """``bos_token``, ``eos_token`` and so on, as templates name them."""

    @property
    def switches_thinking(self) -> bool:
        """Whether the template takes ``enable_thinking``."""
        return "enable_thinking" in (self.chat_template or "")

    def thinking_kwargs(self, thinking: bool | None) -> dict[str, Any]:
        """The template's arguments for long thinking on or off; empty for None, and where it has no switch."""
        return {"enable_thinking": thinking} if thinking is not None and self.switches_thinking else {}

    @classmethod
    def from_folder(cls, path: str | Path) -> TokenizerFiles:
        """Read ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja`` (which wins).

        Raises:
            ConfigError: ``tokenizer.json`` is missing, or a file is not valid JSON.
        """
        folder = Path(path)
        text = _read(folder / "tokenizer.json")
        if text is None:
            raise ConfigError(
                f"there is no tokenizer.json in {folder}; convert a tokenizer of another format "
                "(transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…))"
            )
        parse(text, folder / "tokenizer.json")
        config = parse(_read(folder / "tokenizer_config.json") or "{}", folder / "tokenizer_config.json")
        template = _read(folder / "chat_template.jinja")
        if template is None:
            template = _default_template(config.get("chat_template"))
        named = {name: _content(config.get(name)) for name in _SPECIAL_TOKENS}
        return cls(text, template, {name: token for name, token in named.items() if token is not None})


def parse(text: str, name: str | Path) -> dict[str, Any]:
    """The JSON object in a file's text.

    Raises:
        ConfigError: it is none; names the file.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must contain a JSON object, got a {type(value).__name__}")
    return value


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})") from error


def _default_template(given: object) -> str | None:
    """The template of a configuration: a text, or the one called "default" among named ones."""
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None

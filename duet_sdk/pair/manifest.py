"""``pair.json``: what it may say, and how it is read."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from duet_sdk.errors import InvalidRequest, PairError
from duet_sdk.policies import Prompts, Sampling
from duet_sdk.types import HandoffName, Stage

MANIFEST = "pair.json"
FORMAT = 1
"""Goes up when an older version would misread the file."""

_MODEL_NAME = re.compile(r"[\w-]+/.+", re.DOTALL)
_SECRET_KEY = re.compile(r"(.*_)?(api_?key|authorization|password|secret|(access|auth|hf)_token)", re.DOTALL)
_URL_WITH_PASSWORD = re.compile(r"://[^/\s]*@")


def _only_fields_of(cls: type[Prompts | Sampling]) -> BeforeValidator:
    """Refuse keys that the dataclass does not have; pydantic would leave them out silently."""
    known = {field.name for field in dataclasses.fields(cls)}

    def check(value: object) -> object:
        if isinstance(value, Mapping) and (unknown := sorted(set(value) - known)):
            raise ValueError(f"unknown key {unknown[0]!r} (known: {', '.join(sorted(known))})")
        return value

    return BeforeValidator(check)


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Tokens = Annotated[int, Field(strict=True, ge=1)]
_Prompts = Annotated[Prompts, _only_fields_of(Prompts)]
_Sampling = Annotated[Sampling, _only_fields_of(Sampling)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelEntry(_Part):
    """One model of a pair: a name, or a folder inside the pair's.

    >>> ModelEntry(model="transformers/Qwen/Qwen3-0.6B", revision="main").model
    'transformers/Qwen/Qwen3-0.6B'
    """

    model: str | None = None
    """Name as the client takes it (``backend/model``); a relative path in it is one from where the pair is used."""
    folder: str | None = None
    """Folder of a bundled model, relative to the pair's, with ``/`` between its parts."""
    revision: str | None = None
    """Branch, tag or commit. A model of the hub that runs in this process is used at it; a server has its own."""
    adapter: str | None = None
    """Folder of a LoRA adapter on this model, relative to the pair's; merge it (`duet pair merge`) to use the pair."""
    base: str | None = None
    """The model that a bundled one was trained from, as the hub names it; this and the next are kept, not used."""
    base_revision: str | None = None
    tokenizer: _Hash | None = None
    """SHA-256 of ``tokenizer.json`` at training; this and the next three are compared when the model connects."""
    chat_template: _Hash | None = None
    """SHA-256 of the chat template's text at training."""
    quantisation: _Hash | None = None
    """SHA-256 of the quantisation's configuration at training."""
    conversation: _Hash | None = None
    """SHA-256 of the token ids that a fixed conversation made at training: tells a server's template and tokenizer."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.folder is None):
            raise ValueError("needs exactly one of 'model' and 'folder'")
        if self.folder is not None:
            _check_relative(self.folder)
        if self.adapter is not None:
            _check_relative(self.adapter)
        if self.model is not None:
            if _MODEL_NAME.fullmatch(self.model) is None:
                raise ValueError("'model' must be written as 'backend/model', such as 'transformers/embedded'")
            url = self.model.partition("@http")[2]
            if "@" in url or "?" in url:
                raise ValueError(
                    "'model' has a user, a password or a query in its URL, but a pair must not contain secrets: "
                    "remove them, and pass the key to the client"
                )
        return self


class Limits(_Part):
    """Limits that the pair is meant to be used with; a client's own and a request's take precedence.

    >>> Limits(signal_tokens=256).signal_tokens
    256
    """

    signal_tokens: _Tokens | None = None
    """Output tokens of the reasoner; None leaves the client's default."""
    answer_tokens: _Tokens | None = None
    """Output tokens of one answer; None leaves the client's default."""


class FileFacts(_Part):
    """What a file of the pair must be.

    >>> FileFacts(sha256="0" * 64, size=3).size
    3
    """

    sha256: _Hash
    size: Annotated[int, Field(strict=True, ge=0)]
    """Bytes."""


class Manifest(_Part):
    """What ``pair.json`` says.

    >>> from duet_sdk.pair.manifest import ModelEntry
    >>> both = ModelEntry(model="transformers/embedded")
    >>> Manifest(reasoner=both, generator=both).handoff
    'instruct'
    """

    format: Literal[1] = 1
    reasoner: ModelEntry
    generator: ModelEntry
    handoff: HandoffName = "instruct"
    """``think`` only for models trained together."""
    trained: bool = False
    """Whether the two were trained together."""
    limits: Limits = Limits()
    prompts: _Prompts | None = None
    """System prompts by stage, in place of DUET's own."""
    reasoner_params: _Sampling | None = None
    generator_params: _Sampling | None = None
    metrics: JsonValue = None
    """This and the next five are kept as they are."""
    training: JsonValue = None
    data: JsonValue = None
    licences: JsonValue = None
    tasks: JsonValue = None
    language: JsonValue = None
    tools: bool | None = None
    """Whether the pair was trained to use tools; None if unknown."""
    files: dict[str, FileFacts] = {}
    """Every file of the pair but ``pair.json``, by its path relative to the pair's folder."""

    @model_validator(mode="after")
    def _safe(self) -> Self:
        for name in self.files:
            _check_relative(name)
        for where in _secrets(self.model_dump(mode="json", exclude={"files", "prompts"})):
            raise ValueError(f"{where} looks like a key or password, and a pair must not contain secrets: remove it")
        return self

    @property
    def stages(self) -> Mapping[Stage, ModelEntry]:
        """Both models by stage."""
        return {"reasoner": self.reasoner, "generator": self.generator}

    @property
    def folders(self) -> list[str]:
        """The folders of the bundled models, each once."""
        return sorted({entry.folder for entry in self.stages.values() if entry.folder is not None})

    @property
    def adapters(self) -> list[str]:
        """The folders of the adapters, each once."""
        return sorted({entry.adapter for entry in self.stages.values() if entry.adapter is not None})


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a pair's folder.

    Raises:
        PairError: there is none, or it is not valid; the message holds no value, as it may be secret.
    """
    file = folder / MANIFEST
    if file.is_symlink() or not file.is_file():
        raise PairError(f"{folder} is not a pair: it holds no {MANIFEST}; `duet pair save` makes one")
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as err:
        raise PairError(f"{file} cannot be read as JSON ({type(err).__name__}); copy or save the pair again") from err
    number = values.get("format") if isinstance(values, dict) else None
    if type(number) is not int or number < 1:
        raise PairError(f"{file} is not a pair's manifest: its 'format' is not a whole number; save the pair again")
    if number > FORMAT:
        raise PairError(f"{file} has format {number}, and this version reads up to {FORMAT}; upgrade duet-sdk")
    try:
        return Manifest.model_validate(values)
    except ValidationError as err:
        raise PairError(f"{file} is not valid: {flaw(err)}; correct it, or upgrade duet-sdk if it is newer") from err
    except InvalidRequest as err:
        raise PairError(f"{file} is not valid: {err}; correct it") from err


def flaw(err: ValidationError) -> str:
    """The first thing wrong, by place and reason; values stay out, as they may be secret."""
    first = err.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {place!r}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason


def _check_relative(name: str) -> None:
    """Refuse a path that could lead out of the pair's folder on any system."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\0]", name):
        raise ValueError(f"the path {name!r} must stay in the pair's folder: names with '/' between them, no '..'")


def _secrets(value: JsonValue, place: str = "") -> Iterator[str]:
    """Places whose key or text looks like a secret."""
    if isinstance(value, str) and _URL_WITH_PASSWORD.search(value):
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        where = f"{place}.{key}".lstrip(".")
        if inner and _SECRET_KEY.fullmatch(str(key).lower().replace("-", "_")):
            yield where
        yield from _secrets(inner, where)

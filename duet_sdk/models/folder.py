"""A model's folder, checked before anything in it is loaded: by names, sizes and headers alone."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from duet_sdk.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pickle", ".pkl", ".h5", ".msgpack"}
"""What weights end in that can run code when they are read, in small letters."""
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
"""What a model is loaded from, and its licence; other formats and notes next to them are left where they are."""
_LENGTH = struct.Struct("<Q")


def check_folder(path: Path) -> None:
    """Refuse a model folder that cannot or must not be loaded.

    Raises:
        ModelNotFound: the folder, its configuration, its tokenizer or some weights are missing or cut short.
        ConfigError: the weights are pickled or GGUF, or the model needs to run its own code.
    """
    if not path.is_dir():
        raise not_found(path.name, f"there is no model folder {path}")
    refuse_own_code(path)
    if not (path / "model.safetensors.index.json").is_file() and not (path / "model.safetensors").is_file():
        check_names((file.name for file in path.iterdir()), model=str(path))
        raise not_found(path.name, f"{path} holds neither model.safetensors nor model.safetensors.index.json")
    for shard in _shards(path):
        if (flaw := safetensors_flaw(shard)) is not None:
            raise not_found(path.name, f"{shard} {flaw}; fetch or copy the model again")
    if not (path / "tokenizer.json").is_file():
        raise not_found(path.name, f"{path} holds no tokenizer.json; save the model's fast tokenizer there")


def refuse_own_code(path: Path) -> None:
    """Refuse a folder whose ``config.json`` asks for ``trust_remote_code``.

    Raises:
        ModelNotFound: there is no readable ``config.json``.
        ConfigError: it asks for it.
    """
    config = read_json(path / "config.json")
    if config is None:
        raise not_found(path.name, f"{path} holds no readable config.json, so it is not a model folder")
    if "auto_map" in config:
        raise ConfigError(
            f"the model in {path} needs to run its own code (auto_map in config.json), which is refused; "
            "use a model that transformers supports natively; if it supports this one, delete auto_map from the file"
        )


def check_names(names: Iterable[str], *, model: str) -> None:
    """Refuse a model by the names of its files when none of them holds safetensors weights.

    Raises:
        ModelNotFound: there are no weights.
        ConfigError: they are pickled or GGUF.
    """
    present = {Path(name).suffix for name in names}
    if ".safetensors" in present:
        return
    if present & PICKLED:
        raise ConfigError(
            f"{model} has pickled weights only, which can run code when they are read and are refused; "
            "convert them to safetensors (where you trust them: load with transformers, then save_pretrained)"
        )
    if ".gguf" in present:
        raise ConfigError(f"{model} has only GGUF weights; convert them with duet_sdk.models.convert_gguf first")
    raise not_found(model, f"{model} has no weights (model.safetensors)")


def is_wanted(name: str) -> bool:
    """Whether a file is one of `WANTED`, by the last part of its path.

    >>> is_wanted("reasoner/LICENSE.md"), is_wanted("reasoner/modeling.py")
    (True, False)
    """
    return any(PurePosixPath(name).match(pattern) for pattern in WANTED)


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None if there is none that can be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def not_found(model: str, message: str) -> ModelNotFound:
    """The error for a local model that is missing or incomplete."""
    return ModelNotFound(message, backend="transformers", model=model)


def _shards(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    weight_map = (read_json(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise not_found(path.name, f"{index} is not an index of weights; fetch or copy the model again")
    # Names only: an index must not point out of its folder.
    return sorted({path / Path(str(name)).name for name in weight_map.values()})


def safetensors_flaw(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its header and its size.

    Source: https://huggingface.co/docs/safetensors (eight bytes with the header's length, header, data).
    """
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
        if _LENGTH.size + length > size:
            return "is truncated within its header"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "is not a safetensors file"
    expected = _LENGTH.size + length + max(ends, default=0)
    return None if expected == size else f"has {size} bytes, but its header says {expected}"

"""A run's configuration from a YAML file and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, ValidationError

from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.trainer.config import TrainConfig
from duet_sdk.trainer.flaws import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a YAML file, with ``section.key=value`` from the command line over it.

    Values of overrides are YAML, too: ``reasoner.lora.r=16``, ``data.leak_against=[aime.jsonl]``, ``guard.enabled=no``.

    Raises:
        ConfigError: the file cannot be read, or a value cannot be used; says where and which.
        MissingExtra: PyYAML is not installed.
    """
    file = Path(path)
    try:
        values = parse_yaml(file.read_text(encoding="utf-8-sig"), str(file))
    except OSError as err:
        raise ConfigError(f"the run's configuration {file} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{file} is not UTF-8 text (byte {err.start}); convert it") from err
    if not isinstance(values, dict):
        raise ConfigError(f"{file} must hold sections (reasoner:, generator:, data: …), it holds {_kind(values)}")
    for override in overrides:
        _put(values, override)
    return checked(values, str(file))


def checked(values: Mapping[str, object], source: str) -> TrainConfig:
    """The configuration that these values make.

    Raises:
        ConfigError: a value is missing, unknown or impossible; names the first three.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as err:
        reasons = in_words(err.errors(include_url=False))
        raise ConfigError(f"{source} is not a valid run configuration: {reasons}") from err


def parse_yaml(text: str, source: str) -> Any:
    """The value in a YAML text.

    Raises:
        ConfigError: it is not YAML.
        MissingExtra: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as err:
        raise MissingExtra("reading a run's YAML", extra="train") from err
    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise ConfigError(f"{source} is not YAML: {err.problem or err.context}{where}{_yaml_hint(err)}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"{source} is not YAML: {err}") from err
    except RecursionError:
        raise ConfigError(f"{source} cannot be read: its lists are too deep") from None
    except ValueError as err:
        raise ConfigError(f"{source} cannot be read: a number or a date in it is impossible") from err


def differences(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> list[str]:
    """What differs between two dumped configurations, as ``place: old → new``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{place}: {_shown(before, place)} → {_shown(after, place)}"
        for place in sorted(before.keys() | after.keys())
        if before.get(place, ...) != after.get(place, ...)
    ]


def _put(values: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError(f"{override!r} is not an override; write section.key=value")
    *sections, key = place.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
        values = inner
    values[key] = parse_yaml(text, override)


def _loader() -> Any:
    """A safe loader that reads 1e-6 as a number, which YAML 1.1 takes for text."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml comes without types
        """Of this call only: resolvers belong to a class."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """As the library's, which keeps the last of two equal keys without a word."""
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    return Loader


def _yaml_hint(err: Any) -> str:
    """What to do about the commonest slips."""
    problem = str(err.problem)
    if "\\t" in problem:
        return "; indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "; a text with a colon needs quotes"
    if problem == "expected ',' or '}', but got ':'":
        return "; a key ends in a colon and a space, and texts with either need quotes"
    return ""


def _leaves(value: JsonValue | Mapping[str, JsonValue], place: str = "") -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}".lstrip("."))
    else:
        yield place, value  # type: ignore[misc]


def _shown(leaves: Mapping[str, JsonValue], place: str) -> str:
    return json.dumps(leaves[place], ensure_ascii=False) if place in leaves else "not set"


def _kind(value: object) -> str:
    kind = {"str": "text", "NoneType": None}.get(name := type(value).__name__, name)
    return f"a {kind}" if kind else "nothing"

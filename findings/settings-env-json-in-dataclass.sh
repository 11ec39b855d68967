#!/usr/bin/env bash
# A list inside a nested setting, given as JSON in an environment variable: APP_X__STOP='["END"]'.
#
# One would guess that it makes no difference whether the nested setting is a pydantic model or a standard-library
# dataclass: pydantic validates both, and pydantic-settings reads tables and plain numbers into both alike.
# What happens: under a model the JSON is decoded. Under a dataclass the text itself reaches the validator, which
# refuses it as "not a valid list". Whoever turns a settings model into a plain dataclass keeps every test that uses
# numbers and texts, and loses lists and mappings from the environment. A whole dataclass as one JSON object
# (APP_X='{"stop": ["END"]}') works, so decoding by hand is only needed for the parts.
#
# pydantic-settings 2.16.3 with pydantic 2.14.4, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "pydantic==2.14.4" "pydantic-settings==2.16.3"
cat > "$folder/probe.py" <<'PY'
import dataclasses
import os
from importlib.metadata import version

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Model(BaseModel):
    stop: list[str] = []
    limit: int = 0


@dataclasses.dataclass
class Plain:
    stop: list[str] = dataclasses.field(default_factory=list)
    limit: int = 0


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_", env_nested_delimiter="__")
    model: Model = Model()
    plain: Plain = dataclasses.field(default_factory=Plain)


def read(**variables):
    os.environ.update(variables)
    try:
        return Settings()
    except ValidationError as error:
        return [(".".join(map(str, one["loc"])), one["type"]) for one in error.errors()]
    finally:
        for name in variables:
            del os.environ[name]


print("pydantic", version("pydantic"), "pydantic-settings", version("pydantic-settings"))
numbers = read(APP_MODEL__LIMIT="3", APP_PLAIN__LIMIT="3")
print("numbers:", numbers.model.limit, numbers.plain.limit)
under_model = read(APP_MODEL__STOP='["END"]')
print("list under a model:", under_model.model.stop)
under_dataclass = read(APP_PLAIN__STOP='["END"]')
print("list under a dataclass:", under_dataclass)
whole = read(APP_PLAIN='{"stop": ["END"]}')
print("the whole dataclass as JSON:", whole.plain.stop)
assert (numbers.model.limit, numbers.plain.limit) == (3, 3)
assert under_model.model.stop == ["END"]
assert under_dataclass == [("plain.stop", "list_type")]
assert whole.plain.stop == ["END"]
PY
"$folder/venv/bin/python" "$folder/probe.py"

"""docs/reference/training-config.md, made from `duet_sdk.trainer.config`; `python tests/support/config_page.py` writes it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from duet_sdk.trainer.config import Generator, Model, Reasoner, Section, TrainConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "training-config.md"

HEAD = """\
# A run's YAML

Every key of the file that `duet train run` takes, by section. `duet train init` writes a first one; a key that is not
written has its default (*None* in a text stands for that, where there is none). On the command line a value goes over the file's: `objective.alpha=0.2`. This page is made from
the code: `python tests/support/config_page.py`.

```yaml
# One card of 24 GB.
output: runs/first
reasoner: {model: Qwen/Qwen3-1.7B, lora: {r: 32}, weights: bfloat16, learning_rate: 1e-5}
generator: {model: Qwen/Qwen3-0.6B}
data: {train: questions.jsonl, prompt_column: question, answer_column: answer}
```
"""

BOTH = "`reasoner` and `generator`"

ANNOTATED = {
    "Count": "from 1",
    "CountOrNone": "from 0",
    "CountOrAuto": "from 1, or `auto`",
    "Count | None": "from 1",
    "Positive": "above 0",
    "NotNegative": "from 0",
    "Share": "0 to 1",
    "Annotated[float, Field(gt=0, le=1)]": "0 to 1",
    "Annotated[int, Field(ge=2)]": "from 2",
    "bool": "`true`, `false`",
    "int": "whole number",
    "str": "text",
    "Path": "folder",
    "str | None": "text",
    "str | tuple[str, ...]": "text or list",
    "tuple[str, ...]": "list",
}
"""What a field's annotation means to someone who writes YAML."""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_sections()]).rstrip() + "\n"


def _sections() -> Iterator[str]:
    yield from _table("The file itself", "", TrainConfig, skip=True)
    for name, field in TrainConfig.model_fields.items():
        section = _inner(field)
        if section is None or name == "generator":
            continue
        title, shown = (BOTH, Model) if name == "reasoner" else (f"`{name}`", section)
        yield from _table(title, name, shown)
        for inner_name, inner_field in section.model_fields.items():
            if (inner := _inner(inner_field)) is not None:
                yield from _table(f"`{inner_name}`, within {title}", inner_name, inner)


def _table(title: str, name: str, section: type[BaseModel], *, skip: bool = False) -> Iterator[str]:
    yield f"## {title}\n"
    if name and (said := inspect.getdoc(section)):
        yield f"{_plain(said)}\n"
    yield "| key | value | default | |\n| --- | --- | --- | --- |"
    told = _docstrings(section)
    for key, field in section.model_fields.items():
        if skip and _inner(field) is not None:
            continue
        annotation, text = told[key]
        yield f"| `{key}` | {_value(annotation, field)} | {_default(key, field)} | {_plain(text)} |"
    yield ""


def _docstrings(section: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Annotation and docstring of each field, those of its bases first."""
    found: dict[str, tuple[str, str]] = {}
    for kind in reversed(section.__mro__):
        if not issubclass(kind, Section):
            continue
        (node,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(node, ast.ClassDef)
        for at, line in enumerate(node.body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                after = node.body[at + 1] if at + 1 < len(node.body) else None
                said = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                found[line.target.id] = ast.unparse(line.annotation), inspect.cleandoc(str(said))
    return found


def _value(annotation: str, field: FieldInfo) -> str:
    if _inner(field) is not None:
        return "section; `{}` takes its defaults" if field.default is None else "section"
    if options := _options(field.annotation):
        return ", ".join(f"`{one}`" for one in options)
    return ANNOTATED[annotation]


def _options(annotation: Any) -> tuple[str, ...]:
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is Literal:
            return tuple(map(str, get_args(kind)))
    return ()


def _default(key: str, field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "must be given"
    if key == "max_new_tokens":
        signal, answer = (one.model_fields[key].default for one in (Reasoner, Generator))
        return f"`{signal}` of a signal, `{answer}` of an answer"
    if key in ("gradient_accumulation", "sampled_at_once"):
        return "`auto`"
    if default is None or isinstance(default, BaseModel):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return f"`{default}`"


def _inner(field: FieldInfo) -> type[Section] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _plain(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split())).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

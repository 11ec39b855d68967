"""Public is the root, and what a page of the reference shows: nothing else is used where users look for code to copy."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.code_blocks import blocks

import duet_sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
MODULES = REFERENCE / "api"
# Modules that need TRL, which is not installed here; `make test-training` imports them.
NEEDS_TRAIN = ("duet_sdk.trainer.build", "duet_sdk.trainer.joint", "duet_sdk.trainer.measure")


class Use(NamedTuple):
    """A name that some text imports from a module of ours."""

    module: str
    name: str
    where: str


def shown() -> list[str]:
    """What the pages of the reference document: modules, and a few single names of modules."""
    return [name for name, _ in linked()]


def linked() -> list[tuple[str, Path]]:
    """Those names, each with the file that its page links to."""
    found = []
    for page in sorted(MODULES.glob("*.md")):
        for name, file in re.findall(r"^- \[`(\S+)`\]\((\S+)\)$", page.read_text(encoding="utf-8"), re.M):
            found.append((name, (MODULES / file).resolve()))
    return found


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def documented(module: str) -> set[str]:
    """The names that a module's page shows: its `__all__`, else what it defines with a docstring."""
    source = source_of(module)
    assert source is not None, module
    body = ast.parse(source.read_text(encoding="utf-8")).body
    names = set()
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        match node, after:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value), _:
                return set(ast.literal_eval(value))
            case (ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef(), _) if ast.get_docstring(node):
                names.add(node.name)
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str())),
            ):
                names.add(name)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


def is_public(module: str, name: str, pages: set[str]) -> bool:
    """Whether the root or a page shows the name under this very address; "" is the module itself."""
    if module == "duet_sdk":
        return name in ("", *duet_sdk.__all__) or f"duet_sdk.{name}" in pages
    if not name:
        return module in pages
    return f"{module}.{name}" in pages or (module in pages and name in documented(module))


def imports(source: str, where: str) -> Iterator[Use]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names, level=0) if module.split(".")[0] == "duet_sdk":
                yield from (Use(module, alias.name, where) for alias in names)
            case ast.Import(names=names):
                yield from (Use(alias.name, "", where) for alias in names if alias.name.split(".")[0] == "duet_sdk")


def texts() -> list[Path]:
    """All that users copy from: README, guide, examples, and the packages for frameworks with their tests."""
    folders = (ROOT / "examples", ROOT / "integrations")
    found = [path for folder in folders for ending in ("py", "md") for path in folder.rglob(f"*.{ending}")]
    return sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *found])


def uses(path: Path) -> list[Use]:
    text, where = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    sources = [text] if path.suffix == ".py" else [block.source for block in blocks(text)]
    return [use for source in sources for use in imports(source, where)]


@pytest.mark.parametrize("path", shown())
def test_what_a_page_shows_exists_and_can_be_imported(path: str) -> None:
    module, name = (path, "") if source_of(path) else path.rsplit(".", 1)
    assert source_of(module) is not None
    assert not name or name in documented(module)
    if module not in NEEDS_TRAIN:
        importlib.import_module(module)


def test_no_module_has_two_places_in_the_reference() -> None:
    assert [path for path, times in Counter(shown()).items() if times > 1] == []


def test_every_page_of_the_reference_is_listed() -> None:
    listed = re.findall(r"reference/(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(str(page.relative_to(REFERENCE)) for page in REFERENCE.rglob("*.md"))


def test_a_name_of_the_reference_is_linked_to_the_file_that_defines_it() -> None:
    assert [
        (name, file) for name, file in linked() if file not in (source_of(name), source_of(name.rpartition(".")[0]))
    ] == []


def test_what_users_are_shown_is_public() -> None:
    pages = set(shown())
    found = [use for path in texts() for use in uses(path)]
    assert len(found) > 300, "the texts were not found"
    assert [use for use in found if not is_public(use.module, use.name, pages)] == []


def test_what_the_root_has_is_imported_from_the_root() -> None:
    homes = {(f"duet_sdk.{home}", name) for name, home in duet_sdk._HOME.items()}
    assert [use for path in texts() for use in uses(path) if (use.module, use.name) in homes] == []


def test_the_list_of_public_names_is_the_root() -> None:
    page = (REFERENCE / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[`(\w+)`\]\(api/[\w-]+\.md#duet_sdk\.[\w.]+\.\w+\)", page)
    assert sorted(listed) == sorted(set(duet_sdk.__all__) - {"__version__"})


def test_the_files_and_names_that_contributing_points_to_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    house = text[text.index("## The house") : text.index("## Rules of the code")]
    files = set(re.findall(r"(?<![\w/.])[\w/]+\.py\b", house))
    assert len(files) > 20
    assert [file for file in sorted(files) if not ((ROOT / file).exists() or (ROOT / "duet_sdk" / file).exists())] == []
    folders = set(re.findall(r"^(?:.*?  )?(\w+/)(?=  | *$)", house, re.M))
    assert [folder for folder in sorted(folders) if not (ROOT / "duet_sdk" / folder).is_dir()] == []
    named = re.findall(r"`([\w/]+\.py)` `(\w+)(?:\.(\w+))?`", house)
    assert len(named) > 8
    for file, name, member in named:
        source = next(path for path in (ROOT / "duet_sdk" / file, ROOT / file) if path.exists())
        assert re.search(rf"^(?:class |def |async def )?{name}\b", source.read_text(encoding="utf-8"), re.M), (
            file,
            name,
        )
        assert not member or re.search(rf"^    (?:async )?def {member}\b", source.read_text(encoding="utf-8"), re.M)


def test_a_name_is_public_only_where_a_page_shows_it() -> None:
    pages = {"duet_sdk.policies", "duet_sdk.budget", "duet_sdk.trainer.build.quiet", "duet_sdk.errors"}
    public = [("duet_sdk", "Retry"), ("duet_sdk", "errors"), ("duet_sdk.policies", "Retry")]
    public += [("duet_sdk.budget", "MemoryLedger"), ("duet_sdk.trainer.build", "quiet"), ("duet_sdk.errors", "")]
    private = [("duet_sdk", "policy"), ("duet_sdk.policies", "whole"), ("duet_sdk.budget.memory", "MemoryLedger")]
    private += [("duet_sdk.budget", "released_if_cancelled"), ("duet_sdk.trainer.build", "adapter")]
    assert all(is_public(module, name, pages) for module, name in public)
    assert not any(is_public(module, name, pages) for module, name in private)

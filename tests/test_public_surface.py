"""What the package shows, what it loads, and what its modules may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import duet_sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(duet_sdk.__file__).parent
SOURCES = {
    ".".join(["duet_sdk", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOT_NAMES = {
    "AsyncDuetClient",
    "BreakerPolicy",
    "Budget",
    "DuetClient",
    "Endpoint",
    "FailurePolicy",
    "GateConfig",
    "GpuHour",
    "ImagePart",
    "Ladder",
    "Limit",
    "Message",
    "Pair",
    "Progressive",
    "Prompts",
    "Reply",
    "Retry",
    "RunScope",
    "Sampling",
    "Settings",
    "Signal",
    "TextPart",
    "TokenPrice",
    "ToolCall",
    "Usage",
    "__version__",
    # The events, and what a handler of them is typed with.
    "AnswerDelta",
    "AnswerDone",
    "AttemptEnded",
    "AttemptStarted",
    "Done",
    "Event",
    "FellBack",
    "GateDecided",
    "Retried",
    "SignalDelta",
    "SignalDone",
    "ToolCallDelta",
    # The errors.
    "Authentication",
    "BackendError",
    "BoundaryRefused",
    "BudgetExceeded",
    "CacheError",
    "ConfigError",
    "ConnectFailed",
    "ContentFiltered",
    "ContextOverflow",
    "DataError",
    "DeadlineExceeded",
    "DegradedWarning",
    "DuetError",
    "EndpointResting",
    "EvaluationError",
    "HoldMisused",
    "InvalidRequest",
    "Misuse",
    "LedgerError",
    "MissingExtra",
    "ModelNotFound",
    "NoAnswer",
    "UnknownOption",
    "PairError",
    "QuotaExceeded",
    "RateLimited",
    "Rejected",
    "SignalError",
    "StreamBroken",
    "TrainingError",
}
HEAVY = {
    "jinja2",
    "litellm",
    "opentelemetry.sdk",
    "pydantic_settings",
    "redis",
    "rich",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "vllm",
}
# Modules that are themselves imported on use only, and what each may pull in.
LEAVES = {
    "duet_sdk.backends.local.generation": HEAVY,
    "duet_sdk.__main__": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.app": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.ask": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.chat": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.models": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.request": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.display": {"rich", "typer"},
    "duet_sdk.cli.exporting": {"rich", "typer"},
    "duet_sdk.cli.figures": {"rich", "typer"},
    "duet_sdk.cli.serve": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.train": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.pair": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.keys": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.ledger": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.cli.notices": {"rich", "typer"},
    "duet_sdk.cli.pair_facts": {"rich", "typer"},
    "duet_sdk.cli.ledger_tables": {"rich", "typer"},
    "duet_sdk.cli.terminal": {"rich", "typer"},
    "duet_sdk.cli.trust": {"rich", "typer", "pydantic_settings"},
    "duet_sdk.settings": {"pydantic_settings"},
    "duet_sdk.telemetry.export": {"opentelemetry.sdk"},
    "duet_sdk.telemetry.tree": {"rich"},
}
# What a run is described and checked with before anything of it is loaded; the rest of the trainer needs `train`.
LIGHT_TRAINER = ("boundary", "config", "data", "plan", "report")
# The libraries' own variables are read where the library is used, and what torchrun tells a process where it trains.
FOREIGN_PREFIXES = ("OTEL_", "HF_", "LITELLM_", "TRL_", "WORLD_SIZE", "RANK")


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after the statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_root_names_are_the_contract() -> None:
    assert set(duet_sdk.__all__) == ROOT_NAMES
    assert len(duet_sdk.__all__) == len(ROOT_NAMES)


def test_type_checkers_see_what_the_root_gives() -> None:
    checked = {
        alias.name: node.module
        for node in ast.walk(tree_of("duet_sdk"))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("duet_sdk.")
        for alias in node.names
    }
    assert checked == {name: f"duet_sdk.{module}" for name, module in duet_sdk._HOME.items()}
    assert set(duet_sdk.__all__) == {*checked, "__version__"}


@pytest.mark.parametrize(("module", "root"), [("errors", "DuetError"), ("events", None)])
def test_every_error_and_every_event_is_a_name_of_the_root(module: str, root: str | None) -> None:
    found = {name: value for name, value in vars(import_module(f"duet_sdk.{module}")).items() if name[0] != "_"}
    own = {name for name, value in found.items() if getattr(value, "__module__", "") == f"duet_sdk.{module}"}
    assert len(own) > 10
    assert own <= set(duet_sdk.__all__)
    assert root is None or {name for name in own if not issubclass(found[name], found[root])} == set()


@pytest.mark.parametrize("name", sorted(ROOT_NAMES))
def test_root_name_can_be_imported(name: str) -> None:
    assert getattr(duet_sdk, name) is not None


def test_the_root_lists_its_public_names_and_no_others() -> None:
    code = "import duet_sdk; print(*[n for n in dir(duet_sdk) if not n.startswith('_')])"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) - {"annotations"} == ROOT_NAMES - {"__version__"}


def test_an_unknown_root_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Duett"):
        _ = duet_sdk.Duett


def test_importing_the_root_loads_none_of_its_modules() -> None:
    assert {name for name in loaded_by("import duet_sdk") if name.startswith("duet_sdk.")} == set()


def test_the_client_loads_nothing_heavy() -> None:
    assert loaded_by("import duet_sdk; duet_sdk.DuetClient") & HEAVY == set()


def is_training(name: str) -> bool:
    """Whether a module is imported only where the extra `train` is installed."""
    package, _, module = name.partition("trainer.")
    return package == "duet_sdk." and module.split(".")[0] not in LIGHT_TRAINER


@pytest.mark.parametrize("name", sorted(name for name in SOURCES if name != "duet_sdk" and not is_training(name)))
def test_module_loads_nothing_heavy(name: str) -> None:
    assert loaded_by(f"import {name}") & HEAVY - LEAVES.get(name, set()) == set()


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_public_name_of_module_has_a_docstring(name: str) -> None:
    tree = tree_of(name)
    assert list(undocumented(tree, name, inherited=inherited_in(tree))) == []


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_number_of_module_has_its_reason(name: str) -> None:
    assert list(unexplained_numbers(SOURCES[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"duet_sdk"}))
def test_module_does_not_import_the_package_root(name: str) -> None:
    assert list(root_imports(name)) == []


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"duet_sdk.environment"}))
def test_module_does_not_read_the_environment(name: str) -> None:
    assert list(environment_reads(tree_of(name))) == []


def tree_of(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text(encoding="utf-8"))


def documented_methods() -> dict[str, set[str]]:
    """The methods with a docstring of every class of the package, and of the classes it names as bases, by class name."""
    classes = [node for name in SOURCES for node in ast.walk(tree_of(name)) if isinstance(node, ast.ClassDef)]
    bases: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for node in classes:
        bases.setdefault(node.name, set()).update(names_of_bases(node))
        methods = (child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))
        found.setdefault(node.name, set()).update(child.name for child in methods if ast.get_docstring(child))
    for _ in range(3):  # as deep as our classes are
        for name, above in bases.items():
            for base in above:
                found[name] |= found.get(base, set())
    return found


def names_of_bases(node: ast.ClassDef) -> set[str]:
    """``Generic[T]`` is ``Generic``, and ``backends.Backend`` is ``Backend``."""
    plain = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
    return {ast.unparse(base).rpartition(".")[2] for base in plain}


DOCUMENTED = documented_methods()


def inherited_in(tree: ast.Module) -> dict[ast.ClassDef, set[str]]:
    """For every class of a module, the methods whose contract a base class or protocol of the package states."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {node: set().union(*(DOCUMENTED.get(base, set()) for base in names_of_bases(node))) for node in classes}


def undocumented(
    node: ast.Module | ast.ClassDef, name: str, *, inherited: dict[ast.ClassDef, set[str]]
) -> Iterator[str]:
    parts = name.split(".")
    if any(part.startswith("_") for part in parts):
        return
    if ast.get_docstring(node) is None:
        yield name
    stated = inherited.get(node, set()) if isinstance(node, ast.ClassDef) else set()
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{name}.{child.name}", inherited=inherited)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            excused = child.name.startswith("_") or child.name in stated
            excused |= any(
                ast.unparse(decorator) in ("overload", "override") or ast.unparse(decorator).endswith(".setter")
                for decorator in child.decorator_list
            )
            if not excused and ast.get_docstring(child) is None:
                yield f"{name}.{child.name}"


def unexplained_numbers(source: str) -> Iterator[str]:
    """Constants of a module that are plain numbers, and have neither a string after them nor a comment."""
    lines = source.splitlines()
    body = ast.parse(source).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_number(value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if is_number(value):
                pass
            case _:
                continue
        is_told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        is_commented = "#" in lines[node.end_lineno - 1] or lines[max(node.lineno - 2, 0)].startswith("#")
        if name.isupper() and not (is_told or is_commented):
            yield f"line {node.lineno}: {name}"


def is_number(value: ast.expr) -> bool:
    match value:
        case ast.Constant(value=bool()):
            return False
        case ast.Constant(value=int() | float()):
            return True
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
    return False


def root_imports(name: str) -> Iterator[str]:
    package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree_of(name)):
        match node:
            case ast.Import(names=names):
                yield from (f"line {node.lineno}" for alias in names if alias.name == "duet_sdk")
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                source = ".".join([*parts, *([module] if module else [])])
                if source == "duet_sdk":
                    modules = {f"duet_sdk.{alias.name}" for alias in names}
                    yield from (f"line {node.lineno}: {found}" for found in sorted(modules - set(SOURCES)))


def environment_reads(tree: ast.Module) -> Iterator[str]:
    foreign: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Attribute() as read, slice=ast.Constant(value=str(variable))):
                excused = variable.startswith(FOREIGN_PREFIXES)
            case ast.Call(func=ast.Attribute() as read, args=[ast.Constant(value=str(variable)), *_]):
                excused = variable.startswith(FOREIGN_PREFIXES)
            case _:
                continue
        if excused:
            foreign |= {read, read.value}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "getenvb"):
                if node not in foreign:
                    yield f"line {node.lineno}"
            case ast.ImportFrom(module="os", names=names):
                taken = {alias.name for alias in names} & {"environ", "environb", "getenv", "getenvb"}
                if taken:
                    yield f"line {node.lineno}"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nos.environ['HOME']", ["line 2"]),
        ("import os\nos.getenv('DUET_X')", ["line 2"]),
        ("import os\nos.getenv('HF_HOME')", []),
        ("import os\nos.environ.get('OTEL_X')", []),
        ("import os\nos.environ['HF_HOME']", []),
        ("from os import environ", ["line 1"]),
    ],
)
def test_reads_of_the_environment_are_found(source: str, lines: list[str]) -> None:
    assert list(environment_reads(ast.parse(source))) == lines


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("LIMIT_S = 3.0\nMORE = []", ["line 1: LIMIT_S"]),
        ("_MOST: Final = 1 << 16", ["line 1: _MOST"]),
        ("LIMIT_S = 3.0  # longer than a user waits", []),
        ("# longer than a user waits\nLIMIT_S = 3.0", []),
        ('LIMIT_S = 3.0\n"""Longer than a user waits."""', []),
        ("IS_ON = True\nNAME = 'duet'\nlower = 3", []),
    ],
)
def test_numbers_without_a_reason_are_found(source: str, names: list[str]) -> None:
    assert list(unexplained_numbers(source)) == names


def test_a_method_is_excused_only_where_a_base_of_the_package_states_it() -> None:
    source = """'A module.'
class Mine(Backend):
    'A backend.'
    def stream(self): ...
    def other(self): ...
class Free:
    'None of ours.'
    def stream(self): ...
"""
    tree = ast.parse(source)
    assert list(undocumented(tree, "m", inherited=inherited_in(tree))) == ["m.Mine.other", "m.Free.stream"]

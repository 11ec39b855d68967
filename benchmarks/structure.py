"""What the package looks like: import circles, stages that pass events on, complex functions, lines.

    PYTHONPATH=. $(.ci/environment lint) benchmarks/structure.py [TREE] [--json]

TREE is the root of a checkout, by default this one.

*Circles*: the strongly connected components of more than one module in grimp's graph of imports, which has those inside
functions, with and without those under TYPE_CHECKING; grimp is what import-linter stands on. The same is counted on the
import statements as this script reads them itself, so that neither is believed alone.
*Stages that pass events on*: uses of `aclosing` in pipeline/.
*Complex functions*: above 9 by ruff's C901 in pipeline/; those of the stream that a user reads (run.py, now stream.py)
are told apart.
*Lines*: of all Python files, with and without the trainer's toy, where there is one.
"""

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "duet_sdk"
MOST_COMPLEX = 9
Graph = dict[str, set[str]]


def by_grimp(*, type_checking: bool) -> Graph:
    """Module → what it imports, of the package that is found first in `sys.path`."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=not type_checking, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def by_hand(tree: Path) -> Graph:
    """The same from every import statement of the files, wherever it stands."""
    files = {_module(path.relative_to(tree)): path for path in (tree / PACKAGE).rglob("*.py")}
    graph: Graph = {}
    for module, path in files.items():
        graph[module] = set()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names if alias.name in files}
            elif isinstance(node, ast.ImportFrom):
                parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                source = ".".join([*parents, *([node.module] if node.module else [])])
                for alias in node.names:
                    whole = f"{source}.{alias.name}"
                    graph[module] |= {name for name in (whole if whole in files else source,) if name in files}
        graph[module].discard(module)
    return graph


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module, the largest first (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            together = sorted(stack[at:])
            del stack[at:]
            if len(together) > 1:
                found.append(together)

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return sorted(found, key=len, reverse=True)


def uses_of_aclosing(folder: Path) -> int:
    """How many calls of `aclosing` the folder's files make."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py"))
    called = (node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call))
    return sum("aclosing" in (getattr(function, "id", ""), getattr(function, "attr", "")) for function in called)


def complex_functions(paths: list[Path]) -> list[str]:
    """Functions above the complexity, as ruff says it."""
    there = [str(path) for path in paths if path.exists()]
    if not there:
        return []
    rule = [
        "--isolated",
        "--no-cache",
        "--select",
        "C901",
        "--ignore-noqa",
        "--config",
        f"lint.mccabe.max-complexity = {MOST_COMPLEX}",
    ]
    command = [sys.executable, "-m", "ruff", "check", *rule, "--output-format", "json", *there]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode > 1:  # 1: it has found some
        raise RuntimeError(f"ruff failed: {done.stderr}")
    return [f"{Path(found['filename']).name}: {found['message']}" for found in json.loads(done.stdout)]


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.py")) if folder.is_dir() else 0


def measure(tree: Path) -> dict[str, Any]:
    sys.path.insert(0, str(tree))
    package = tree / PACKAGE
    seen = circles(by_grimp(type_checking=True))
    return {
        "circles": seen,
        "circles_without_type_checking": circles(by_grimp(type_checking=False)),
        "circles_by_hand": circles(by_hand(tree)),
        "aclosing": uses_of_aclosing(package / "pipeline"),
        "complex": complex_functions([package / "pipeline"]),
        "complex_stream": complex_functions([package / "run.py", package / "stream.py"]),
        "lines": lines(package),
        "toy": lines(package / "trainer" / "toy"),
    }


def told(found: list[list[str]]) -> str:
    return f"{' + '.join(str(len(circle)) for circle in found)} files" if found else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    found = measure(given.tree.resolve())
    if given.json:
        print(json.dumps(found))
        return
    print(f"import circles, TYPE_CHECKING counted: {told(found['circles'])}")
    for circle in found["circles"]:
        print(f"  {', '.join(name.removeprefix(f'{PACKAGE}.') for name in circle)}")
    print(f"  TYPE_CHECKING not counted: {told(found['circles_without_type_checking'])}")
    print(f"  counted, by the import statements: {told(found['circles_by_hand'])}")
    print(f"aclosing in pipeline/: {found['aclosing']}")
    print(f"functions above complexity {MOST_COMPLEX} in pipeline/: {len(found['complex'])}")
    for function in found["complex"]:
        print(f"  {function}")
    print(f"  in the stream besides: {len(found['complex_stream'])}")
    print(f"lines of the package: {found['lines'] - found['toy']:,}, the toy not counted ({found['toy']:,})")


if __name__ == "__main__":
    main()

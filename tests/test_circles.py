"""No module of the package needs itself: neither to be imported, nor to be read."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """What each module imports, whether on load, within a function, or for a type checker alone."""
    graph = grimp.build_graph("duet_sdk", exclude_type_checking_imports=False, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def with_packages(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same, with the packages that Python loads on the way to an imported module."""
    found = {}
    for module, names in imports.items():
        on_the_way = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
        own = {module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1)}
        found[module] = names | on_the_way - own - {"duet_sdk"}
    return found


def test_a_circle_would_be_found() -> None:
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle_in({"a": {"b"}, "b": {"c"}}) == []


def test_modules_import_each_other_in_no_circle(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 200
    assert circle_in(imports) == []


def test_nor_do_they_with_the_packages_that_are_loaded_on_the_way(imports: dict[str, set[str]]) -> None:
    assert circle_in(with_packages(imports)) == []

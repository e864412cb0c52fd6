"""The source's import graph: no cycle, few levels, few arrows; the tests' folders mirror it.

Counted are all imports, those inside functions and under ``TYPE_CHECKING`` too: one that is moved
there to break a cycle at run time leaves the two modules as entangled as before.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
SOURCE: Final = TESTS.parent / "src" / "hbtrio"

#: From the package that imports nothing of ours to the commands. The composition of the daemons is
#: one of its own below the commands: a simulation runs the same.
MOST_LEVELS: Final = 9

#: Pairs of packages of which one imports the other. Three are those of ``testing``, which users
#: import: to the messages, to the machine that it shares with the guest, and to what decides about
#: more time, so that a test sees what guest and host would grant. ``daemons`` has one to
#: each package that a daemon is composed of, and ``simulate`` one to each that it takes the place
#: of the machine for; ``cli`` has one to its command, and one to ``app``: ``hbtrio inhibit`` is an
#: application.
MOST_ARROWS: Final = 99

#: Modules that guest, host and agent share. Three are of drains, which a host runs for its own
#: instances, and an agent for those of several hosts; one of them is what both provide to them.
MOST_SHARED: Final = 17

#: Folders of the tests that are about no one package.
OTHER_FOLDERS: Final = {
    "bench",
    "captures",
    "certificates",
    "chaos",
    "deploy",
    "e2e",
    "fixtures",
    "fuzz",
    "hostile",
    "libvirt",
    "soak",
    "support",
    "vm",
}

#: Packages that hold packages of equal rank; every other folder counts as one with those in it.
SPLIT: Final = ("hbtrio.nursery",)

#: Modules of the top that any package may use.
TOP: Final = ("errors", "log", "output", "text")

Graph = Mapping[str, set[str]]


def imports_of(source: str, importer: str, modules: Iterable[str]) -> set[str]:
    """The modules among ``modules`` that a source imports, wherever in it.

    Args:
        source: of the module ``importer``.
        importer: its dotted name.
        modules: all there are.
    """
    known = set(modules)
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: imports of the source are absolute"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return (found & known) - {importer}


def module_graph() -> dict[str, set[str]]:
    """Each module of the source, with those that it imports."""
    files = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: imports_of(path.read_text(encoding="utf-8"), name, files)
        for name, path in files.items()
    }


def package_of(module: str) -> str:
    """The package of a module; the modules beside the packages are one each."""
    parts = module.split(".")
    if ".".join(parts[:2]) in SPLIT and (SOURCE.parent / Path(*parts[:3])).is_dir():
        return ".".join(parts[1:3])
    return parts[1] if len(parts) > 1 else parts[0]


def package_graph(modules: Graph) -> dict[str, set[str]]:
    """Each package, with those that its modules import."""
    packages: dict[str, set[str]] = {package_of(module): set() for module in modules}
    for module, imported in modules.items():
        package = package_of(module)
        packages[package] |= {package_of(name) for name in imported} - {package}
    return packages


def cycle_in(graph: Graph) -> list[str]:
    """A way from a node back to itself, or nothing."""
    finished: set[str] = set()
    way: list[str] = []

    def visit(node: str) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in finished:
            return []
        way.append(node)
        for imported in sorted(graph[node]):
            if cycle := visit(imported):
                return cycle
        way.pop()
        finished.add(node)
        return []

    for node in sorted(graph):
        if cycle := visit(node):
            return cycle
    return []


def levels_of(graph: Graph) -> list[list[str]]:
    """The nodes of a graph without a cycle: each in the level above the highest that it imports."""
    levels: list[list[str]] = []
    left = dict(graph)
    below: set[str] = set()
    while left:
        level = sorted(node for node, imported in left.items() if imported <= below)
        levels.append(level)
        below |= set(level)
        left = {node: imported for node, imported in left.items() if node not in below}
    return levels


def counted(graph: Graph) -> dict[str, set[str]]:
    """The packages alone: without the program's root, ``__main__`` and what any of them may use."""
    left_out = {"hbtrio", "__main__", *TOP}
    return {
        package: imported - left_out
        for package, imported in graph.items()
        if package not in left_out
    }


def test_no_module_imports_itself_by_a_detour() -> None:
    assert cycle_in(module_graph()) == []


def test_no_package_imports_itself_by_a_detour() -> None:
    assert cycle_in(package_graph(module_graph())) == []


def test_the_levels_and_arrows_of_the_packages() -> None:
    graph = counted(package_graph(module_graph()))
    levels = levels_of(graph)
    for number, packages in enumerate(levels):
        print(f"level {number}: {', '.join(packages)}")
    arrows = sum(map(len, graph.values()))
    print(f"{arrows} arrows")
    assert levels[0][-1] == "wire"
    assert set(levels[-1]) <= {"cli", "simulate"}
    assert len(levels) <= MOST_LEVELS
    assert arrows <= MOST_ARROWS


def test_the_shared_tasks_are_few() -> None:
    shared = [path.name for path in (SOURCE / "nursery").glob("[!_]*.py")]
    assert len(shared) <= MOST_SHARED, sorted(shared)


def test_the_folders_of_the_tests_are_those_of_the_source() -> None:
    folders = {
        path.parent.relative_to(TESTS)
        for path in TESTS.rglob("*.py")
        if not OTHER_FOLDERS & set(path.relative_to(TESTS).parts)
    }
    assert [str(folder) for folder in folders if not (SOURCE / folder).is_dir()] == []


# -- the graph itself ------------------------------------------------------------------------------

HIDDEN: Final = """
import wire.lines
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from wire import codec
def late():
    from store.sql import rows
"""


def test_imports_are_found_wherever_they_hide() -> None:
    modules = ("wire", "wire.lines", "wire.codec", "store", "store.sql", "here")
    assert imports_of(HIDDEN, "here", modules) == {"wire.lines", "wire.codec", "store.sql"}


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_a_cycle_is_found(graph: Graph, cycle: list[str]) -> None:
    assert cycle_in(graph) == cycle


def test_a_level_is_above_all_that_it_imports() -> None:
    graph = {"top": {"left", "low"}, "left": {"low"}, "right": {"low"}, "low": set()}
    assert levels_of(graph) == [["low"], ["left", "right"], ["top"]]

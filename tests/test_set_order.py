"""No order of a set shows: of names it is another one in each process, of objects in each run.

So what is done for each member of a set is done in sorted order, or the set is a dict. Looked for
are loops and conversions; a name counts as a set if the source says so anywhere in its module, and
an attribute or function wherever it says so. That finds sets which are declared, not every set.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

SOURCE: Final = Path(__file__).parents[1] / "src" / "hbtrio"

#: Those whose code a simulation runs.
PACKAGES: Final = (
    "api",
    "app",
    "daemons",
    "fsm",
    "http",
    "net",
    "nursery",
    "policy",
    "simulate",
    "store",
    "wire",
)

#: Where the order does not show, and why.
EXCEPTED: Final = {
    "api/task_tree.py enumerate(tasks)": "of tasks of one name any few are shown",
    "net/tls.py *names": "a list of that name, in another function",
    "nursery/host/found_channels.py for before": "removes keys from a dict",
    "policy/expiry.py for self._warned.keys() - names": "removes keys from a dict",
}

#: Calls whose result does not depend on the order, or is a set again.
ORDERLESS: Final = {
    "all",
    "any",
    "bool",
    "frozenset",
    "isinstance",
    "len",
    "max",
    "min",
    "set",
    "sorted",
    "sum",
}

#: Calls that iterate, in the order of the set.
ITERATING: Final = {"enumerate", "fromkeys", "iter", "join", "list", "map", "tuple", "zip"}

_SETS: Final = {"AbstractSet", "Set", "frozenset", "set"}


@attrs.frozen
class Names:
    """What a source declares to be a set."""

    names: set[str] = attrs.field(factory=set)
    attributes: set[str] = attrs.field(factory=set)
    functions: set[str] = attrs.field(factory=set)

    @property
    def public(self) -> set[str]:
        """The attributes that other modules may use."""
        return {name for name in self.attributes if not name.startswith("_")}

    def with_public(self, attributes: set[str], functions: set[str]) -> Names:
        """Adds what other modules declare."""
        return Names(self.names, self.attributes | attributes, functions)


def is_set_annotation(node: ast.expr | None) -> bool:
    if isinstance(node, ast.BinOp):
        return is_set_annotation(node.left) or is_set_annotation(node.right)
    if isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name) and node.id in _SETS


def declared(tree: ast.AST) -> Names:
    """Returns what a source declares."""
    found = Names()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if is_set_annotation(node.returns):
                found.functions.add(node.name)
                found.attributes.add(node.name)  # it may be a property
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            found.names.update(one.arg for one in arguments if is_set_annotation(one.annotation))
        targets: list[ast.expr] = []
        if isinstance(node, ast.AnnAssign) and is_set_annotation(node.annotation):
            targets = [node.target]
        elif isinstance(node, ast.Assign) and is_set_display(node.value):
            targets = node.targets
        for target in targets:
            if isinstance(target, ast.Name):
                found.names.add(target.id)
                found.attributes.add(target.id)  # it may be a field of a class
            elif isinstance(target, ast.Attribute):
                found.attributes.add(target.attr)
    return found


def others(tree: ast.AST) -> set[str]:
    """Returns the fields and properties that a source declares as anything else."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and not is_set_annotation(node.annotation):
            target = node.target
            found.add(
                target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            )
        elif isinstance(node, ast.FunctionDef) and not is_set_annotation(node.returns):
            found.add(node.name)
    return found


def is_set_display(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.BinOp):
        return is_set_display(node.left) or is_set_display(node.right)
    return isinstance(node, ast.Call) and called(node) in ("set", "frozenset")


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_set(node: ast.expr, names: Names) -> bool:
    match node:
        case ast.Await(value=value):
            return is_set(value, names)
        case ast.Name(id=name):
            return name in names.names
        case ast.Attribute(attr=name):
            return name in names.attributes
        case ast.BinOp(left=left, op=ast.Sub() | ast.BitAnd() | ast.BitOr() | ast.BitXor()):
            return is_set(left, names) or is_set(node.right, names) or is_keys(left)
        case ast.Call():
            return is_set_display(node) or called(node) in names.functions
    return is_set_display(node)


def is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and called(node) == "keys"


def iterated(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yields each expression that is iterated in order, and by what."""
    orderless = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in ORDERLESS
        for argument in node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor):
            yield "for", node.iter
        elif isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
            if id(node) not in orderless:
                for generator in node.generators:
                    yield "for", generator.iter
        elif isinstance(node, ast.List | ast.Tuple | ast.Call):
            parts = node.args if isinstance(node, ast.Call) else node.elts
            if id(node) not in orderless:
                for part in parts:
                    if isinstance(part, ast.Starred):
                        yield "*", part.value
            if isinstance(node, ast.Call) and id(node) not in orderless:
                if called(node) in ITERATING:
                    yield from ((called(node), one) for one in node.args[: _iterated(node)])
                elif (
                    called(node) == "pop" and isinstance(node.func, ast.Attribute) and not node.args
                ):
                    yield "pop", node.func.value


def _iterated(node: ast.Call) -> int:
    """Returns how many arguments of a call are iterated; the second one of fromkeys is a value."""
    return 1 if called(node) == "fromkeys" else len(node.args)


def shown(tree: ast.AST, names: Names) -> list[str]:
    """Returns the places where the order of a set shows."""
    places = []
    for how, node in iterated(tree):
        if is_set(node, names):
            text = ast.unparse(node)
            places.append(
                f"{how}{'' if how == '*' else ' '}{text}"
                if how in ("for", "*")
                else f"{how}({text})"
            )
    return places


def parsed() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(SOURCE)): ast.parse(path.read_text(encoding="utf-8"))
        for package in PACKAGES
        for path in sorted((SOURCE / package).rglob("*.py"))
    }


def test_no_order_of_a_set_shows() -> None:
    trees = parsed()
    every = {path: declared(tree) for path, tree in trees.items()}
    public = set().union(*(one.public for one in every.values()))
    public -= set().union(*(others(tree) for tree in trees.values()))
    functions = set().union(*(one.functions for one in every.values()))
    found = {
        f"{path} {place}"
        for path, tree in trees.items()
        for place in shown(tree, every[path].with_public(public, functions))
    }
    assert sorted(found - EXCEPTED.keys()) == []
    assert sorted(EXCEPTED.keys() - found) == []


# -- what is found ---------------------------------------------------------------------------------

EXAMPLES: Final = """
class One:
    def __init__(self, given: set[str] | None) -> None:
        self._kept: set[str] = set()
        self._gone: frozenset[str] = frozenset()
        self.order: dict[str, None] = {}

    def names(self) -> set[str]:
        return self._kept

    def shows(self, given: set[str]) -> None:
        for one in self._kept - self._gone: print(one)
        local = {1, 2} - given
        print(*local, [one for one in given], list(self.names()), self._kept.pop())

    def does_not(self, given: set[str]) -> None:
        for one in sorted(self._kept): print(one)
        for one in self.order: print(one)
        print(any(one for one in given), {one for one in given}, sum(self._kept), *sorted(given))
"""


def test_the_examples() -> None:
    tree = ast.parse(EXAMPLES)
    assert sorted(shown(tree, declared(tree))) == [
        "*local",
        "for given",
        "for self._kept - self._gone",
        "list(self.names())",
        "pop(self._kept)",
    ]

"""Every timer of the daemons is on a list, with the decision that it takes.

``timers.toml`` has a table for each module, relative to ``src/hbtrio``. Its keys are a function and
the call found in it, such as ``Guest.run move_on_after``; a value is a text, or a list of texts if
the function has several such calls. Each text begins with one of these words:

* ``decides:`` the timer decides something about a peer, an instance or a command. It has to use
  ``sleep_until_on_time`` or ``take_in`` with sources that read what the decision depends on: an
  answer that has arrived beats the deadline. A method ``sleep`` or ``_sleep`` is one that
  ``sleep_on_time`` has made. ``Window``, ``BallotWindow`` and ``within`` wait with it, too. One
  that reads no source says why, after ``no source:``. The text ends with its test, in brackets: a
  file in ``tests`` and a function that stops the process over the deadline, in many orders.
* ``excepted:`` it decides, without the helper; the text says why.
* ``bounds:`` it ends a piece of work that takes too long. What has arrived meanwhile changes
  nothing, or the work is repeated.
* ``paces:`` it only waits.
* ``helper:`` it is the helper itself, or passes it on.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from hbtrio import nursery

SOURCE: Final = Path(nursery.__file__).parents[1]
LIST: Final = Path(__file__).with_name("timers.toml")

FOLDERS: Final = ("nursery", "net", "http", "api", "app", "system", "store")

#: Modules with a ``sleep`` of their own.
MODULES: Final = ("trio", "anyio", "time")

#: What is made by ``sleep_on_time``.
MADE: Final = frozenset({".sleep", "._sleep"})

#: Deadlines that are objects or functions of their own.
WINDOWS: Final = frozenset({"Window", "BallotWindow", "within"})

#: Calls that wait with the helper.
HELPERS: Final = (
    frozenset({"sleep_until_on_time", "sleep_on_time", "sleep_reading", "take_in"}) | MADE | WINDOWS
)

#: Calls that have sources, and the place among their arguments; None: only by name.
SOURCES: Final[dict[str, int | None]] = {
    "sleep_until_on_time": None,
    "take_in": 0,
    "Window": None,
    "BallotWindow": 5,
    "within": None,
}

#: What makes a test run in many orders.
ORDERS: Final = "in_every_order"

WORDS: Final = ("decides", "excepted", "bounds", "paces", "helper")

#: A scope's deadline that is set later.
SET: Final = ".deadline ="

Timer = tuple[str, str]  # the module, and the function with the call


class Finder(ast.NodeVisitor):
    """Finds the timers of one module."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.AST]] = []
        self._names: list[str] = []

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _visit_scope

    def _add(self, kind: str, node: ast.AST) -> None:
        self.found.append((f"{'.'.join(self._names) or '<module>'} {kind}", node))

    def visit_Call(self, node: ast.Call) -> None:
        name = ""
        func = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        if isinstance(func, ast.Name):
            name = func.id
        elif isinstance(func, ast.Attribute) and func.attr != "take_in":
            name = func.attr
            owner = func.value
            is_module = isinstance(owner, ast.Name) and owner.id in MODULES
            if not is_module and f".{name}" in MADE:
                name = f".{name}"
        if is_timer(name):
            self._add(name, node)
        self.generic_visit(node)

    def _visit_targets(self, targets: list[ast.expr], node: ast.AST) -> None:
        if any(isinstance(one, ast.Attribute) and one.attr == "deadline" for one in targets):
            self._add(SET, node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self._visit_targets(node.targets, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._visit_targets([node.target], node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_targets([node.target] if node.value is not None else [], node)


def is_timer(name: str) -> bool:
    return (
        name.startswith(("sleep", "move_on_", "fail_after", "fail_at"))
        or name in HELPERS
        or name == "CancelScope"
    )


def in_source(text: str) -> list[tuple[str, ast.AST]]:
    finder = Finder()
    finder.visit(ast.parse(text))
    return finder.found


def in_project() -> list[tuple[str, str, ast.AST]]:
    return [
        (str(path.relative_to(SOURCE)), timer, node)
        for folder in FOLDERS
        for path in sorted((SOURCE / folder).rglob("*.py"))
        for timer, node in in_source(path.read_text("utf-8"))
    ]


def listed() -> dict[Timer, list[str]]:
    tables = tomllib.loads(LIST.read_text("utf-8"))
    return {
        (module, timer): texts if isinstance(texts, list) else [texts]
        for module, timers in tables.items()
        for timer, texts in timers.items()
    }


def test_every_timer_is_listed_and_every_listed_timer_exists() -> None:
    found = Counter((module, timer) for module, timer, _ in in_project())
    known = Counter({key: len(texts) for key, texts in listed().items()})
    assert sorted((found - known).elements()) == []  # unlisted
    assert sorted((known - found).elements()) == []  # gone


@pytest.mark.parametrize(("timer", "texts"), listed().items())
def test_the_list_says_what_it_decides(timer: Timer, texts: list[str]) -> None:
    for text in texts:
        word, colon, reason = text.partition(": ")
        assert word in WORDS
        assert colon
        assert len(reason) > 10
        kind = timer[1].partition(" ")[2]
        if word == "decides":
            assert kind in HELPERS
        if kind in HELPERS:
            assert word in ("decides", "helper")


def reads_nothing(call: ast.Call, kind: str) -> bool:
    """Whether a call has no sources, or an empty literal for them."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "sources"]
    place = SOURCES[kind]
    if place is not None:
        given += call.args[place : place + 1]
    return not given or (isinstance(given[0], ast.Tuple | ast.List) and not given[0].elts)


def test_who_decides_reads_its_sources_or_says_why_not() -> None:
    texts = {timer: iter(all_of_it) for timer, all_of_it in listed().items()}
    unexplained = []
    for module, timer, node in in_project():
        text = next(texts[module, timer])
        kind = timer.partition(" ")[2]
        if not (isinstance(node, ast.Call) and kind in SOURCES and text.startswith("decides: ")):
            continue
        if reads_nothing(node, kind) != ("no source: " in text):
            unexplained.append((module, timer))
    assert unexplained == []


@pytest.mark.parametrize(
    ("call", "nothing"),
    [
        ("Window(8, guard)", True),
        ("within(8, guard, run)", True),
        ("within(8, guard, run, sources=())", True),
        ("within(8, guard, run, sources=[])", True),
        ("within(8, guard, run, sources=[read])", False),
        ("within(8, guard, run, sources=sources)", False),
        ("take_in(())", True),
        ("take_in([read])", False),
        ("BallotWindow(kind, 8, ballot, announce, guard)", True),
        ("BallotWindow(kind, 8, ballot, announce, guard, [read])", False),
    ],
)
def test_what_reads_nothing(call: str, nothing: bool) -> None:
    ((timer, node),) = in_source(f"def f():\n    {call}\n")
    assert isinstance(node, ast.Call)
    assert reads_nothing(node, timer.partition(" ")[2]) is nothing


def test_each_decision_has_a_test_that_stops_the_process_over_it() -> None:
    faults = [
        (*timer, text)
        for timer, texts in listed().items()
        for text in texts
        if text.startswith("decides: ") and not is_tried(text)
    ]
    assert faults == []


def is_tried(text: str) -> bool:
    named = re.search(r" \[(\S+)::(\w+)\]$", text)
    if named is None or not (file := LIST.parent / named[1]).is_file():
        return False
    return any(
        isinstance(node, ast.Name) and node.id.startswith(ORDERS)
        for function in ast.parse(file.read_text("utf-8")).body
        if isinstance(function, ast.FunctionDef) and function.name == named[2]
        for node in ast.walk(function)
    )


@pytest.mark.parametrize(
    "text",
    [
        "decides: whether",
        "decides: whether [nursery/test_none.py::test_it]",
        "decides: whether [nursery/test_late_answers.py::test_none]",
        "decides: whether [nursery/test_late_answers.py::test_the_exit_of_a_real_script]",
    ],
)
def test_a_test_that_is_missing_or_runs_in_one_order_does_not_count(text: str) -> None:
    assert not is_tried(text)


@pytest.mark.parametrize(
    ("line", "timer"),
    [
        ("await trio.sleep(1)", "f sleep"),
        ("await trio.sleep_until(1)", "f sleep_until"),
        ("await trio.sleep_forever()", "f sleep_forever"),
        ("await sleep_until_on_time(1, guard, at_most_s=1)", "f sleep_until_on_time"),
        ("await take_in([])", "f take_in"),
        ("await self._sleep(1, source)", "f ._sleep"),
        ("await link.sleep(1)", "f .sleep"),
        ("Window(8, guard)", "f Window"),
        ("Window[int](8, guard)", "f Window"),
        ("BallotWindow(kind, 8, ballot, announce, guard)", "f BallotWindow"),
        ("await within(8, guard, run)", "f within"),
        ("await anyio.sleep(1)", "f sleep"),
        ("with trio.move_on_after(1): pass", "f move_on_after"),
        ("with trio.move_on_at(1): pass", "f move_on_at"),
        ("with trio.fail_after(1): pass", "f fail_after"),
        ("with trio.fail_at(1): pass", "f fail_at"),
        ("with trio.CancelScope(deadline=1): pass", "f CancelScope"),
        ("scope = trio.CancelScope()", "f CancelScope"),
        ("scope.deadline = 1", "f .deadline ="),
        ("scope.deadline += 1", "f .deadline ="),
        ("self.scope.deadline: float = 1", "f .deadline ="),
        ("await inventory.take_in(record)", None),
        ("scope.deadline: float", None),
        ("print(scope.deadline)", None),
    ],
)
def test_what_is_a_timer(line: str, timer: str | None) -> None:
    found = [name for name, _ in in_source(f"async def f():\n    {line}\n")]
    assert found == ([timer] if timer else [])

"""Every log line about an instance names it, so that its uuid finds all lines about it.

A log call gives the uuid as an argument of its own, or with ``extra=fields(uuid=…)``; the daemon's
log adds the name (:mod:`hbtrio.log.subject`). ``log_lines.toml`` lists the calls that do neither,
by module: their texts, as they stand in the code. They are about the daemon, a host, a file or a
peer, or about more instances than one. A guest's log is about its own instance, and names it once.
"""

from __future__ import annotations

import ast
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import hbtrio
from hbtrio.log.lines import message
from hbtrio.log.subject import Subject, note_subject

SOURCE: Final = Path(hbtrio.__file__).parent
LIST: Final = Path(__file__).with_name("log_lines.toml")

#: What runs in a host or an agent.
PARTS: Final = ("api", "daemons", "net", "nursery/*.py", "nursery/agent", "nursery/host", "store")

LEVELS: Final = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def modules() -> Iterator[Path]:
    for part in PARTS:
        found = SOURCE.glob(part if part.endswith(".py") else f"{part}/**/*.py")
        yield from (path for path in found if path.stem != "guest")


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=attr)):
                if attr in LEVELS:
                    yield node


def is_uuid(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_") == "uuid"
        case _:
            return False


def names_an_instance(call: ast.Call) -> bool:
    given = [*call.args]
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Call):
            given += [inner.value for inner in keyword.value.keywords if inner.arg == "uuid"]
    return any(map(is_uuid, given))


def nameless_texts(source: str) -> list[str]:
    """The texts of the log calls that name no instance, as they stand in the code."""
    texts = []
    for call in log_calls(ast.parse(source)):
        if not names_an_instance(call):
            is_log = isinstance(call.func, ast.Attribute) and call.func.attr == "log"
            text = call.args[1 if is_log else 0]
            texts.append(text.value if isinstance(text, ast.Constant) else ast.unparse(text))
    return sorted(texts)


def test_a_line_names_its_instance_or_is_listed() -> None:
    found = {
        str(path.relative_to(SOURCE)): texts
        for path in modules()
        if (texts := nameless_texts(path.read_text()))
    }
    listed = tomllib.loads(LIST.read_text())
    assert found == {module: sorted(table["about_no_instance"]) for module, table in listed.items()}


@pytest.mark.parametrize(
    ("call", "texts"),
    [
        ('_log.info("%s: moved", uuid)', []),
        ('log.log(level, "%s: moved", one.record.uuid)', []),
        ('_log.info("refused", extra=fields("refused", uuid=uuid))', []),
        # Only a whole argument is found by the log.
        ('_log.info(f"{uuid}: moved")', ["f'{uuid}: moved'"]),
        ('_log.info("%s", f"{uuid}: moved")', ["%s"]),
        ('_log.log(level, "%s: moved", command_id)', ["%s: moved"]),
        ("_log.error(text, fault)", ["text"]),
        ('other.info("moved")', []),
    ],
)
def test_what_names_an_instance(call: str, texts: list[str]) -> None:
    assert nameless_texts(call) == texts


def test_the_name_is_added_to_the_uuid() -> None:
    uuid = "6c215b1d-2cc6-4c0c-a968-857bdb44905c"
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s: moved", (uuid,), None)
    note_subject(record, lambda text: Subject(text, "web-1"))
    assert message(record) == f"{uuid}: moved (web-1)"

"""Lists of the documentation that a person wrote: routes and states, compared with the code."""

from __future__ import annotations

import re
from typing import Any, Final
from unittest.mock import Mock

import pytest
from starlette.routing import Route

from hbtrio.api.agent import agent_api
from hbtrio.api.host import host_api, observe_api
from hbtrio.api.openapi import openapi
from hbtrio.api.vim import vim_api
from hbtrio.cli import Parser
from hbtrio.cli.ctl.arguments import add_arguments
from support.wheel import CHECKOUT

DOCS: Final = CHECKOUT / "docs"
ROUTES: Final = (DOCS / "routes.md").read_text()

_OPERATORS: Final = [host_api(Mock()), observe_api(Mock()), agent_api(Mock(), Mock())]


def served(api: Any) -> set[str]:
    """The routes of an API behind its admission."""
    app = next(value for value in vars(api).values() if hasattr(value, "routes"))
    return {
        f"{method} {route.path}"
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }


def rows(text: str) -> list[list[str]]:
    found = re.findall(r"^\| `(.*)\|$", text, re.M)
    return [[cell.strip(" `") for cell in row.split("|")] for row in found]


@pytest.mark.parametrize(("column", "api"), [*enumerate(_OPERATORS, start=1)])
def test_operators_routes(column: int, api: Any) -> None:
    operators = ROUTES.partition("## The VIM")[0]
    listed = {row[0] for row in rows(operators) if row[column]}
    assert listed == served(api)


def test_the_agent_s_document_has_them_too() -> None:
    described = {
        f"{method.upper()} {path}"
        for path, operations in openapi()["paths"].items()
        for method in operations
    }
    assert described == {route for route in served(_OPERATORS[2]) if "/v1/" in route} | {
        "GET /metrics", "GET /openapi.json",
    }  # fmt: skip


def test_the_vim_s_routes() -> None:
    listed = {row[0] for row in rows(ROUTES.partition("## The VIM")[2])}
    assert listed == {route.partition(" ")[2] for route in served(vim_api(Mock()))}


def test_the_concepts_have_each_state() -> None:
    section = (DOCS / "concepts.md").read_text().partition("## States")[2]
    first = " ".join(re.findall(r"^\| (`.*?) \|", section, re.M))
    assert set(re.findall(r"`([^`]+)`", first)) == set(shown_states())


def shown_states() -> tuple[str, ...]:
    """Those that ``hbtrio ctl status --state`` knows."""
    parser = Parser(prog="hbtrio ctl")
    add_arguments(parser)
    commands: Any = next(action for action in parser._actions if action.dest == "command")
    status = commands.choices["status"]
    option: Any = next(action for action in status._actions if action.dest == "state")
    known: tuple[str, ...] = option.type.known
    return known

"""The status page's files: how they are served, to whom, and what browsers may do with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import httpx
import pytest

from hbtrio.api.host_status import NOT_WATCHED
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.begin_by import BEGIN_S
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE
from support.api_replies import refusal
from support.fleet_world import TOKEN, fleet_api

PAGE: Final = Path(__file__).parents[2] / "src" / "hbtrio" / "page"
OTHER_SITE: Final = (403, "Origin: the request comes from another site")
RIGHT: Final = {"authorization": f"Bearer {TOKEN}"}


def words(name: str) -> list[str]:
    """A list of words.js."""
    (found,) = re.findall(rf"export const {name} = \[(.*?)\];", script("words.js"), re.DOTALL)
    return re.findall(r'"([a-z_-]+)"', found)


def script(name: str) -> str:
    return (PAGE / name).read_text()


def only_own_files(answer: httpx.Response) -> bool:
    policy = answer.headers["content-security-policy"]
    return (
        "default-src 'none'" in policy
        and "frame-ancestors 'none'" in policy
        and "unsafe" not in policy
        and "http" not in policy
        and answer.headers["x-content-type-options"] == "nosniff"
        and answer.headers["referrer-policy"] == "no-referrer"
    )


async def test_every_file_is_served_with_its_type_and_a_strict_policy(tmp_path: Path) -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        index = await http.get("/")
        assert index.text == script("index.html")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        assert only_own_files(index)
        for file in PAGE.iterdir():
            answer = await http.get(f"/page/{file.name}")
            assert answer.content == file.read_bytes()
            assert answer.headers["content-type"].startswith(
                types.get(file.suffix[1:], "text/html")
            )
            assert only_own_files(answer)


async def test_an_unchanged_file_is_not_sent_again(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        tag = (await http.get("/page/app.js")).headers["etag"]
        again = await http.get("/page/app.js", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/page/app.js", headers={"if-none-match": '"x"'})).status_code == 200
        head = await http.head("/")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/page/", "/page/no.js", "/page/../page.py", "/page/%2e%2e/page.py", "/page/a/app.js"]
)
async def test_nothing_else_is_served(tmp_path: Path, path: str) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        assert (await http.get(path)).status_code == 404


async def test_the_files_need_no_token_where_all_else_does(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, local=False) as api, api.client(tcp=True) as http:
        for path in ("/", "/page/app.js"):
            assert (await http.get(path)).status_code == 200
            assert (await http.post(path)).status_code == 401
        for path in ("/v1/status", "/v1/events?follow=no", "/pages", "/metrics"):
            assert (await http.get(path)).status_code == 401


async def test_a_name_that_resolves_to_the_loopback_gets_no_page(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        for path in ("/", "/page/app.js"):
            assert (await http.get(path, headers={"host": "evil.example"})).status_code == 403


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, True),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        # A link from a dashboard; an address that was typed; the page itself; a program.
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "none", "sec-fetch-dest": "document"}, False),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, False),
        ({}, False),
    ],
)
async def test_a_page_of_another_site_reads_nothing_on_the_loopback(
    tmp_path: Path, headers: dict[str, str], refused: bool
) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        for path in ("/v1/status", "/v1/events?follow=no", "/metrics"):
            answer = await http.get(path, headers=headers)
            assert (refusal(answer) if refused else answer.status_code) == (
                OTHER_SITE if refused else 200
            )
            assert not any(name.startswith("access-control") for name in answer.headers)


async def test_no_other_origin_is_ever_permitted(tmp_path: Path) -> None:
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        for path in ("/", "/v1/status", "/v1/instances/x/vote"):
            for headers in (asks, asks | RIGHT):
                answer = await http.options(path, headers=headers)
                assert answer.status_code in (403, 404, 405)
                assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_page_knows_all_events_and_actions() -> None:
    assert set(words("VOTED")) == {str(event) for event, rule in EVENT_TABLE.items() if rule.voted}
    assert set(words("NOTIFIED")) == {str(event) for event in EVENT_TABLE}
    assert set(words("ACTIONS")) == {str(action) for action in ACTION_TABLE}


def test_what_the_page_asks_for_may_begin_as_long_as_what_ctl_asks_for() -> None:
    (seconds,) = re.findall(r"const BEGIN = (\d+);", script("api.js"))
    assert float(seconds) == BEGIN_S


def test_the_page_knows_all_states_and_each_has_a_shape_of_its_own() -> None:
    (table,) = re.findall(r"export const KINDS = \[(.*?)\]\.map", script("words.js"), re.DOTALL)
    kinds = re.findall(r'\["([a-z ]+)", "', table)
    shown = {state.shown for state in HeartbeatState if state is not HeartbeatState.GONE}
    assert shown | {NOT_WATCHED, "ill", "unknown"} == set(kinds)
    shapes = {}
    for kind in kinds:
        (rule,) = re.findall(
            rf'\.shape\[data-kind="{kind}"\] \{{(.*?)\}}', script("style.css"), re.DOTALL
        )
        # Whatever the colour.
        shapes[kind] = re.sub(r"var\(--\w+\)", "", rule).strip()
    assert len(set(shapes.values())) == len(kinds)


def test_the_page_loads_its_modules_at_once() -> None:
    """Not one after the other, as they import each other."""
    preloaded = re.findall(r'<link rel="modulepreload" href="/page/(.+?)" />', script("index.html"))
    modules = {file.name for file in PAGE.glob("*.js")}
    assert preloaded == sorted(modules - {"app.js"})


def test_the_page_asks_no_other_host_and_writes_no_markup() -> None:
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "cookie =",
        ):
            assert word not in text, (file.name, word)

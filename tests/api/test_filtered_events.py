"""Requests for some events, or some entries of the history, only."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
import trio

from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.store.daemon_store import PAGE
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.operator import EventFilter
from support.api_replies import refusal, stream
from support.control_socket import call
from support.ctl_cases import serving
from support.fleet_world import FleetApi, fleet_api
from support.host_world import EPOCH as HOST_EPOCH
from support.host_world import HostWorld, uuid_of
from support.inline_store import EPOCH, wall_clock

pytestmark = pytest.mark.usefixtures("autojump_clock")

ONE, TWO = uuid_of(1), uuid_of(2)


def publish(world: HostWorld, kind: ReportKind, uuid: str, reason: str, who: str = "") -> None:
    reports = world.host.reports
    reports.publish(Report(reports.now(), kind, uuid, reason, who=who))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("uuid=" + ONE, ["a", "c", "e"]),
        ("uuid=" + ONE.upper(), ["a", "c", "e"]),
        ("uuid=" + ONE + "&recent=2", ["c", "e"]),
        ("kind=loss", ["b", "c"]),
        ("kind=loss,vote&recent=3", ["c", "d", "e"]),
        ("by=uid", ["d"]),
        (urlencode({"since": (HOST_EPOCH + timedelta(seconds=5)).isoformat()}), ["d", "e"]),
        ("uuid=" + ONE + "&kind=loss&by=x", []),
    ],
)
async def test_past_events_of_a_host(query: str, expected: list[str]) -> None:
    async with serving() as (world, api), api.client() as http:
        publish(world, ReportKind.STOPPED, ONE, "a")
        publish(world, ReportKind.LOSS, TWO, "b")
        publish(world, ReportKind.LOSS, ONE, "c")
        await world.at(5)
        publish(world, ReportKind.VOTE, TWO, "d", "operator uid 0")
        publish(world, ReportKind.VOTE, ONE, "e", "vim")
        given = query if "recent" in query else f"{query}&recent=100"
        response = await http.get(f"/v1/events?follow=no&{given}")
        assert [json.loads(line)["reason"] for line in response.text.splitlines()] == expected


async def test_others_events_neither_come_nor_keep_a_stream_quiet() -> None:
    async with (
        serving() as (world, api),
        api.client() as http,
        stream(http, "GET", f"/v1/events?uuid={ONE}") as (_, lines),
    ):
        await world.settle()
        began = trio.current_time()
        for second in range(1, 15):
            await world.at(began + second)
            publish(world, ReportKind.STOPPED, TWO, "not asked for")
        assert await anext(lines) == ""
        assert trio.current_time() == pytest.approx(began + 15)
        publish(world, ReportKind.STOPPED, ONE, "asked for")
        assert json.loads(await anext(lines))["reason"] == "asked for"


async def test_a_faulty_filter(tmp_path: Path) -> None:
    fault = (400, "since: not a time with an offset: 'noon'")
    async with serving() as (_, api), api.client() as http:
        assert refusal(await http.get("/v1/events?since=noon")) == fault
    async with fleet_api(tmp_path) as fleet, fleet.client() as http:
        assert refusal(await http.get("/v1/events?since=noon")) == fault
        assert refusal(await http.get("/v1/history?since=noon")) == fault


# -- the history ------------------------------------------------------------------------------


async def record(api: FleetApi, count: int) -> None:
    """Every hundredth entry is a loss of ONE; the rest are votes on TWO, asked for by the VIM."""
    for number in range(count):
        loss = number % 100 == 0
        entry = HistoryEntry(
            wall_clock(),
            "loss" if loss else "vote",
            ONE if loss else TWO,
            "compute-0",
            str(number),
            who="" if loss else "vim",
        )
        await api.agent.store.record(entry)


async def reasons(http: httpx.AsyncClient, query: str) -> tuple[list[str], int | None]:
    page = (await http.get(f"/v1/history?{query}")).json()
    return [entry["reason"] for entry in page["history"]], page["before"]


async def test_a_filtered_history_is_looked_through_to_its_end(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        await record(api, 2 * PAGE + 200)
        found, before = await reasons(http, "kind=loss")
        assert found == [str(number) for number in range(2100, -1, -100)]
        assert before is None
        found, before = await reasons(http, "kind=loss&limit=3")
        assert (found, before) == (["2100", "2000", "1900"], 1901)
        found, before = await reasons(http, "kind=loss&limit=100&before=1901")
        assert found[:2] == ["1800", "1700"]
        assert await reasons(http, f"kind=loss&uuid={TWO}") == ([], None)
        found, _ = await reasons(http, f"by=vim&uuid={TWO}&limit=1")
        assert found == ["2199"]


async def test_one_request_looks_through_a_bounded_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.api.history.PAGE", 10)
    async with fleet_api(tmp_path) as api, api.client() as http:
        await record(api, 401)
        assert await reasons(http, "kind=loss&limit=9") == (["400", "300"], 202)
        # The client goes on where the daemon has stopped.
        called = await call(api.path, "history", "--kind", "loss", "--limit", "10", "--json")
        kept = [json.loads(line)["reason"] for line in called.lines]
        assert kept == ["0", "100", "200", "300", "400"]


async def test_a_history_since_some_time(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        # A host without a link has reported it only now, and another one's clock is ahead.
        for number, (at_s, now_s) in enumerate([(0, 0), (5000, 5000), (100, 6000), (9000, 6001)]):
            await trio.sleep(now_s - trio.current_time())
            entry = HistoryEntry(EPOCH + timedelta(seconds=at_s), "loss", ONE, "h", str(number))
            await api.agent.store.record(entry)
        since = urlencode({"since": (EPOCH + timedelta(seconds=5000)).isoformat()})
        assert await reasons(http, since) == (["3", "1"], None)
        since = urlencode({"since": (EPOCH + timedelta(seconds=5001)).isoformat()})
        assert await reasons(http, since) == (["3"], None)


# -- hbtrio ctl -------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
async def test_ctl_asks_for_some_events(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old:  # a daemon that knows of no filters
        monkeypatch.setattr(EventFilter, "of_query", lambda _: EventFilter())
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web")
        other = await world.heartbeating(name="db")
        for uuid in (guest.uuid, other.uuid):
            await call(api.path, "vote", uuid, "stop")
        for words, expected in [
            (("web", "--kind", "vote"), [guest.uuid]),
            (("--kind", "vote", "--by", "operator"), [guest.uuid, other.uuid]),
            (("--kind", "vote", "--by", "vim"), []),
            (("db", "--since", "2026-01-01T00:00Z"), [other.uuid, other.uuid]),
            (("--since", "2026-01-02T00:00Z"), []),
        ]:
            called = await call(api.path, "events", *words, "--json")
            assert [json.loads(line)["uuid"] for line in called.lines] == expected, words
            called = await call(api.path, "events", *words)
            assert [line.split()[2] for line in called.lines] == expected, words


async def test_ctl_names_who_asked_at_a_host() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        await call(api.path, "vote", guest.uuid, "stop")
        called = await call(api.path, "events", "--kind", "vote")
        assert " (vm) vote stop accept by operator uid " in called.lines[0]

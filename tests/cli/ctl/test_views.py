"""What `hbtrio ctl` shows: tables of any width, events, and words of tenants that do no harm."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from hbtrio.cli.ctl.instances import pick
from hbtrio.cli.ctl.screen import Screen, clipped, padded
from hbtrio.cli.ctl.views import show_event, show_status
from hbtrio.errors import UserError
from hbtrio.wire.operator import (
    DomainLine,
    EventLine,
    EventsFaultLine,
    FilesLine,
    FleetEventLine,
    HostLine,
    HostLinkLine,
    InstanceLine,
    LibvirtLine,
    OverloadLine,
    RoundEntry,
    Status,
)
from support.json_values import nested
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in
from support.time_zone import time_zone

HOST = HostLine(hostname="h", version="1", started="2026-01-01T00:00:00+00:00", heartbeating=2)

WEB = InstanceLine(
    uuid="0aaaaaaa-1111-2222-abcd-000000000001",
    name="web",
    state="heartbeating",
    why="answers challenges",
    health="healthy",
    beats=1234567,
    missed=3,
    round_trip_ms=1.26,
    last=EventLine(
        kind="vote",
        time="2026-01-01T12:34:56.789+00:00",
        event="stop",
        result="reject",
        reason="disk is busy",
    ),
)
DB = replace(
    WEB,
    uuid="0aaaaaab-1111-2222-abcd-000000000002",
    name="Db",
    state="restarting",
    health="unhealthy",
    health_reason="no memory",
    beats=0,
    missed=0,
    round_trip_ms=None,
    last=None,
    why="connection refused",
)


AT = "2026-01-01T12:34:56.789+00:00"
WELL_AGAIN = {
    "last": EventLine(kind="unhealthy", time=AT, reason="no memory"),
    "why": "healthy again after: no memory",
}
CLOSED = {
    "last": EventLine(kind="stopped", time=AT, reason="closed by its peer"),
    "state": "waiting",
    "health": "unknown",
}


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


def screen(
    columns: int | None = None, *, colour: bool = False, encoding: str = "utf-8"
) -> tuple[Screen, io.BytesIO]:
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding=encoding, write_through=True)
    made = Screen(out, terminal=columns is not None, colour=colour, columns=lambda: columns or 80)
    # The stream closes its bytes with itself.
    made.keep = out  # type: ignore[attr-defined]
    return made, data


def status_lines(status: Status, columns: int | None, *, colour: bool = False) -> list[str]:
    on, data = screen(columns, colour=colour)
    show_status(on, status)
    return data.getvalue().decode().splitlines()


@pytest.mark.parametrize("word", ["configured", "any", ""])
def test_a_host_that_runs_any_command_says_so(word: str) -> None:
    host = replace(HOST, agent_commands=word)
    lines = status_lines(Status(host=host, instances=()), None)
    text = 'the agent may run any command here ([agent] commands = "any" in host.toml)'
    assert lines[1:] == ([text] if word == "any" else [])


# -- the table ------------------------------------------------------------------------------


def test_a_narrow_table() -> None:
    assert status_lines(Status(host=HOST, instances=(WEB, DB)), 80)[2:] == [
        "UUID      NAME  STATE         HEALTH       BEATS  MISSED  RTT ms  LAST",
        "0aaaaaab  Db    restarting    unhealthy        0       0       -  unhealthy: no…",
        "0aaaaaaa  web   heartbeating  healthy    1234567       3     1.3  vote stop rej…",
    ]


def test_a_still_narrower_table_keeps_the_reasons_instead_of_the_numbers() -> None:
    assert status_lines(Status(host=HOST, instances=(WEB, DB)), 60)[2:] == [
        "UUID      NAME  STATE         HEALTH     LAST",
        "0aaaaaab  Db    restarting    unhealthy  unhealthy: no memo…",
        "0aaaaaaa  web   heartbeating  healthy    vote stop reject:…",
    ]


def test_a_domain_of_the_same_name_is_shown_once() -> None:
    domain = DomainLine(name="web", state="running: booted", since="2026-01-01T00:00:00+00:00")
    web, db = replace(WEB, domain=domain), replace(DB, domain=domain)
    assert status_lines(Status(host=HOST, instances=(web,)), 80)[2].startswith("UUID      NAME  S")
    assert "DOMAIN" in status_lines(Status(host=HOST, instances=(web, db)), 80)[2]


def test_a_wide_table_says_more() -> None:
    lines = status_lines(Status(host=HOST, instances=(WEB, DB)), 100)
    assert lines[2:] == [
        "UUID      NAME  STATE         HEALTH       BEATS  MISSED  RTT ms  AT        LAST",
        "0aaaaaab  Db    restarting    unhealthy        0       0       -            "
        "unhealthy: no memory",
        "0aaaaaaa  web   heartbeating  healthy    1234567       3     1.3  12:34:56  "
        "vote stop reject: disk…",
    ]
    assert status_lines(Status(host=HOST, instances=(WEB,)), 135)[2:] == [
        "UUID                                  NAME  STATE         HEALTH     BEATS  MISSED  "
        "RTT ms  AT        LAST",
        "0aaaaaaa-1111-2222-abcd-000000000001  web   heartbeating  healthy  1234567       3  "
        "   1.3  12:34:56  vote stop reject: disk is busy",
    ]


@pytest.mark.parametrize("width", [None, 80, 100])
def test_a_row_ends_with_its_last_word(width: int | None) -> None:
    plain = replace(DB, health="healthy", why="", open=None, restart_remaining_s=None)
    lines = status_lines(Status(host=HOST, instances=(WEB, plain)), width)
    assert [line for line in lines if line != line.rstrip()] == []
    [row] = [line for line in lines if line.startswith(plain.uuid[:8])]
    # The numbers stay below their heads.
    assert row.index("-", 40) == lines[2].index("RTT ms") + len("RTT ms") - 1
    assert row.endswith(" -")


def test_a_table_in_a_pipe_is_whole() -> None:
    long = replace(WEB, name="n" * 63, last=replace(WEB.last, reason="r" * 223))
    (line,) = status_lines(Status(host=HOST, instances=(long,)), None)[3:]
    assert long.uuid in line
    assert "n" * 63 in line
    assert line.endswith("vote stop reject: " + "r" * 223)


@pytest.mark.parametrize(
    ("changes", "action", "last"),
    [
        ({}, None, "unhealthy: no memory"),
        ({"health": "healthy"}, None, "connection refused"),
        ({"health": "healthy", "last": WEB.last}, None, "vote stop reject: disk is busy"),
        (
            {"health": "healthy", "last": replace(WEB.last, result="accept", reason="")},
            None,
            "vote stop accept",
        ),
        (
            {"open": RoundEntry(kind="vote", event="stop", remaining_s=4.6)},
            None,
            "vote stop, 5 s left",
        ),
        ({"restart_remaining_s": 99.0}, None, "RESTART, 99 s left"),
        ({"restart_remaining_s": 9.0}, "reboot", "reboot in progress; RESTART, 9 s left"),
        ({}, "pause", "pause in progress"),
        # What it says of the present outranks an event that is no longer so.
        ({**WELL_AGAIN, "health": "healthy"}, None, "healthy again after: no memory"),
        (WELL_AGAIN, None, "unhealthy: no memory"),
        ({**CLOSED, "why": "connection refused; retrying"}, None, "connection refused; retrying"),
        ({**CLOSED, "why": "closed by its peer"}, None, "stopped: closed by its peer"),
        ({**CLOSED, "why": "refused", "state": "lost"}, None, "stopped: closed by its peer"),
    ],
)
def test_the_last_column(changes: dict[str, Any], action: str | None, last: str) -> None:
    one = replace(DB, **changes)
    host = replace(HOST, actions={one.uuid: action} if action else {})
    line = status_lines(Status(host=host, instances=(one,)), None)[-1]
    assert line.endswith(f"  {last}")


def test_the_time_is_that_of_the_event_that_is_shown() -> None:
    again = replace(DB, health="healthy", **WELL_AGAIN)
    assert "12:34:56" not in status_lines(Status(host=HOST, instances=(again,)), 130)[-1]
    ill = replace(again, health="unhealthy")
    assert "12:34:56" in status_lines(Status(host=HOST, instances=(ill,)), 130)[-1]


def test_abbreviations_are_as_long_as_they_must_be() -> None:
    twin = replace(WEB, uuid=WEB.uuid[:-1] + "2")
    lines = status_lines(Status(host=HOST, instances=(WEB, twin)), 80)
    assert [line.split()[0] for line in lines[2:]] == ["UUID", WEB.uuid, twin.uuid]
    near = replace(WEB, uuid="0aaaaaaa-1119-2222-abcd-000000000001")
    lines = status_lines(Status(host=HOST, instances=(WEB, near)), 80)
    assert [line.split()[0] for line in lines[3:]] == ["0aaaaaaa-1111", "0aaaaaaa-1119"]


def test_what_is_wrong_with_the_host_comes_first() -> None:
    host = replace(
        HOST,
        late=True,
        crashes=1,
        alarms=2,
        corrective_commands_held_back=7,
        corrective_commands_run=3,
        corrective_commands_failed=1,
        events_fault=EventsFaultLine(
            since="2026-01-01T00:00:01+00:00", why="no space left on device", lost=4
        ),
    )
    assert status_lines(Status(host=host, instances=()), 120) == [
        "h: 2 of 0 heartbeating, hbtrio 1 since 2026-01-01 00:00:00+00:00",
        "ALARM: 2 mass failures, the host itself is suspected; 7 corrective commands held back",
        "the host daemon is not being scheduled on time: missed heartbeats are ignored for now",
        "1 internal failure: see the host's log",
        "4 events not written since 2026-01-01 00:00:01+00:00: no space left on device",
        "3 corrective commands run, 1 failed",
    ]


@pytest.mark.parametrize("alarm", [False, True])
def test_an_overload_is_red_and_an_alarm(alarm: bool) -> None:
    overload = OverloadLine(since="2026-01-01T00:00:01+00:00", alarm=alarm)
    host = replace(HOST, late=True, overload=overload)
    lines = status_lines(Status(host=host, instances=()), 120, colour=True)
    assert lines[1:] == [
        f"\x1b[1;31m{'ALARM: ' if alarm else ''}overloaded since 2026-01-01 00:00:01+00:00: "
        "heartbeats and losses come late; status and log lines are shed\x1b[0m"
    ]


SINCE = "2026-01-01T00:00:01+00:00"


@pytest.mark.parametrize(
    ("link", "first", "line"),
    [
        (HostLinkLine(state="none"), "h: 2 of 0 heartbeating, hbtrio 1", "no agent is configured"),
        (
            HostLinkLine(state="up", endpoint="tcp:c:1", agent="c-0", since=SINCE),
            "h: 2 of 0 heartbeating, hbtrio 1",
            "agent c-0, tcp:c:1: link up since 2026-01-01 00:00:01+00:00",
        ),
        (
            HostLinkLine(state="down", endpoint="tcp:c:1", since=SINCE, why="it has expired"),
            "h: 2 of 0 heartbeating, hbtrio 1",
            "agent at tcp:c:1: link down since 2026-01-01 00:00:01+00:00: it has expired",
        ),
        (None, "h: 2 of 0 heartbeating, hbtrio 1", None),  # an older host
    ],
)
def test_the_link_to_the_agent(link: HostLinkLine | None, first: str, line: str | None) -> None:
    lines = status_lines(Status(host=replace(HOST, link=link), instances=()), 120)
    assert lines[0].startswith(first)
    assert lines[1:] == ([] if line is None else [line])


def test_certificates_that_expire_and_files_that_can_t_be_used() -> None:
    link = HostLinkLine(state="up", endpoint="unix:/l", agent="c-0", certificate="its … expires")
    files = FilesLine(warnings=("agent.certificate: expires",), faults=("x: key values mismatch",))
    lines = status_lines(Status(host=replace(HOST, link=link, files=files), instances=()), 120)
    assert lines[1:] == [
        "agent c-0, unix:/l: link up",
        "agent: its … expires",
        "agent.certificate: expires",
        "x: key values mismatch; what was read before stays in use",
    ]


def test_colours() -> None:
    lines = status_lines(Status(host=replace(HOST, alarms=1), instances=(DB,)), 80, colour=True)
    assert lines[1].startswith("\x1b[1;31mALARM: 1 mass failure, ")
    assert "\x1b[33mrestarting\x1b[0m  \x1b[1;31munhealthy\x1b[0m  " in lines[-1]


_TEXT = st.text(max_size=80)
_NUMBERS = st.integers(0, 10**9)
_EVENTS = st.builds(
    EventLine,
    kind=_TEXT,
    time=_TEXT,
    uuid=_TEXT,
    reason=_TEXT,
    event=_TEXT,
    result=_TEXT,
    corrective_action=_TEXT,
    name=_TEXT,
)
_INSTANCES = st.builds(
    InstanceLine,
    uuid=_TEXT,
    name=_TEXT,
    state=st.sampled_from(["heartbeating", "waiting", "restarting"]),
    why=_TEXT,
    health=st.sampled_from(["healthy", "unhealthy", "unknown"]),
    health_reason=_TEXT,
    beats=_NUMBERS,
    missed=st.integers(0, 10**6),
    round_trip_ms=st.none() | st.floats(0, 10**5),
    last=st.none() | _EVENTS,
)


@given(instances=st.lists(_INSTANCES, max_size=4), columns=st.integers(20, 200) | st.none())
def test_no_name_or_reason_does_any_harm(
    instances: list[InstanceLine], columns: int | None
) -> None:
    text = "\n".join(status_lines(Status(host=HOST, instances=tuple(instances)), columns))
    lines = text.split("\n")
    assert len(lines) == (3 + len(instances) if instances else 1)
    assert all(line.isprintable() for line in lines)


def test_a_table_is_cut_at_a_terminal_too_narrow_for_it() -> None:
    assert status_lines(Status(host=HOST, instances=(WEB, DB)), 40)[1:] == [
        "",
        "UUID      NAME  STATE         HEALTH…",
        "0aaaaaab  Db    restarting    unhealthy…",
        "0aaaaaaa  web   heartbeating  healthy  …",
    ]


@given(uuids=st.sets(st.uuids(), min_size=1, max_size=4), names=_TEXT, columns=st.integers(20, 200))
def test_tables_fit(uuids: set[Any], names: str, columns: int) -> None:
    wide = replace(WEB, beats=10**9, state="restarting", health="unhealthy", name=names)
    instances = tuple(replace(wide, uuid=str(uuid)) for uuid in uuids)
    for line in status_lines(Status(host=HOST, instances=instances), columns):
        assert cell_len(line) <= columns


@given(event=_EVENTS)
def test_an_event_is_one_harmless_line(event: EventLine) -> None:
    on, data = screen()
    show_event(on, event, event.name)
    (line,) = data.getvalue().decode().split("\n")[:-1]
    assert line.isprintable()


@pytest.mark.parametrize(("columns", "length"), [(None, 36), (120, 36), (119, 8), (80, 8)])
def test_uuids_of_events_are_whole_where_there_is_room(columns: int | None, length: int) -> None:
    on, data = screen(columns)
    event = EventLine(kind="loss", time="2026-01-01T12:34:56.789+00:00", uuid=WEB.uuid)
    show_event(on, event, event.name)
    shown = data.getvalue().decode().rstrip()
    assert shown == f"2026-01-01 12:34:56.789 {WEB.uuid[:length]} loss"


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("", ""),
        ("web-1.example", " (web-1.example)"),
        ("b\u00fcro", " (b\u00fcro)"),
        ("x) loss (y", ' ("x) loss (y")'),
        ("\x1b[1m", ' ("\\x1b[1m")'),
        ("\u202e", ' ("\\u202e")'),
    ],
)
def test_the_name_of_an_event_can_not_be_taken_for_more(name: str, called: str) -> None:
    on, data = screen()
    show_event(on, FleetEventLine(kind="loss", uuid=WEB.uuid, hostname="h"), name)
    assert data.getvalue().decode() == f"{WEB.uuid}{called} h loss\n"


def test_a_note_follows_what_was_told() -> None:
    on, data = screen()
    told = {"kind": "vote", "uuid": WEB.uuid, "hostname": "h", "event": "stop", "result": "error"}
    show_event(on, FleetEventLine(**told, reason="no reply", note="h replied later: expired"), "")
    expected = f"{WEB.uuid} h vote stop error: no reply; h replied later: expired\n"
    assert data.getvalue().decode() == expected


def test_moments_are_local() -> None:
    with time_zone("IST-5:30"):
        on, data = screen()
        show_event(on, EventLine(kind="loss", time="2026-01-31T23:34:56.789012+01:00"), "")
        assert data.getvalue().decode() == "2026-02-01 04:04:56.789 loss\n"
        lines = status_lines(Status(host=HOST, instances=(WEB,)), 100)
    assert lines[0].endswith(" since 2026-01-01 05:30:00+05:30")
    assert "  18:04:56  vote stop" in lines[-1]


@pytest.mark.parametrize("time", ["", "soon", "2026-01-31T12:34:56", "0001-01-01T00:00:00+14:00"])
def test_a_moment_that_is_none_is_shown_as_it_came(time: str) -> None:
    on, data = screen()
    show_event(on, EventLine(kind="loss", time=time), "")
    assert data.getvalue().decode() == f"{time[:23].replace('T', ' ')} loss\n".lstrip()


# -- the screen -----------------------------------------------------------------------------


@given(value=nested(_TEXT, _TEXT))
def test_json_is_ascii_without_controls(value: Any) -> None:
    on, data = screen()
    on.json(value)
    text = data.getvalue().decode("ascii")
    assert json.loads(text) == value
    assert text[-1] == "\n"
    assert text[:-1].isprintable()


@given(text=TENANT_TEXTS)
@example(text=HOSTILE)
def test_nothing_hostile_gets_to_a_terminal(text: str) -> None:
    on, data = screen(columns=80)
    on.line(text, (text, "bad"))
    on.json({text: text})
    on.redraw(text)
    on.settle()
    said = data.getvalue().decode()
    # What the screen itself sends to redraw a line.
    for own in ("\r", "\x1b[K", "\n"):
        said = said.replace(own, "")
    assert hostile_in(said) == []


def test_what_the_encoding_does_not_know_is_escaped() -> None:
    on, data = screen(encoding="ascii")
    on.line("caf\u00e9 \u2026 \U0001f600")
    assert data.getvalue() == b"caf\\xe9 \\u2026 \\U0001f600\n"


def test_a_redrawn_line_is_replaced_by_the_next_one_or_left() -> None:
    on, data = screen(40)
    on.redraw("3 s")
    on.redraw("2 s")
    on.line("over")
    on.settle()
    on.redraw("1 s")
    on.settle()
    on.settle()
    on.line("end")
    assert data.getvalue() == b"\r3 s\x1b[K\r2 s\x1b[K\r\x1b[Kover\n\r1 s\x1b[K\nend\n"


@pytest.mark.parametrize(
    ("term", "no_color", "terminal", "colour"),
    [
        ("xterm", None, True, True),
        ("xterm", "1", True, False),
        ("xterm", "", True, True),
        ("dumb", None, False, False),
        (None, None, False, False),
    ],
)
def test_which_terminals_are_terminals(
    monkeypatch: pytest.MonkeyPatch,
    term: str | None,
    no_color: str | None,
    terminal: bool,
    colour: bool,
) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name, value in (("TERM", term), ("NO_COLOR", no_color)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    out = Tty()
    on = Screen.of(out)
    on.line(("x", "bad"))
    assert on.terminal is terminal
    assert out.getvalue() == ("\x1b[1;31mx\x1b[0m\n" if colour else "x\n")
    assert Screen.of(io.StringIO()).terminal is False


@given(text=_TEXT, cells=st.integers(1, 40))
def test_clipped_and_padded(text: str, cells: int) -> None:
    assert cell_len(clipped(text, cells)) <= cells
    if cell_len(text) <= cells:
        assert clipped(text, cells) == text
    for right in (False, True):
        assert cell_len(padded(text, cells, right=right)) == cells


# -- which instance -------------------------------------------------------------------------


def test_a_domains_name_goes_before_a_tenants() -> None:
    domain = DomainLine(name="db-1", state="running: booted", since=AT)
    db, forged = replace(DB, domain=domain), replace(WEB, name="db-1")
    assert pick([db, forged], "db-1") == DB.uuid
    assert pick([db, WEB], "Db") == DB.uuid
    assert pick([db, forged], WEB.uuid[:8]) == WEB.uuid


def test_a_domain_named_like_a_uuid_is_ambiguous() -> None:
    domain = DomainLine(name=WEB.uuid[:8], state="running: booted", since=AT)
    with pytest.raises(UserError, match="ambiguous"):
        pick([replace(DB, domain=domain), WEB], WEB.uuid[:8])


def test_a_table_of_domains_has_their_names_too() -> None:
    domain = DomainLine(name="db-1", state="running: booted", since=AT)
    assert status_lines(Status(host=HOST, instances=(replace(DB, domain=domain),)), 80)[2:] == [
        "UUID      DOMAIN  NAME  STATE       HEALTH     BEATS  MISSED  RTT ms  LAST",
        "0aaaaaab  db-1    Db    restarting  unhealthy      0       0       -  unhealthy…",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (LibvirtLine(state="off"), []),
        (
            LibvirtLine(state="answers", since=AT, domains=2),
            ["libvirt: answers since 2026-01-01 12:34:56.789000+00:00, 2 domains"],
        ),
        (
            LibvirtLine(state="silent", since=AT, why="no socket"),
            [
                "libvirt: silent since 2026-01-01 12:34:56.789000+00:00: no socket; "
                "nothing is done to a VM without it"
            ],
        ),
    ],
)
def test_the_head_says_whether_libvirt_answers(line: LibvirtLine, text: list[str]) -> None:
    assert status_lines(Status(host=replace(HOST, libvirt=line), instances=()), None)[1:] == text


@given(uuids=st.sets(st.uuids().map(str), min_size=1, max_size=5), length=st.integers(1, 36))
def test_what_is_picked_is_the_only_one(uuids: set[str], length: int) -> None:
    instances = [replace(WEB, uuid=uuid, name="") for uuid in uuids]
    for uuid in uuids:
        word = uuid[:length]
        if sum(one.startswith(word) for one in uuids) == 1:
            assert pick(instances, word.upper()) == uuid

"""What virsh prints. The texts were printed by virsh 9.0.0."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.wire.virsh import (
    DomainHint,
    DomainRow,
    read_domains,
    read_event,
    read_live_xml,
    read_traffic,
)
from support.live_xml import sockets_in

A = "11111111-1111-1111-1111-111111111111"
B = "11111111-1111-1111-1111-111111111112"

ANSWER = f"""{B} 4 my "odd" vm's: x 1
{A} - a
STATSDomain: 'a'
  state.state=5
  state.reason=2

Domain: 'my "odd" vm's: x 1'
  state.state=1
  state.reason=1
"""


def test_the_answer_has_every_domain_with_name_id_and_state() -> None:
    assert read_domains(ANSWER) == {
        A: DomainRow(A, "a", -1, 5, 2),
        B: DomainRow(B, 'my "odd" vm\'s: x 1', 4, 1, 1),
    }


def test_a_host_without_domains_has_an_answer_too() -> None:
    assert read_domains("STATS") == {}
    assert read_domains("STATS\n\n") == {}


@pytest.mark.parametrize("text", ["", "\n", f"{A} - a\n", "error: no connection driver"])
def test_a_text_without_the_second_half_is_no_answer(text: str) -> None:
    assert read_domains(text) is None


def test_a_domain_that_is_in_one_half_only_is_left_out() -> None:
    # Undefined, defined or renamed between the two commands.
    text = f"{A} - a\n{B} - b\nSTATSDomain: 'b'\n  state.state=5\n\nDomain: 'c'\n  state.state=1\n"
    assert read_domains(text) == {B: DomainRow(B, "b", -1, 5, 0)}


def test_a_domain_without_a_state_is_left_out() -> None:
    assert read_domains(f"{A} 1 a\nSTATSDomain: 'a'\n  state.reason=1\n") == {}


def test_a_name_that_looks_like_the_next_domain_takes_no_place_of_another() -> None:
    name = "Domain: 'b'"
    text = (
        f"{A} 1 {name}\n{B} 2 b\n"
        f"STATSDomain: '{name}'\n  state.state=5\n\nDomain: 'b'\n  state.state=1\n"
    )
    rows = read_domains(text)
    assert rows is not None
    assert (rows[A].state, rows[B].state) == (5, 1)


@given(st.text())
def test_no_text_breaks_the_readers(text: str) -> None:
    for answer in (text, ANSWER.replace("a", text), f"STATSDomain: {text}"):
        rows = read_domains(answer)
        assert rows is None or all(row.uuid == uuid for uuid, row in rows.items())
    for hint in (read_event(text), read_event(f"event '{text}' for domain 'a'")):
        assert hint is None or hint.kind
    assert sockets_in(text) == {}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            "event 'lifecycle' for domain 'a': Suspended Paused",
            DomainHint("lifecycle", "a", "Suspended Paused"),
        ),
        ("event 'reboot' for domain 'a'", DomainHint("reboot", "a")),
        ("event 'watchdog' for domain 'a': pause", DomainHint("watchdog", "a", "pause")),
        (
            "event 'device-added' for domain 'a': channel2",
            DomainHint("device-added", "a", "channel2"),
        ),
        ("event 'pm-suspend' for domain 'a'", DomainHint("pm-suspend", "a")),
        (
            "event 'io-error' for domain 'a': /d (x) pause",
            DomainHint("io-error", "a", "/d (x) pause"),
        ),
        ("event 'balloon-change' for domain 'a': 1", None),
        ("event 'job-completed' for domain 'a':", None),
        ("\toperation: 2", None),
        ("error: Disconnected from qemu:///system due to end of file", None),
    ],
)
def test_an_event_is_a_hint_about_a_name(line: str, hint: DomainHint | None) -> None:
    assert read_event(line) == hint
    assert read_event("2026-11-30 00:53:18.623+0000: " + line) == hint


def test_a_reset_is_known_by_its_event_alone() -> None:
    kinds = ("reboot", "lifecycle", "device-added")
    hints = [DomainHint(kind, "a") for kind in kinds]
    assert [hint.is_reset for hint in hints] == [True, False, False]
    assert [hint.changes_xml for hint in hints] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("Suspended Paused", True),
        ("Stopped Failed", True),
        ("Shutdown Finished after host request", True),
        ("Crashed Panicked", True),
        ("PMSuspended Memory", True),
        ("Undefined Removed", True),
        ("Resumed Unpaused", False),
        ("Started Booted", False),
        ("Defined Updated", False),
    ],
)
def test_after_some_events_a_domain_may_not_run(text: str, stops: bool) -> None:
    assert DomainHint("lifecycle", "a", text).is_stop is stops
    assert not DomainHint("reboot", "a", text).is_stop


def _xml(channel: str, uuid: str = A) -> str:
    return f"<domain type='qemu' id='1'><uuid>{uuid}</uuid><devices>{channel}</devices></domain>"


TARGET = "<target type='virtio' name='cgcs.heartbeat' state='connected'/>"
SOCKET = "/var/lib/libvirt/qemu/channel/target/domain-1-a/cgcs.heartbeat"


def test_the_live_xml_names_the_socket_of_the_heartbeat() -> None:
    other = (
        "<channel type='unix'><source mode='bind' path='/x'/><target name='org.qemu'/></channel>"
    )
    channel = f"<channel type='unix'><source mode='bind' path='{SOCKET}'/>{TARGET}</channel>"
    assert sockets_in(_xml(other + channel)) == {A: (SOCKET,)}


@pytest.mark.parametrize(
    "channel",
    [
        "",
        f"<channel type='unix'>{TARGET}</channel>",
        f"<channel type='unix'><source mode='bind'/>{TARGET}</channel>",
        f"<channel type='unix'><source mode='connect' path='/x'/>{TARGET}</channel>",
        f"<channel type='unix'><source mode='bind' path='x'/>{TARGET}</channel>",
        f"<channel type='spicevmc'><source mode='bind' path='/x'/>{TARGET}</channel>",
        "<channel type='unix'><source mode='bind' path='/x'/></channel>",
    ],
)
def test_a_channel_without_a_socket_to_connect_to_is_none(channel: str) -> None:
    assert sockets_in(_xml(channel)) == {A: ()}


@pytest.mark.parametrize(
    "text", ["", "<domain", "<network/>", "<domain/>", _xml("", uuid="../../etc")]
)
def test_what_is_no_domain_has_no_channels(text: str) -> None:
    assert sockets_in(text) == {}
    after = _xml("", uuid=B)
    assert sockets_in(f"{text}</domain>\n{after}\n") == {B: ()}


def test_several_domains_follow_each_other() -> None:
    texts = [
        _xml(f"<channel type='unix'><source mode='bind' path='{uuid}'/></channel>", uuid)
        for uuid in (A, B)
    ]
    assert sockets_in("\n\n".join(texts) + "\n\n") == {A: (), B: ()}


NS = "xmlns:hbtrio='urn:hbtrio:instance'"
NOVA = "xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'"
OURS = f"<hbtrio:instance {NS} watch='false' corrective='log'/>"
LOOKS_LIKE_OURS = "&lt;hbtrio:instance xmlns:hbtrio='urn:hbtrio:instance' watch='false'/&gt;"
MANY = " ".join(f"a{number}='1'" for number in range(33))


def _metadata(content: str, more: str = "") -> tuple[Mapping[str, str] | None, str]:
    text = f"<domain><uuid>{A}</uuid>{more}<metadata>{content}</metadata></domain>"
    xml = read_live_xml(text)[A]
    return xml.metadata, xml.fault


@pytest.mark.parametrize(
    "content",
    [
        OURS,
        f"<nova:instance {NOVA}/>\n  {OURS}\n",
        "<instance xmlns='urn:hbtrio:instance' watch='false' corrective='log'>\n </instance>",
        f"<instance watch='true'/>{OURS}",
    ],
)
def test_the_metadata_has_an_element_for_us(content: str) -> None:
    assert _metadata(content) == ({"watch": "false", "corrective": "log"}, "")


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("", ""),
        ("<instance watch='false'/>", ""),
        ("<x:instance xmlns:x='urn:hbtrio:instance2' watch='false'/>", ""),
        # What tenants write stands in other elements.
        (f"<nova:instance {NOVA}><nova:name>{LOOKS_LIKE_OURS}</nova:name></nova:instance>", ""),
        (f"<nova:instance {NOVA}>{OURS}</nova:instance>", ""),
        ("", f"<description>{LOOKS_LIKE_OURS}</description>"),
        ("", f"<title>&lt;/title&gt;&lt;metadata&gt;{LOOKS_LIKE_OURS}</title>"),
        ("", OURS),
    ],
)
def test_what_is_no_element_for_us(content: str, more: str) -> None:
    assert _metadata(content, more) == (None, "")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (OURS + OURS, "more than one element"),
        (f"<hbtrio:instances {NS}/>", "the element must be instance"),
        (
            f"<hbtrio:instance {NS}><watch/></hbtrio:instance>",
            "the element must be empty, with attributes only",
        ),
        (
            f"<hbtrio:instance {NS}>watch=false</hbtrio:instance>",
            "the element must be empty, with attributes only",
        ),
        (f"<hbtrio:instance {NS} {MANY}/>", "more than 32 attributes"),
    ],
)
def test_an_element_for_us_that_can_t_be_used(content: str, fault: str) -> None:
    assert _metadata(content) == (None, fault)


def test_traffic_is_what_a_living_kernel_makes() -> None:
    text = """Domain: 'a'
  net.count=1
  net.0.name=vnet0
  net.0.rx.pkts=1000
  net.0.tx.pkts=7
  block.count=2
  block.0.rd.reqs=20
  block.0.rd.bytes=4000
  block.0.wr.reqs=300
  block.0.fl.reqs=4000
  block.1.rd.reqs=50000

"""
    assert read_traffic(text) == 54327
    assert read_traffic("Domain: 'a'\n  block.count=0\n") == 0


@pytest.mark.parametrize("text", ["", "error: no domain", "block.0.rd.reqs=1"])
def test_what_is_no_traffic(text: str) -> None:
    assert read_traffic(text) is None

"""The lab's libvirt: its ``virsh`` prints what the host's parsers read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hbtrio.lab.libvirt import LabLibvirt
from hbtrio.wire.virsh import DOMAINS_QUESTION, DomainRow, read_domains, read_event
from support.live_xml import sockets_in

A, B = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def libvirt(tmp_path: Path) -> LabLibvirt:
    return LabLibvirt(tmp_path / "a 'quoted' directory")


def virsh(libvirt: LabLibvirt, question: str) -> str:
    argv = [str(libvirt.directory / "virsh"), "-r", "-q", "-c", "qemu:///system", question]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def domains(libvirt: LabLibvirt) -> dict[str, DomainRow] | None:
    return read_domains(virsh(libvirt, DOMAINS_QUESTION))


def states(libvirt: LabLibvirt) -> dict[str, tuple[int, int]]:
    rows = domains(libvirt)
    assert rows is not None
    return {row.name: (row.state, row.reason) for row in rows.values()}


def test_none_at_first(libvirt: LabLibvirt) -> None:
    assert domains(libvirt) == {}


def test_domains_with_their_states(libvirt: LabLibvirt) -> None:
    libvirt.starts(A, "a", "/ch/a.sock")
    libvirt.starts(B, "b", "/ch/b.sock", migrated=True)
    assert domains(libvirt) == {A: DomainRow(A, "a", 1, 1, 1), B: DomainRow(B, "b", 2, 1, 2)}
    libvirt.pauses(A)
    assert states(libvirt) == {"a": (3, 1), "b": (1, 2)}
    libvirt.resumes(A)
    libvirt.ends(B)
    assert states(libvirt) == {"a": (1, 5), "b": (5, 2)}
    libvirt.starts(B, "b", "/ch/b.sock")
    libvirt.ends(A, migrated=True)
    assert domains(libvirt) == {A: DomainRow(A, "a", -1, 5, 4), B: DomainRow(B, "b", 3, 1, 1)}


def test_channels_of_the_domains_that_run(libvirt: LabLibvirt) -> None:
    libvirt.starts(A, "a", "/ch/a.sock")
    libvirt.starts(B, "b", "/ch/b.sock")
    question = f"dumpxml {A}; dumpxml {B}"
    assert sockets_in(virsh(libvirt, question)) == {A: ("/ch/a.sock",), B: ("/ch/b.sock",)}
    assert sockets_in(virsh(libvirt, f"dumpxml {B}")) == {B: ("/ch/b.sock",)}
    libvirt.ends(A)
    assert sockets_in(virsh(libvirt, question)) == {B: ("/ch/b.sock",)}


def test_events_are_those_of_the_real_one(libvirt: LabLibvirt) -> None:
    libvirt.starts(A, "a", "/ch/a.sock")
    libvirt.pauses(A)
    libvirt.resumes(A)
    libvirt.resets(A)
    libvirt.ends(A)
    hints = map(read_event, (libvirt.directory / "events").read_text().splitlines())
    assert [(hint.kind, hint.name, hint.text) for hint in hints if hint is not None] == [
        ("lifecycle", "a", "Started Booted"),
        ("lifecycle", "a", "Suspended Paused"),
        ("lifecycle", "a", "Resumed Unpaused"),
        ("reboot", "a", ""),
        ("lifecycle", "a", "Stopped Destroyed"),
    ]

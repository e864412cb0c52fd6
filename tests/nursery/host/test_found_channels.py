"""Whose socket is which, where the directory and libvirt both tell of sockets."""

from __future__ import annotations

import pytest

from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.found_channels import FoundChannels

A = "11111111-1111-1111-1111-111111111111"
B = "11111111-1111-1111-1111-111111111112"
ELSEWHERE = "/run/libvirt/qemu/channel/1-a/cgcs.heartbeat"


def named(uuid: str, inode: int = 5) -> ChannelFile:
    """A file of the directory with this uuid in its name."""
    return ChannelFile(uuid, f"/channels/cgcs.heartbeat.{uuid}.sock", inode)


class Told:
    """What was told of found and lost sockets, in order."""

    def __init__(self, limit: int = 10) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.channels = FoundChannels(self.found, self.gone, limit)

    def found(self, file: ChannelFile) -> None:
        self.lines.append(("found", file.uuid, file.path))

    def gone(self, file: ChannelFile) -> None:
        self.lines.append(("gone", file.uuid, file.path))

    def new(self) -> list[tuple[str, str, str]]:
        lines, self.lines = self.lines, []
        return lines


def test_without_libvirt_a_name_says_whose_it_is() -> None:
    told = Told()
    told.channels.appeared(named(A))
    told.channels.vanished(named(A))
    assert told.new() == [("found", A, named(A).path), ("gone", A, named(A).path)]


def test_a_socket_elsewhere_is_found() -> None:
    told = Told()
    told.channels.told(A, (ELSEWHERE,))
    assert told.new() == [("found", A, ELSEWHERE)]
    told.channels.told(A, ())
    assert told.new() == [("gone", A, ELSEWHERE)]


@pytest.mark.parametrize("libvirt_first", [True, False])
def test_a_socket_that_both_tell_of_is_found_once(*, libvirt_first: bool) -> None:
    told = Told()
    steps = [
        lambda: told.channels.told(A, ("/channels/./" + named(A).path.rpartition("/")[2],)),
        lambda: told.channels.appeared(named(A)),
    ]
    for step in steps if libvirt_first else reversed(steps):
        step()
    assert [line[:2] for line in told.new()] == [("found", A)]
    told.channels.vanished(named(A))
    assert [line[:2] for line in told.new()] == [("gone", A)]
    told.channels.told(A, ())
    assert told.new() == []


def test_a_new_socket_of_the_same_name_is_a_new_one() -> None:
    told = Told()
    told.channels.told(A, (named(A).path,))
    told.channels.appeared(named(A))
    told.new()
    told.channels.vanished(named(A))
    told.channels.appeared(named(A, inode=6))
    assert [line[:2] for line in told.new()] == [("gone", A), ("found", A)]


@pytest.mark.parametrize("libvirt_first", [True, False])
def test_the_domain_counts_and_not_the_name(*, libvirt_first: bool) -> None:
    """B was given a socket that is named after A."""
    told = Told()
    path = named(A).path
    if libvirt_first:
        told.channels.told(B, (path,))
        told.channels.appeared(named(A))
        assert told.new() == [("found", B, path)]
    else:
        told.channels.appeared(named(A))
        told.channels.told(B, (path,))
        assert told.new() == [("found", A, path), ("gone", A, path), ("found", B, path)]
    # B ends: what is left of its socket is not A's.
    told.channels.told(B, ())
    assert told.new() == [("gone", B, path)]
    told.channels.vanished(named(A))
    assert told.new() == []


def test_a_domain_moves_to_another_socket_at_each_start() -> None:
    told = Told()
    told.channels.told(A, (ELSEWHERE,))
    told.new()
    other = ELSEWHERE.replace("1-a", "2-a")
    told.channels.told(A, (other,))
    assert told.new() == [("gone", A, ELSEWHERE), ("found", A, other)]


def test_beyond_the_limit_libvirts_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    told = Told(limit=1)
    told.channels.told(A, (ELSEWHERE,))
    told.channels.told(B, (named(B).path,))
    assert told.new() == [("found", A, ELSEWHERE)]
    assert "more than 1 channels, it is ignored" in caplog.text
    told.channels.told(B, ())
    assert told.new() == []

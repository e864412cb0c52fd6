"""Discovery on a directory in memory and a fake clock; its last tests on real sockets."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.nursery.host.directory_watch import DirectoryWatch, InotifyWatch
from hbtrio.nursery.host.discovery import (
    ChannelFile,
    NamePattern,
    NameReader,
    Place,
    difference,
    discover,
)
from support.fake_directory import FakeDirectory

PATTERNS = (
    NamePattern("cgcs.heartbeat.{uuid}.sock"),
    NamePattern("wrs.heartbeat.agent.0.{uuid}.sock"),
)


def uuid(number: int) -> str:
    return f"{number:08x}-1111-2222-abcd-0123456789ef"


def cgcs(number: int) -> str:
    return f"cgcs.heartbeat.{uuid(number)}.sock"


def wrs(number: int) -> str:
    return f"wrs.heartbeat.agent.0.{uuid(number)}.sock"


class Found:
    """The channels a discovery has told of, and everything it said, in order."""

    def __init__(self) -> None:
        self.channels: dict[str, ChannelFile] = {}
        self.said: list[tuple[str, ChannelFile]] = []
        self._more = trio.Event()

    def on_found(self, channel: ChannelFile) -> None:
        assert channel.uuid not in self.channels
        self.channels[channel.uuid] = channel
        self._say("found", channel)

    def on_gone(self, channel: ChannelFile) -> None:
        assert self.channels.pop(channel.uuid) == channel
        self._say("gone", channel)

    def news(self) -> list[tuple[str, ChannelFile]]:
        """What was said since the last call."""
        said, self.said = self.said, []
        return said

    async def until_said(self, count: int) -> None:
        """Wait until that much was said since the last `news`."""
        while len(self.said) < count:
            await self._more.wait()

    def _say(self, word: str, channel: ChannelFile) -> None:
        self.said.append((word, channel))
        self._more.set()
        self._more = trio.Event()


@asynccontextmanager
async def discovering(
    watch: DirectoryWatch,
    *,
    patterns: Sequence[NamePattern] = PATTERNS,
    directory: str = "/run/x",
    rescan_s: float = 180.0,
    limit: int = 100,
) -> AsyncIterator[Found]:
    found = Found()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                discover,
                watch,
                patterns,
                directory=directory,
                on_found=found.on_found,
                on_gone=found.on_gone,
                rescan_s=rescan_s,
                limit=limit,
            )
        )
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


# The names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (cgcs(1), uuid(1)),
        (f"cgcs.heartbeat.{uuid(0xABCDEF).upper()}.sock", uuid(0xABCDEF)),
        (wrs(1), None),
        (cgcs(1) + "\n", None),
        (cgcs(1) + ".lock", None),
        ("x" + cgcs(1), None),
        (cgcs(1).replace(".", "-"), None),
        (cgcs(1).replace("0", "g"), None),
        (cgcs(1).replace("-1111-", "-111-1"), None),
        ("cgcs.heartbeat.{uuid}.sock", None),
        ("cgcs.heartbeat.0000001１-1111-2222-abcd-0123456789ef.sock", None),
        ("", None),
    ],
)
def test_pattern_reads_the_uuid_and_nothing_else(name: str, expected: str | None) -> None:
    assert PATTERNS[0].uuid_of(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (cgcs(1), True),
        ("cgcs.heartbeat.web-1.sock", True),
        ("cgcs.heartbeat..sock", True),
        ("cgcs.heartbeat.sock", False),  # head and tail share the dot
        ("cgcs.heartbeat.web-1.sock.lock", False),
        ("org.qemu.guest_agent.0.web-1.sock", False),
    ],
)
def test_pattern_tells_what_only_looks_alike(name: str, expected: bool) -> None:
    assert PATTERNS[0].resembles(name) is expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cgcs.heartbeat.sock", "exactly once"),
        ("{uuid}.{uuid}", "exactly once"),
        ("", "exactly once"),
        ("qemu/{uuid}.sock", "without a slash"),
    ],
)
def test_pattern_that_cannot_be_is_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        NamePattern(text)


def test_first_pattern_wins_whatever_the_order_of_the_scan() -> None:
    upper = cgcs(0xA).upper().replace("CGCS.HEARTBEAT", "cgcs.heartbeat").replace("SOCK", "sock")
    names = {wrs(0xA): 1, cgcs(0xA): 2, upper: 3, "web.sock": 4, "cgcs.heartbeat.web.sock": 5}
    # Upper case sorts first, so one of two spellings is chosen for good.
    for scan in (names, dict(reversed(names.items()))):
        reading = NameReader(PATTERNS, memory=10).read(scan)
        assert reading.places == {uuid(0xA): (0, upper, 3)}
        assert sorted(reading.shadowed) == [(cgcs(0xA), uuid(0xA)), (wrs(0xA), uuid(0xA))]
        assert reading.malformed == ["cgcs.heartbeat.web.sock"]


# The difference

places = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.integers(0, 1), st.sampled_from(["n", "m"]), st.integers(1, 3)),
)


@given(known=places, scanned=places, spare=st.integers(0, 8))
def test_difference_leads_from_the_known_to_the_scanned(
    known: dict[str, Place], scanned: dict[str, Place], spare: int
) -> None:
    limit = len(known) + spare
    step = difference(known, scanned, limit=limit)
    now = dict(known)
    for name, place in step.gone:
        assert now.pop(name) == place
    for name, place in step.found:
        assert name not in now
        now[name] = place
    assert now.items() <= scanned.items()
    assert {name for name in known if name in scanned} <= now.keys()
    assert len(now) == min(limit, len(scanned))
    assert step.left_out == len(scanned) - len(now)
    again = difference(now, scanned, limit=limit)
    assert (again.gone, again.found) == ([], [])


# The task, on the fake clock


async def test_first_scan_is_at_once_and_a_change_is_followed_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    directory = FakeDirectory()
    inode = directory.add(cgcs(1))
    directory.add("monitor.sock")
    async with discovering(directory, directory="/var/lib/libvirt/qemu/") as found:
        one = ChannelFile(uuid(1), f"/var/lib/libvirt/qemu/{cgcs(1)}", inode)
        assert found.news() == [("found", one)]
        assert trio.current_time() == 0.0

        await trio.sleep(10)
        two = ChannelFile(uuid(2), f"/var/lib/libvirt/qemu/{wrs(2)}", directory.add(wrs(2)))
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 10.0
        assert found.news() == [("found", two)]

        await trio.sleep(10)
        directory.remove(cgcs(1))
        await trio.testing.wait_all_tasks_blocked()
        assert found.news() == [("gone", one)]
        assert found.channels == {uuid(2): two}
        assert trio.current_time() == 20.0


async def test_recreated_socket_is_gone_and_then_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    directory = FakeDirectory()
    old = [directory.add(cgcs(number)) for number in range(2)]
    async with discovering(directory) as found:
        found.news()
        await trio.sleep(10)
        new = [directory.replace(cgcs(number)) for number in range(2)]
        await trio.sleep(1)
        assert [(word, channel.uuid, channel.inode) for word, channel in found.news()] == [
            ("gone", uuid(0), old[0]),
            ("gone", uuid(1), old[1]),
            ("found", uuid(0), new[0]),
            ("found", uuid(1), new[1]),
        ]


async def test_second_name_takes_over_when_the_preferred_one_goes(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    directory = FakeDirectory()
    first, second = directory.add(wrs(1)), None
    async with discovering(directory) as found:
        assert [(word, channel.inode) for word, channel in found.news()] == [("found", first)]
        for _ in range(3):
            second = directory.add(cgcs(1))
            await trio.sleep(1)
            assert [(word, channel.inode) for word, channel in found.news()] == [
                ("gone", first),
                ("found", second),
            ]
            directory.remove(cgcs(1))
            await trio.sleep(1)
            assert [(word, channel.inode) for word, channel in found.news()] == [
                ("gone", second),
                ("found", first),
            ]
    assert caplog.messages == [
        f"{uuid(1)}: '{wrs(1)}' in /run/x is not used, because '{cgcs(1)}' is preferred"
    ]


async def test_lost_events_are_made_good_by_the_rescan(
    autojump_clock: trio.testing.MockClock,
) -> None:
    directory = FakeDirectory()
    directory.add(cgcs(1))
    async with discovering(directory, rescan_s=30.0) as found:
        found.news()
        directory.losing_events = True
        directory.remove(cgcs(1))
        directory.add(cgcs(2))
        await trio.sleep(29.9)
        assert found.news() == []
        assert directory.scans == 1
        await trio.sleep(0.2)
        assert [(word, channel.uuid) for word, channel in found.news()] == [
            ("gone", uuid(1)),
            ("found", uuid(2)),
        ]
        assert directory.scans == 2
        await trio.sleep(300)
        assert directory.scans == 12
        assert found.news() == []


async def test_burst_of_changes_costs_few_scans(autojump_clock: trio.testing.MockClock) -> None:
    directory = FakeDirectory()
    async with discovering(directory, limit=500) as found:
        await trio.sleep(10)
        before = directory.scans
        for number in range(500):
            directory.add(cgcs(number))
            await trio.sleep(0.001)
        await trio.sleep(0.05)
        assert len(found.channels) == 500
        # Half a second of changes: one scan at the first, and one in 50 ms.
        assert 2 <= directory.scans - before <= 12


@pytest.mark.parametrize(("scan_s", "spacing_s"), [(0.0, 0.05), (0.1, 0.9), (60.0, 1.0)])
async def test_slow_scans_are_spaced_wider_within_a_bound(
    autojump_clock: trio.testing.MockClock, scan_s: float, spacing_s: float
) -> None:
    scanned_at: list[float] = []

    class SlowDirectory(FakeDirectory):
        def scan(self) -> dict[str, int]:
            autojump_clock.jump(scan_s)
            scanned_at.append(trio.current_time())
            return super().scan()

    directory = SlowDirectory()
    async with discovering(directory) as found:
        directory.add(cgcs(1))
        await found.until_said(1)
    assert len(scanned_at) == 2
    assert scanned_at[1] - scanned_at[0] - scan_s == pytest.approx(spacing_s)


async def test_channels_over_the_limit_wait_for_room(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.discovery")
    directory = FakeDirectory()
    for number in range(5):
        directory.add(cgcs(number))
    async with discovering(directory, limit=3) as found:
        assert list(found.channels) == [uuid(0), uuid(1), uuid(2)]
        await trio.sleep(1000)
        directory.replace(cgcs(1))
        await trio.sleep(1)
        assert set(found.channels) == {uuid(0), uuid(1), uuid(2)}
        directory.remove(cgcs(0))
        await trio.sleep(1)
        assert set(found.channels) == {uuid(1), uuid(2), uuid(3)}
        directory.remove(cgcs(2))
        await trio.sleep(1)
        assert set(found.channels) == {uuid(1), uuid(3), uuid(4)}
    assert caplog.messages == [
        "/run/x: more than 3 channels, 2 are ignored",
        "/run/x: no channel is ignored any more",
    ]


async def test_malformed_names_are_said_once_and_within_a_bound(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    directory = FakeDirectory()
    directory.add("cgcs.heartbeat.web-1.sock")
    directory.add("cgcs.heartbeat.\udcff\n.sock")
    async with discovering(directory, rescan_s=10.0) as found:
        await trio.sleep(100)
        directory.remove("cgcs.heartbeat.web-1.sock")
        await trio.sleep(1)
        directory.add("cgcs.heartbeat.web-1.sock")
        await trio.sleep(1)
        assert caplog.messages == [
            "/run/x: 'cgcs.heartbeat.web-1.sock' is named like a channel but has no uuid",
            "/run/x: 'cgcs.heartbeat.\\udcff\\n.sock' is named like a channel but has no uuid",
        ]
        for number in range(200):
            directory.add(f"cgcs.heartbeat.{number}.sock")
        await trio.sleep(100)
        assert len(caplog.messages) == 101
        assert caplog.messages[-1] == "/run/x: further problems with names are not logged"
        assert found.said == []


operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "replace", "clear", "wait"]),
        st.integers(0, 5),
        st.booleans(),
        st.booleans(),
    ),
    max_size=40,
)


@given(operations)
@settings(deadline=None)
def test_after_the_next_rescan_the_channels_are_those_of_the_directory(
    operations: list[tuple[str, int, bool, bool]],
) -> None:
    async def main() -> None:
        directory = FakeDirectory()
        async with discovering(directory, rescan_s=180.0) as found:
            for operation, number, preferred, lost in operations:
                name = cgcs(number) if preferred else wrs(number)
                directory.losing_events = lost
                if operation == "clear":
                    directory.clear()
                elif operation == "wait":
                    await trio.sleep(0.03 * (number + 1))
                elif operation == "replace":
                    directory.replace(name)
                elif operation == "remove" and name in directory.names:
                    directory.remove(name)
                elif operation == "add" and name not in directory.names:
                    directory.add(name)
            await trio.sleep(180.1)
            expected = {}
            for number in range(6):
                for name in (cgcs(number), wrs(number)):
                    if name in directory.names:
                        inode = directory.names[name]
                        expected[uuid(number)] = ChannelFile(uuid(number), f"/run/x/{name}", inode)
                        break
            assert found.channels == expected

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# The task, on real sockets


class CountingWatch(InotifyWatch):
    scans = 0

    def scan(self) -> dict[str, int]:
        self.scans += 1
        return super().scan()


def bind(sockets: ExitStack, path: str) -> None:
    sockets.enter_context(socket.socket(socket.AF_UNIX)).bind(path)


async def test_five_hundred_real_sockets_made_at_once_cost_few_scans() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hbtrio-") as path,
        ExitStack() as sockets,
        CountingWatch(path) as watch,
    ):
        async with discovering(watch, directory=path, limit=1000) as found:
            started_at = trio.current_time()
            with trio.fail_after(10.0):
                for number in range(500):
                    bind(sockets, f"{path}/{cgcs(number)}")
                    await trio.lowlevel.checkpoint()
                await found.until_said(500)
            assert {channel.path for channel in found.channels.values()} == {
                f"{path}/{cgcs(number)}" for number in range(500)
            }
            # The one at the start, the one at the first change, and then one in 50 ms at most.
            assert watch.scans <= 2 + (trio.current_time() - started_at) / 0.05


async def test_real_socket_recreated_under_its_name_is_a_new_channel() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hbtrio-") as path,
        ExitStack() as sockets,
        InotifyWatch(path) as watch,
    ):
        bind(sockets, f"{path}/{cgcs(1)}")
        bind(sockets, f"{path}/{cgcs(2)}")
        async with discovering(watch, directory=path) as found:
            assert {channel.uuid for _word, channel in found.news()} == {uuid(1), uuid(2)}
            os.unlink(f"{path}/{cgcs(1)}")
            bind(sockets, f"{path}/{cgcs(1)}")
            with trio.fail_after(10.0):
                await found.until_said(2)
            assert [(word, channel.uuid) for word, channel in found.news()] == [
                ("gone", uuid(1)),
                ("found", uuid(1)),
            ]
            assert set(found.channels) == {uuid(1), uuid(2)}

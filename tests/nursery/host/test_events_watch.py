"""An events file that is deleted or replaced while the host runs, without a SIGHUP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.host.events_watch import LOOK_S, watch_events_file


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventsFile]:
    file = EventsFile(str(tmp_path / "events"))
    yield file
    file.close()


async def noticed(events: EventsFile, monkeypatch: pytest.MonkeyPatch, looks: int = 3) -> None:
    """Lets the watch look so often, without the pauses."""
    pauses = 0

    async def sleep(seconds: float) -> None:
        nonlocal pauses
        assert seconds == LOOK_S
        pauses += 1
        if pauses > looks:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    with trio.fail_after(20), trio.CancelScope() as scope:
        monkeypatch.setattr("hbtrio.nursery.host.events_watch.trio.sleep", sleep)
        await watch_events_file(events)
    monkeypatch.undo()


def is_open_at(events: EventsFile) -> bool:
    return Path(events.target).exists() and events.path_fault() == ""


async def test_a_deleted_file_is_made_again(
    events: EventsFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.unlink(events.target)
    assert events.path_fault() == "deleted or moved"
    await noticed(events, monkeypatch)
    assert is_open_at(events)
    assert caplog.text.count("was deleted or moved; it is opened anew") == 1


async def test_a_replaced_file_is_opened(
    events: EventsFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("")
    (tmp_path / "other").rename(events.target)
    assert events.path_fault() == "replaced by another file"
    await noticed(events, monkeypatch)
    assert is_open_at(events)


async def test_one_look_leaves_a_rotation_its_time(
    events: EventsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.rename(events.target, f"{events.target}.1")
    await noticed(events, monkeypatch, looks=1)
    assert events.path_fault() == "deleted or moved"


async def test_a_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").mkdir()
    events = EventsFile(str(tmp_path / "log" / "events"))
    (tmp_path / "log").rename(tmp_path / "moved")
    await noticed(events, monkeypatch)
    assert "events go on into the old file" in caplog.text
    (tmp_path / "log").mkdir()
    await noticed(events, monkeypatch)
    assert is_open_at(events)
    events.close()


def test_what_is_no_regular_file_is_not_looked_at() -> None:
    events = EventsFile("/dev/null")
    assert events.path_fault() == ""
    events.close()

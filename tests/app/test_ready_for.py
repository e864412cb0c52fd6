"""``ready_for``: an application that has rejected says that it would not do so any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.backends import on_both
from app.scripted_guest import SOON_S, listening
from app.test_threads import guest_in_a_thread
from hbtrio.app import Application, Event
from hbtrio.app.sync import in_background
from hbtrio.wire.app_messages import AppReady, Final


@pytest.mark.parametrize("event", [Event.STOP, "live_migrate_begin"])
@on_both
async def test_it_is_said_at_once(tmp_path: Path, event: Event | str) -> None:
    async with listening(tmp_path / "api") as guest, Application("db", socket=guest.path) as app:
        await app.ready_for(event)  # nobody is there to be told
        async with guest.application() as connected:
            await app.wait_registered()
            await app.ready_for(event)
            assert await connected.hear() == AppReady(Event(event))


@pytest.mark.parametrize("event", [Event.RESUME, "live_migrate_end", "unknown", "soon", "", 7])
@on_both
async def test_only_for_what_can_be_voted_on(tmp_path: Path, event: Any) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        Application("db", socket=guest.path) as app,
    ):
        with pytest.raises(ValueError, match="no event that can be voted on"):
            await app.ready_for(event)


@on_both
async def test_not_while_it_does_not_run(tmp_path: Path) -> None:
    app = Application("db", socket=tmp_path / "api")
    with pytest.raises(RuntimeError, match="db is not running"):
        await app.ready_for("stop")


@pytest.mark.real_time
def test_in_plain_threads(tmp_path: Path) -> None:
    app = Application("web", socket=tmp_path / "api")
    with guest_in_a_thread(tmp_path) as (portal, guest):
        with in_background(app) as background:
            with pytest.raises(ValueError, match="no event"):
                background.ready_for("resume")
            with portal.wrap_async_context_manager(guest.application()) as connected:
                background.wait_registered(timeout_s=SOON_S)
                background.ready_for("stop")
                assert portal.call(connected.hear) == AppReady(Event.STOP)
                background.ready_for(Event.PAUSE)
                assert portal.call(connected.hear) == AppReady(Event.PAUSE)
            again = portal.wrap_async_context_manager(guest.application())
            left = again.__enter__()
            background.wait_registered(timeout_s=SOON_S)
        assert portal.call(left.hear) == Final("Exiting")
        again.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="web is not running"):
        background.ready_for("stop")

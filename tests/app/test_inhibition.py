"""An application that inhibits events, at a guest that does not know inhibitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from app.backends import on_both
from app.scripted_guest import listening
from hbtrio.app import Accept, Application, Event, Inhibition, Vote
from hbtrio.wire.app_messages import AppInhibit, AppInitAck
from hbtrio.wire.vocabulary import EVENT_TABLE


@on_both
async def test_it_is_announced_once_registered_and_rejected_when_asked(tmp_path: Path) -> None:
    """A guest that doesn't know inhibitions skips the message, and asks."""
    inhibition = Inhibition(["stop", Event.PAUSE], "a dump")
    asked: list[str] = []

    async def vote(vote: Vote) -> Accept:
        asked.append(vote.event)
        return Accept()

    async with listening(tmp_path / "api") as guest:
        app = Application("db", inhibition=inhibition, on_vote=vote, socket=guest.path)
        async with app, guest.connection() as connected:
            await connected.registered()
            announced = await connected.hear()
            assert announced == AppInhibit(frozenset({Event.STOP, Event.PAUSE}), "a dump")
            assert await connected.votes(Event.STOP) == ("reject", "a dump")
            assert await connected.votes(Event.PAUSE) == ("reject", "a dump")
            assert await connected.votes(Event.REBOOT) == ("accept", "")
            assert await connected.is_told(Event.STOP) == ("complete", "")
            assert asked == ["reboot"]


@on_both
async def test_a_refused_registration_announces_nothing(tmp_path: Path) -> None:
    async with listening(tmp_path / "api") as guest:
        app = Application("db", inhibition=Inhibition(["stop"], "a dump"), socket=guest.path)
        async with app, guest.connection() as connected:
            await connected.hear()
            await connected.say(AppInitAck(False))
            assert await connected.hear() is None
            assert not app.registered
            assert app.fault == "the guest daemon refused the registration"


@on_both
async def test_why_it_is_not_registered(tmp_path: Path) -> None:
    app = Application("db", socket=tmp_path / "api")
    assert app.fault == ""
    async with app:
        assert app.fault == ""
        await app.wait_changed()
        assert app.fault == f"{tmp_path / 'api'}: no such file or directory"
        async with listening(tmp_path / "api") as guest:
            async with guest.connection() as connected:
                await connected.registered()
                await app.wait_registered()
                assert app.fault == ""
            while not app.fault:
                await app.wait_changed()
            assert not app.registered
            assert app.fault == "lost the connection to the guest daemon"
    with pytest.raises(RuntimeError), anyio.fail_after(1):
        await app.wait_changed()


@pytest.mark.parametrize("event", [event for event, rule in EVENT_TABLE.items() if rule.voted])
def test_any_event_that_is_voted_on_can_be_inhibited(event: Event) -> None:
    assert Inhibition([str(event)], "x") == Inhibition({event}, "x")


@pytest.mark.parametrize(
    ("events", "reason", "error", "text"),
    [
        ([], "x", ValueError, "events: no event"),
        (["unpause"], "x", ValueError, "events: no event that can be voted on: 'unpause'"),
        (["stopp"], "x", ValueError, "events: no event that can be voted on: 'stopp'"),
        ("stop", "x", TypeError, "events: 'stop' is text, not several events"),
        (["stop"], None, TypeError, "reason: None is not text"),
    ],
)
def test_what_can_t_be_inhibited(
    events: Any, reason: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        Inhibition(events, reason)
    assert str(raised.value) == text


def test_it_is_an_inhibition() -> None:
    with pytest.raises(TypeError):
        Application("db", inhibition="stop")  # type: ignore[arg-type]

"""What the tests of actions share."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName
from support.fake_processes import FakeRun
from support.host_world import (
    NOTICE,
    VOTE,
    Acted,
    HostWorld,
    Reply,
    ScriptedGuest,
    agree,
    host_world,
)

Line = dict[str, Any]


#: When actions are begun, and how long their command takes.
BEGUN, TAKES_S = 4.5, 2.0


#: How long the VM may take to be down or to stand still, in seconds.
DOWN_S = {ActionName.STOP: 300.0, ActionName.PAUSE: 121, ActionName.SUSPEND: 121}


@attrs.frozen
class Row:
    """A row of the event table as PROTOCOL.md has it, with the seconds of these tests' guest."""

    name: ActionName
    before: str = ""
    window: str = ""
    seconds: int = 0
    restarts: bool = False
    after: str = ""

    @property
    def cancelled(self) -> str:
        """The end notice of what does not happen."""
        return self.after or {"pause": "unpause"}.get(self.before, "resume")


ROWS = [
    Row(ActionName.STOP, "stop", "SHUTDOWN_NOTICE", 10),
    Row(ActionName.REBOOT, "reboot", "SHUTDOWN_NOTICE", 10, restarts=True),
    Row(ActionName.PAUSE, "pause", "SUSPEND_NOTICE", 11),
    Row(ActionName.UNPAUSE, after="unpause"),
    Row(ActionName.SUSPEND, "suspend", "SUSPEND_NOTICE", 11),
    Row(ActionName.RESUME, after="resume"),
    Row(ActionName.RESIZE, "resize_begin", "SUSPEND_NOTICE", 11, True, "resize_end"),
    Row(
        ActionName.LIVE_MIGRATE,
        "live_migrate_begin",
        "SUSPEND_NOTICE",
        11,
        after="live_migrate_end",
    ),
    Row(
        ActionName.COLD_MIGRATE,
        "cold_migrate_begin",
        "SUSPEND_NOTICE",
        11,
        True,
        "cold_migrate_end",
    ),
]


ALL = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.value)


VOTED = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.before], ids=lambda row: row.name.value
)


RESTARTING = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.restarts], ids=lambda row: row.name.value
)


def voted(row: Row, result: str = "accept", reason: str = "") -> list[Line]:
    about = {"step": "vote", "event": row.before}
    return [
        {**about, "window": "VOTE", "seconds": 9},
        {**about, "result": result, "reason": reason},
    ]


def noticed(event: str, window: str, seconds: int, reason: str = "") -> list[Line]:
    about = {"step": "notice", "event": event}
    return [
        {**about, "window": window, "seconds": seconds},
        {**about, "result": "complete", "reason": reason},
    ]


def before(row: Row, reason: str = "") -> list[Line]:
    return noticed(row.before, row.window, row.seconds, reason)


def after(row: Row, reason: str = "", seconds: int = 14) -> list[Line]:
    return noticed(row.after, "RESUME_NOTICE", seconds, reason)


def cancelled(row: Row, reason: str = "", seconds: int = 14) -> list[Line]:
    return noticed(row.cancelled, "RESUME_NOTICE", seconds, reason)


def ran(
    guest: ScriptedGuest, *, fault: str = "", output: str = "", seconds: float = 600
) -> list[Line]:
    return [
        {"step": "command", "argv": ["cmd", guest.uuid], "seconds": seconds},
        {
            "step": "command",
            "result": "failed" if fault else "done",
            "reason": fault,
            "output": output,
        },
    ]


def waited(seconds: float, result: str, reason: str) -> list[Line]:
    return [
        {"step": "restart", "window": "RESTART", "seconds": seconds},
        {"step": "restart", "result": result, "reason": reason},
    ]


def downed(row: Row) -> list[Line]:
    """What an action says that ends with a VM that is down, or stands still."""
    if row.name not in DOWN_S:
        return []
    return [
        {"step": "down", "event": row.before, "seconds": DOWN_S[row.name]},
        {"step": "down", "event": row.before, "result": "down", "reason": ""},
    ]


def not_down(row: Row) -> list[Line]:
    """The same of a VM that runs on."""
    about = {"step": "down", "event": row.before}
    return [
        {**about, "seconds": DOWN_S[row.name]},
        {**about, "result": "expired", "reason": never_down(row)},
    ]


def never_down(row: Row) -> str:
    """Why an action has failed whose command succeeded, of a VM that runs on."""
    if row.restarts:
        return "it never went down: it still answered when RESTART expired"
    word = "went down" if row.name is ActionName.STOP else "froze"
    return f"it never {word}: it still ran after {DOWN_S[row.name]:g} s"


def end(outcome: str, reason: str = "") -> Line:
    return {"step": "end", "outcome": outcome, "reason": reason}


def skipped(step: str, event: str, why: str) -> Line:
    return {"step": step, "event": event, "skipped": why}


def asked(guest: ScriptedGuest) -> list[tuple[float, str, str]]:
    """The votes and notices that a guest was sent."""
    return [
        (heard.time_s, str(heard.message.event_type), str(heard.message.notification_type))
        for heard in guest.received
        if isinstance(heard.message, ActionNotify)
    ]


def goes_down(world: HostWorld, guest: ScriptedGuest, back_in_s: float | None) -> None:
    """From its pre-notice on the guest is silent; then it says ``init`` again."""

    def reply(request: ActionNotify) -> Reply | None:
        if request.notification_type is NOTICE and guest.reply is reply:
            guest.reply = agree
            guest.answers_after_s, guest.sends_init = None, False
            if back_in_s is not None:
                world.after(back_in_s, comes_back)
        return agree(request)

    def comes_back() -> None:
        guest.answers_after_s, guest.sends_init = 0.0, True
        guest.send_init()

    guest.reply = reply


def freezes(guest: ScriptedGuest) -> None:
    """From its pre-notice on the guest is silent, and its socket stays."""

    def reply(request: ActionNotify) -> Reply | None:
        if request.notification_type is NOTICE:
            guest.reply = agree
            guest.answers_after_s, guest.sends_init = None, False
        return agree(request)

    guest.reply = reply


def votes_only(request: ActionNotify) -> Reply | None:
    """Agrees to votes and does not answer notices."""
    return agree(request) if request.notification_type is VOTE else None


async def begun(
    world: HostWorld, name: ActionName, *, force: bool = False, back_in_s: float | None = 20.0
) -> tuple[ScriptedGuest, Acted]:
    """An action on a guest that agrees to everything, begun at ``BEGUN``."""
    guest = await world.heartbeating()
    if name in (ActionName.REBOOT, ActionName.RESIZE, ActionName.COLD_MIGRATE):
        goes_down(world, guest, back_in_s)
    elif name in (ActionName.PAUSE, ActionName.SUSPEND):
        freezes(guest)
    await world.at(BEGUN)
    if name is ActionName.STOP:
        world.after(1.0, guest.vanish)
    return guest, await world.act(guest, name, "cmd", "{uuid}", force=force)


def world_of(run: FakeRun | None = None, **config: Any) -> Any:
    return host_world(runs={"cmd": run or FakeRun(delay_s=TAKES_S)}, **config)

"""The steps of the tour: what `hbtrio lab` shows, and what must be seen of it.

Every wait is for the thing itself: an event of the host, a word of a script, an answer of the
operator API; each with a bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

from hbtrio.lab.feed import NotSeen
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event
from hbtrio.lab.tour import See, Step
from hbtrio.nursery.ctl_replies import InstanceLine, Status

#: What takes a second or two, on a machine that is very busy, in seconds.
_SOON_S: Final = 12.0

#: How often the operator API is asked about what is no event, in seconds.
_POLL_S: Final = 0.1


async def _start(scene: Scene, see: See) -> None:
    await scene.start_host()
    for name in ("web", "db", "batch"):
        guest = await scene.add_guest(name)
        # A batch VM is not to be rebooted because its disk is full.
        guest.configure(
            HB_INTERVAL=1000,
            VOTE=4,
            SUSPEND_NOTICE=4,
            CORRECTIVE_ACTION="log" if name == "batch" else "reboot",
        )
        await guest.start()
    for guest in scene.guests.values():
        await scene.events.wait_for(event("heartbeating", guest), within_s=_SOON_S)
        see(f"{guest.name} heartbeating")


async def _all_accept(scene: Scene, see: See) -> None:
    since = scene.events.end
    outcomes: dict[str, str] = {}

    async def migrate(guest: LabGuest, handler_s: float) -> None:
        guest.will("revocable", "live_migrate_begin", after_s=handler_s)
        guest.will("irrevocable", "live_migrate_begin", after_s=handler_s)
        outcomes[guest.name] = await _act(scene, guest, "live-migrate", ["sleep", "1"])

    async with trio.open_nursery() as nursery:
        for number, guest in enumerate(scene.guests.values()):
            nursery.start_soon(migrate, guest, 1 + number * 0.5)
    for guest in scene.guests.values():
        vote = await scene.events.wait_for(event("vote", guest), within_s=_SOON_S, since=since)
        see(f"{guest.name} vote {vote['result']}, migration {outcomes[guest.name]}")
        await scene.events.wait_for(event("heartbeating", guest), within_s=_SOON_S, since=since)


async def _one_rejects(scene: Scene, see: See) -> None:
    db, told = _guest(scene, "db"), scene.told.end
    db.will("revocable", "stop", after_s=1.5, status=1, says="replication is behind")
    since = scene.events.end
    outcome = await _act(scene, db, "stop", [])
    vote = await scene.events.wait_for(event("vote", db), within_s=_SOON_S, since=since)
    see(f"vote {vote['result']}: {vote['reason']}")
    see(f"stop {outcome}")
    see(f"commands run: {sum(words[0] == 'virsh' for words in scene.told.since(told))}")


async def _outruns(scene: Scene, see: See) -> None:
    web, told, since = _guest(scene, "web"), scene.told.end, scene.events.end
    web.will("revocable", "reboot", after_s=60, says="too late")
    await scene.post(f"/v1/instances/{web.uuid}/vote", {"event": "reboot"})
    vote = await scene.events.wait_for(event("vote", web), within_s=_SOON_S, since=since)
    see(f"vote {vote['result']}")
    see(vote["reason"])
    words = await scene.told.wait_for(lambda w: w[:2] == ["handler", "web"], within_s=0, since=told)
    await _until(lambda: not os.path.exists(f"/proc/{words[-1]}"), f"handler {words[-1]} lives on")
    see("its handler was ended")
    web.will("revocable", "reboot")


async def _falls_ill(scene: Scene, see: See) -> None:
    batch, told, since = _guest(scene, "batch"), scene.told.end, scene.events.end
    batch.feels(1, "disk 97 % full")
    ill = await scene.events.wait_for(event("unhealthy", batch), within_s=_SOON_S, since=since)
    see(f"{ill['kind']}: {ill['reason']}")
    see(f"wants {ill['corrective_action']}")
    noted = await scene.told.wait_for(lambda w: w[0] == "note", within_s=_SOON_S, since=told)
    see(f"noted: {' '.join(noted[2:])}")
    batch.feels(0)
    await _until_status(scene, batch, lambda status: status.health == "healthy")
    see("healthy")


async def _is_frozen(scene: Scene, see: See) -> None:
    web, told, since = _guest(scene, "web"), scene.told.end, scene.events.end
    if web.daemon is not None:
        web.daemon.freeze()
    loss = await scene.events.wait_for(event("loss", web), within_s=_SOON_S, since=since)
    see(f"{loss['kind']}: {loss['reason']}")
    see(f"wants {loss['corrective_action']}")
    words = await scene.told.wait_for(lambda w: w[0] == "virsh", within_s=_SOON_S, since=told)
    see(f"{words[0]} {words[1]} {scene.guests[words[2]].name}")
    await _until_status(scene, web, lambda status: status.restart_remaining_s is not None)
    see("RESTART window open")
    await scene.events.wait_for(event("heartbeating", web), within_s=_SOON_S, since=since)
    see("heartbeating again")


async def _reboots(scene: Scene, see: See) -> None:
    db, since = _guest(scene, "db"), scene.events.end
    db.will("irrevocable", "reboot", after_s=1.5)
    for line in await scene.post(f"/v1/instances/{db.uuid}/act", {"action": "reboot"}):
        if "result" in line:
            see(f"{line['step']} {line['result']}")
        elif line["step"] == "end":
            see(line["outcome"])
    await scene.events.wait_for(event("heartbeating", db), within_s=_SOON_S, since=since)
    see("heartbeating again")


TOUR: Final = (
    Step(
        "a host and three guests start",
        ("web heartbeating", "db heartbeating", "batch heartbeating"),
        _start,
    ),
    Step(
        "all accept",
        (
            "web vote accept, migration done",
            "db vote accept, migration done",
            "batch vote accept, migration done",
        ),
        _all_accept,
    ),
    Step(
        "one rejects, with a reason",
        ("vote reject: replication is behind", "stop rejected", "commands run: 0"),
        _one_rejects,
    ),
    Step(
        "a handler outruns its window",
        (
            "vote timeout",
            "no answer in time from event_script",
            "its handler was ended",
        ),
        _outruns,
    ),
    Step(
        "ill health and recovery",
        ("unhealthy: disk 97 % full", "wants log", "noted: disk 97 % full", "healthy"),
        _falls_ill,
    ),
    Step(
        "a guest hangs (SIGSTOP)",
        (
            "loss: no answer for 3 s",
            "wants reboot",
            "virsh reset web",
            "RESTART window open",
            "heartbeating again",
        ),
        _is_frozen,
    ),
    Step(
        "an operator reboots a guest",
        (
            "vote accept",
            "notice complete",
            "command done",
            "restart back",
            "done",
            "heartbeating again",
        ),
        _reboots,
    ),
)


def _guest(scene: Scene, name: str) -> LabGuest:
    return next(guest for guest in scene.guests.values() if guest.name == name)


async def _act(scene: Scene, guest: LabGuest, action: str, command: list[str]) -> str:
    """Has the host carry out an action; returns its outcome."""
    body = {"action": action, "command": command}
    lines = await scene.post(f"/v1/instances/{guest.uuid}/act", body)
    return str(lines[-1].get("outcome")) if lines else "not heard of"


async def _until(is_so: Callable[[], bool], otherwise: str) -> None:
    with trio.move_on_after(_SOON_S):
        while not is_so():  # noqa: ASYNC110 - another process can set no Event
            await trio.sleep(_POLL_S)
        return
    raise NotSeen(otherwise)


async def _until_status(
    scene: Scene, guest: LabGuest, is_so: Callable[[InstanceLine], bool]
) -> None:
    """Asks the operator API about a guest until the answer is right."""
    last = "unknown"
    with trio.move_on_after(_SOON_S):
        async with scene.client() as client:
            while True:
                for status in (await client.status(Status)).instances:
                    if status.uuid == guest.uuid:
                        if is_so(status):
                            return
                        last = f"{status.state}, {status.health}"
                await trio.sleep(_POLL_S)
    raise NotSeen(f"{guest.name} stayed {last}")

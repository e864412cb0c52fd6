"""The steps of the tour with two applications in a guest, and their waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.lab.application import LabApplication
from hbtrio.lab.cloud import Cloud
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import event
from hbtrio.lab.tour import See
from hbtrio.lab.waits import SOON_S, alarm, guest_named, until_status

#: A vote that ends within this of a crash has not waited for its window, which is 9 s; in seconds.
_AT_ONCE_S: Final = 3.0


async def rejects(cloud: Cloud, see: See) -> None:
    """One application rejects, which rejects for the VM at once, before its script answers."""
    db, position = guest_named(cloud, "db"), cloud.script_lines.end
    orders = db.applications["orders"]
    db.will("revocable", "pause", after_s=60)
    orders.will("revocable", "pause", after_s=1, status=1, says="12 are open")
    see(f"VIM: {await cloud.vim.vote(db.uuid, 'pause')}")
    see(f"asked: {await until_asked(cloud, db, 'revocable pause', position)}")
    notified = sum("irrevocable" in words for words in cloud.script_lines.since(position))
    see(f"handlers notified: {notified}")
    db.will("revocable", "pause")
    orders.will("revocable", "pause")


async def hangs(cloud: Cloud, see: See) -> None:
    """One application is stopped (SIGSTOP) and continues later."""
    db, since, heard = guest_named(cloud, "db"), cloud.events.end, cloud.vim.received.end
    position = cloud.script_lines.end
    backup = db.applications["backup"]
    if backup.daemon is None:
        return
    backup.daemon.freeze()
    cloud.said.put((db.name, "its application backup is stopped (SIGSTOP)"))
    try:
        ill = await cloud.events.wait_for(event("unhealthy", db), within_s=SOON_S, since=since)
        see(f"{ill['kind']}: {ill['reason']}")
        notes = _begins(["note", db.uuid])
        logged = await cloud.script_lines.wait_for(notes, within_s=SOON_S, since=position)
        see(f"logged: {' '.join(logged[2:])}")
        see(f"VIM: {await alarm(cloud, db, heard)}")
    finally:
        backup.daemon.thaw()
        cloud.said.put((db.name, "its application backup continues (SIGCONT)"))
    await until_status(cloud, db, lambda status: status.health == "healthy")
    see("healthy")


async def crashes(cloud: Cloud, see: See) -> None:
    """One application is killed when only its response is missing, and is started again."""
    db, position, since = guest_named(cloud, "db"), cloud.script_lines.end, cloud.events.end
    orders = db.applications["orders"]
    orders.will("revocable", "stop", after_s=60)
    db.will("revocable", "stop")
    asked = await cloud.vim.ask(db.uuid, "stop", vote=True)
    see(f"asked: {await until_asked(cloud, db, 'revocable stop', position)}")
    # By its name: the host's line of the vote before may come only now.
    voted = event("vote", db, event="stop")
    over = sum(voted(line) for line in cloud.events.since(since))
    see(f"verdicts before the crash: {over}")
    await orders.kill()
    killed_at = trio.current_time()
    cloud.said.put((db.name, "its application orders was killed (kill -9)"))
    vote = await cloud.events.wait_for(voted, within_s=SOON_S, since=since)
    took_s = trio.current_time() - killed_at
    see(f"vote {vote['result']} " + ("at once" if took_s < _AT_ONCE_S else f"after {took_s:.1f} s"))
    see(f"VIM: {await cloud.vim.verdict(asked)}")
    orders.will("revocable", "stop")
    position = cloud.script_lines.end
    await orders.start()
    see(await until_registered(cloud, db, orders, position))


async def until_registered(
    cloud: Cloud, guest: LabGuest, application: LabApplication, since: int
) -> str:
    """Waits until an application reports its registration, from a position on."""
    says = _begins(["application", guest.name, application.name, "registered"])
    await cloud.script_lines.wait_for(says, within_s=SOON_S, since=since)
    return f"{guest.name}: {application.name} registered"


async def until_asked(cloud: Cloud, guest: LabGuest, question: str, since: int) -> str:
    """Waits until the script and all applications report a request; returns their names."""
    heads = {"event_script": ["handler", guest.name]}
    for name in guest.applications:
        heads[name] = ["application", guest.name, name]
    for head in heads.values():
        says = _begins([*head, *question.split()])
        await cloud.script_lines.wait_for(says, within_s=SOON_S, since=since)
    return ", ".join(heads)


def _begins(head: list[str]) -> Callable[[list[str]], bool]:
    return lambda words: words[: len(head)] == head

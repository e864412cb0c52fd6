"""The host's lines about an instance carry its uuid and its name, whatever befalls it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio

from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.log import Subject
from hbtrio.log.subject import NOBODY
from hbtrio.nursery.host.subjects import HostSubjects
from hbtrio.wire.vocabulary import ActionName, Event, Health
from support.host_world import HostWorld, ScriptedGuest, host_world, stay_silent, uuid_of
from support.nameless import NamingHandler, nameless

pytestmark = pytest.mark.usefixtures("autojump_clock")

COMMANDS = CorrectiveCommands(
    reboot=("reset", "{uuid}"), stop=("destroy", "{uuid}"), log=("note", "{uuid}")
)


@pytest.fixture
def log() -> Iterator[NamingHandler]:
    handler = NamingHandler(lambda _: NOBODY)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def subjects_of(world: HostWorld) -> HostSubjects:
    return HostSubjects("compute-0", world.host.channels, world.host.domains)


async def story(world: HostWorld, guest: ScriptedGuest) -> None:
    """Votes, an action, ill health, losses with their commands, a return and the end."""
    world.vote(guest)
    await trio.sleep(5)
    guest.reply = stay_silent
    world.vote(guest, Event.PAUSE)
    await trio.sleep(60)
    await world.act(guest, ActionName.UNPAUSE, "cmd")
    await trio.sleep(60)
    guest.health = Health.UNHEALTHY
    await trio.sleep(20)
    guest.health = Health.HEALTHY
    await trio.sleep(20)
    guest.answers_after_s = None
    await trio.sleep(60)
    guest.answers_after_s = 0.0
    guest.send_init()
    await trio.sleep(60)
    guest.peer.close()
    await trio.sleep(5)
    guest.vanish()
    await trio.sleep(600)


async def test_no_line_about_an_instance_lacks_its_name(log: NamingHandler) -> None:
    async with host_world(corrective_commands=COMMANDS, brake=BrakeSettings(share=1.0)) as world:
        log.find = subjects_of(world).find
        guest = await world.heartbeating(name="web-1")
        await story(world, guest)
    assert nameless(log.lines, {guest.uuid: "web-1"}) == []
    told = "\n".join(log.lines)
    for words in (
        "vote stop accept",
        "vote pause ",
        "action unpause",
        "unhealthy",
        "loss",
        "reboot: running",
        "reboot failed",
        "reconnecting",
        "healthy again",
        "was removed",
    ):
        assert words in told, words


async def test_before_its_first_init_libvirts_name_is_an_instances(log: NamingHandler) -> None:
    async with host_world(libvirt=LibvirtSettings(enabled="on")) as world:
        log.find = subjects_of(world).find
        guest = world.guest(name="")
        guest.sends_init = False
        await world.libvirt.start(world.libvirt.define(guest.uuid, "web-1", (guest.path,)))
        guest.appear()
        await trio.sleep(400)
    assert nameless(log.lines, {guest.uuid: "web-1"}) == []
    assert any(guest.uuid in line for line in log.lines)


async def test_who_is_unknown_has_no_name() -> None:
    async with host_world() as world:
        find = subjects_of(world).find
        assert find(uuid_of(7)) == Subject(uuid_of(7), "", "compute-0")
        assert find("reboot") is NOBODY

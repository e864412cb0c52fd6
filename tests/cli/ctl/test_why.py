"""`hbtrio ctl why`: a sentence for each state, event, cause and outcome, and the story as a whole.

``stories.txt`` has the sentences as they are; to record a wanted change, delete the file and run
its test twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from hbtrio.cli.ctl.arguments import _STATES
from hbtrio.cli.ctl.options import _KINDS
from hbtrio.cli.ctl.sentences import CAUSES, KINDS, NEXT, NOTICES, OUTCOMES, STATES, VOTES
from hbtrio.cli.ctl.story import event_sentence, next_loss_sentence, story_of
from hbtrio.config.host import CorrectiveCommands
from hbtrio.errors import ExitStatus
from hbtrio.fsm.corrective import Cause
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.correction_command import Outcome
from hbtrio.wire.operator import (
    CorrectiveLine,
    EventLine,
    FleetEventLine,
    FleetInstanceDetail,
    InstanceDetail,
    NextLossLine,
    RoundEntry,
)
from hbtrio.wire.vocabulary import VoteResult
from support.control_socket import call
from support.ctl_cases import serving
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.time_zone import time_zone

RECORDED = Path(__file__).with_name("stories.txt")
AT = "2999-01-31T12:00:00.123+00:00"

WEB = InstanceDetail(
    uuid="0aaaaaaa-1111-2222-abcd-000000000001",
    name="web-1",
    hostname="compute-0",
    state="lost",
    why="no answer for 3 s",
    reporting=True,
    health="unknown",
    beats=7,
    missed=3,
    since=AT,
    corrective=CorrectiveLine(used=3, per_hour=3, next_at=AT),
)
FLEET = FleetInstanceDetail(
    uuid=WEB.uuid,
    hostname="compute-0",
    link="down",
    reporting=False,
    name="",
    state="unknown",
    why="its host has no link",
    heartbeating=False,
    health="unknown",
    rounds=(RoundEntry(kind="notice", event="stop", remaining_s=3.2),),
    next_loss=NextLossLine(does="nothing", cause="brake", why="the alarms are held back"),
)


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


def test_every_word_has_its_sentence() -> None:
    assert set(STATES) == {s.shown for s in HeartbeatState} | {"not watched", "unknown"}
    assert set(STATES) >= {one.replace("-", " ") for one in _STATES}
    assert set(KINDS) == set(_KINDS)
    assert set(VOTES) == set(map(str, VoteResult)) - {"unknown"}
    assert set(NOTICES) == {"complete", "timeout", "error"}
    assert set(CAUSES) == set(Cause)
    outcomes = {str(one.value) for one in Outcome if one is not Outcome.IN_VAIN}
    assert set(OUTCOMES) == outcomes
    assert set(NEXT) == {"command", "dry-run", "alarm", "nothing"}


def told() -> Iterator[str]:
    for state in STATES:
        yield f"== state {state}"
        yield from story_of(replace(WEB, state=state), ()).now
    for cause in CAUSES:
        yield f"== cause {cause}"
        not_acted = f"{cause}: limit reached: 3 per hour"
        yield from story_of(replace(WEB, not_acted=not_acted, owner="an action"), ()).next
    for kind in KINDS:
        yield f"== kind {kind}"
        who = "operator uid 0" if kind in ("vote", "host-forgotten") else "vim"
        yield event_sentence(
            FleetEventLine(
                kind=kind,
                event="stop" if kind in ("vote", "notice", "withdrawn") else "",
                result="reject" if kind == "vote" else "complete" if kind == "notice" else "",
                corrective_action="reboot" if kind in ("loss", "unhealthy", "corrective") else "",
                who=who,
                reason="what the daemon says",
                note="compute-0 replied later: expired" if kind == "action" else "",
            )
        )
    for outcome in OUTCOMES:
        yield f"== outcome {outcome}"
        yield event_sentence(
            EventLine(kind="corrective", corrective_action="reboot", outcome=outcome)
        )
    for does in NEXT:
        yield f"== next {does}"
        yield next_loss_sentence(
            NextLossLine(
                does=does,
                action="reboot",
                argv=("virsh", "reset", "{uuid}"),
                asks=("libvirt's state", "the command of confirm"),
                why="its guest asks for no corrective action",
            )
        )
    yield "== an agent's"
    fleet = story_of(FLEET, ())
    yield from (*fleet.now, *fleet.next)
    yield "== ill, with something in progress, and words that are not known"
    ill = replace(
        WEB,
        state="new-state",
        heartbeating=True,
        health="unhealthy",
        health_reason="disk is full.",
        restart_remaining_s=12.4,
        action="reboot",
        not_acted="new-cause: who knows",
    )
    story = story_of(ill, (EventLine(kind="new-kind", reason="of a newer daemon", time=AT),))
    yield from (*story.now, *(f"{time} {text}" for time, text in story.past), *story.next)


def test_the_sentences_are_as_recorded() -> None:
    text = "".join(f"{line}\n" for line in told())
    if not RECORDED.exists():
        RECORDED.write_text(text, encoding="utf-8")
        pytest.fail(f"{RECORDED.name} was written: read it, and run this again")
    assert text == RECORDED.read_text(encoding="utf-8")


@pytest.mark.usefixtures("autojump_clock")
async def test_why_nothing_more_is_done_at_a_host() -> None:
    commands = CorrectiveCommands(reboot=("reset",), per_hour=1)
    async with serving(runs={"reset": FakeRun()}, corrective_commands=commands) as (world, api):
        guest = await world.heartbeating(name="web-1")
        await world.at(3.5)
        guest.answers_after_s, guest.sends_init = None, False
        await world.at(200)  # the second loss is the end of RESTART
        called = await call(api.path, "why", "web-1")
        assert called.status == ExitStatus.DONE
        assert called.lines[0].startswith("web-1 on compute-0 is lost since 2026-01-01 00:02:")
        assert called.lines[1] == STATES["lost"]
        past = called.lines[3 : called.lines.index("", 3)]
        assert past[0].endswith("  The guest began to answer challenges: init answered.")
        assert past[1].endswith(". Its guest had asked for reboot.")
        assert past[2].endswith(
            "The corrective command for reboot ended: reboot done. " + OUTCOMES["done"]
        )
        assert past[-1].endswith(
            "No corrective command was run: reboot not run: limit reached: 1 per hour."
        )
        assert called.lines[-3] == "Nothing is done now: limit reached: 1 per hour."
        assert called.lines[-1].startswith(
            "It is decided anew when the hour allows the next one, at 2026-01-01 01:00:"
        )
        for columns in (60, 80, 120):
            shown = await call(api.path, "why", "web-1", terminal=True, columns=columns)
            assert max(map(cell_len, shown.lines)) <= columns
        whole = json.loads((await call(api.path, "why", "web-1", "--json")).text)
        assert whole["uuid"] == guest.uuid
        assert whole["next"] == called.lines[-3:]
        assert whole["past"][0]["time"] == "2026-01-01T00:00:01.000+00:00"


async def test_why_at_an_agent(autojump_clock: object, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await world.host.heartbeating(name="web-1")
        await world.host.settle()
        called = await call(world.api.path, "why", "web-1")
        assert called.lines[0].startswith("web-1 on compute-0 is heartbeating since 2025-01-01 ")
        no_vim = "nothing would be done: this agent has no VIM: it keeps the loss in its history"
        assert called.lines[-1] == f"If the instance were lost now, {no_vim}."

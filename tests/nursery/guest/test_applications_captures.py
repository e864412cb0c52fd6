"""What applications once said to a deployed guest, said to ours, and what both of them answered.

The applications' bytes are sent as they were recorded and at the recorded times, but for the ids
that they echo: those are ours. What our guest says is compared byte by byte, but for its own ids
and numbers. It may differ in time only: the deployed guest's timers are late by 15 to 35 ms at the
first beat and by 2 ms more at each of the next.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import attrs
import msgspec
import pytest
import trio

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.app_codec import MESSAGE_BYTES, AppDecoder
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppMessage,
)
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_messages import ActionNotify as HostNotify
from hbtrio.wire.channel_messages import ActionResponse as HostAnswer
from hbtrio.wire.channel_messages import Message
from hbtrio.wire.vocabulary import CorrectiveAction, NotificationType
from support.raw_application import AppWorld, RawApplication, app_world
from wire.captured import (
    API_FILES,
    APP_TO_GUEST,
    GUEST_TO_APP,
    GUEST_TO_HOST,
    HOST_TO_GUEST,
    ApiCaptured,
    api_capture,
    capture,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: The deployed guest's lateness after 23 beats.
LATE_S = 0.1

#: Where the id stands that a message carries or echoes, and where the sender's own number stands.
ID, SEQUENCE = slice(20, 24), slice(12, 16)


def message_of(data: bytes) -> AppMessage:
    (message,) = AppDecoder().feed(data)
    return message


@attrs.define
class Replayed:
    """One recorded connection and its application of today."""

    records: Sequence[ApiCaptured]
    app: RawApplication | None = None

    def recorded(self, kind: type[AppMessage]) -> list[ApiCaptured]:
        """What the deployed guest sent of this kind."""
        return [
            record
            for record in self.records
            if record.direction == GUEST_TO_APP and type(message_of(record.data)) is kind
        ]

    def today(self, data: bytes) -> bytes:
        """What the application sends today: the id that it echoes is the one that we sent it."""
        assert self.app is not None
        kinds: dict[type[AppMessage], type[AppMessage]] = {
            AppChallengeResponse: AppChallenge,
            AppActionResponse: AppActionNotify,
        }
        asked = kinds.get(type(message_of(data)))
        if asked is None:
            return data
        then = [record.data[ID] for record in self.recorded(asked)]
        ours = [data[ID] for data in self.raw(asked)]
        return data[: ID.start] + ours[then.index(data[ID])] + data[ID.stop :]

    def raw(self, kind: type[AppMessage]) -> list[bytes]:
        """What our guest sent of this kind."""
        assert self.app is not None
        return [data for data in self.app.raw if type(message_of(data)) is kind]


async def replay(
    name: str, world: AppWorld, channel: Sequence[tuple[float, bytes]]
) -> list[Replayed]:
    """Plays all connections of a recording, and lines of the host, each at its time."""
    numbers = sorted({record.connection for record in api_capture(name)})
    connections = {
        number: Replayed([one for one in api_capture(name) if one.connection == number])
        for number in numbers
    }
    events: list[tuple[float, int, bytes]] = [(at_s, 0, data) for at_s, data in channel]
    events += [
        (record.at_s, record.connection, record.data)
        for record in api_capture(name)
        if record.direction == APP_TO_GUEST
    ]
    for at_s, number, data in sorted(events):
        await trio.sleep_until(1.0 + at_s)
        if number == 0:
            world.device.send_bytes(data)
        else:
            connection = connections[number]
            if connection.app is None:
                connection.app = await world.join()
            connection.app.beats = False
            connection.app.send_bytes(connection.today(data))
        await world.settle()
    return list(connections.values())


def masked(data: bytes) -> bytes:
    """A message of a guest without what each guest numbers as it likes."""
    message = bytearray(data)
    message[SEQUENCE] = bytes(4)
    if type(message_of(data)) in (AppChallenge, AppActionNotify):
        message[ID] = bytes(4)
    return bytes(message)


@pytest.mark.parametrize("name", API_FILES)
async def test_a_capture(name: str) -> None:
    channel = HOST_SIDE.get(name, [])
    async with app_world(settings=SETTINGS) as world:
        connections = await replay(name, world, channel)
    for connection in connections:
        assert connection.app is not None
        assert all(len(data) == MESSAGE_BYTES for data in connection.app.raw)
        sequences = [struct.unpack("=I", data[SEQUENCE])[0] for data in connection.app.raw]
        assert sequences == list(range(1, len(sequences) + 1))
        # Beats come between the other messages at any time: each kind by itself.
        then = [record.data for record in connection.records if record.direction == GUEST_TO_APP]
        assert [masked(data) for data in connection.app.raw if not is_beat(data)] == [
            masked(data) for data in then if not is_beat(data)
        ]
        beats = [at_s - 1.0 for at_s, _ in connection.app.received_of(AppChallenge)]
        recorded = [record.at_s for record in connection.recorded(AppChallenge)]
        for ours_s, then_s in zip(beats, recorded, strict=False):
            assert then_s - LATE_S < ours_s < then_s
        # At the end of a recording the deployed guest's lateness may have cost it one.
        assert len(beats) - len(recorded) in (0, 1)


def is_beat(data: bytes) -> bool:
    return type(message_of(data)) is AppChallenge


async def test_a_stalled_application_is_ill_for_as_long_as_it_was() -> None:
    """i4_app_hb_timeout: "stall" leaves a challenge of 5.04 unanswered until 12.07."""
    ill: list[tuple[float, HealthStatus]] = []
    async with app_world(settings=SETTINGS) as world:

        async def watch() -> None:
            was: list[HealthStatus] = []
            while True:
                now = [status for status in world.applications.health() if not status.healthy]
                if now != was:
                    was = now
                    ill.append((trio.current_time() - 1.0, now[0] if now else HealthStatus(True)))
                await trio.sleep(0.01)

        world.nursery.start_soon(watch)
        await replay("i4_app_hb_timeout_api", world, [])
    (from_s, status), (until_s, _), (again_s, again) = ill
    assert (
        status
        == again
        == HealthStatus(
            False, CorrectiveAction.STOP, "Application stall heartbeat timeout 2000 ms."
        )
    )
    # Two intervals after its last answers, of 4.04 and 16.07.
    assert (from_s, until_s) == (pytest.approx(6.04, abs=0.02), pytest.approx(12.08, abs=0.02))
    assert again_s == pytest.approx(18.08, abs=0.02)


# -- what the host hears -------------------------------------------------------------------------

SETTINGS = SessionSettings(
    name="vm1", vote_s=8, shutdown_notice_s=8, suspend_notice_s=8, resume_notice_s=13, restart_s=600
)


def host_side(name: str) -> list[tuple[float, bytes]]:
    """What the host said after its first words, which our guest has heard at its start."""
    return [
        (one.at_s, one.data)
        for one in capture(name)
        if one.direction == HOST_TO_GUEST and isinstance(decode(one.line), HostNotify)
    ]


HOST_SIDE = {"i1_two_apps_api": host_side("i1_two_apps")}


async def test_two_applications_and_what_the_host_heard() -> None:
    """The reason of a notice that nobody failed is that of who was first, not of who was last."""
    recorded = [
        decode(one.line) for one in capture("i1_two_apps") if one.direction == GUEST_TO_HOST
    ]
    then = [message for message in recorded if isinstance(message, HostAnswer)]
    assert len(then) == 20
    async with app_world(settings=SETTINGS) as world:
        await replay("i1_two_apps_api", world, HOST_SIDE["i1_two_apps_api"])
        ours = [one.message for one in world.device.unread()]
    assert [reasonless(message) for message in ours] == [reasonless(message) for message in then]
    for message in ours:
        assert isinstance(message, HostAnswer)
        notice = message.notification_type is NotificationType.IRREVOCABLE
        assert message.log_msg in (("no from B", "yes from A") if notice else ("no from B",))


def reasonless(message: Message) -> Message:
    assert isinstance(message, HostAnswer)
    return msgspec.structs.replace(message, log_msg="")


def test_every_recorded_application_message_was_compared() -> None:
    kinds = {
        type(message_of(record.data)).__name__
        for name in API_FILES
        for record in api_capture(name)
        if record.direction == GUEST_TO_APP
    }
    assert kinds == {"AppInitAck", "AppChallenge", "AppActionNotify"}

"""One heartbeat on a test bench: the whole public state is compared after every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from typing import Any

import attrs

from hbtrio.fsm.heartbeat.effects import Effect, SendToGuest
from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.fsm.heartbeat.table import HEARTBEATING, HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, Exit, Init
from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: More steps than this before a set time are a busy loop.
MAX_STEPS = 100_000


@attrs.frozen
class Snapshot:
    """Everything that a heartbeat shows."""

    state: HeartbeatState = HeartbeatState.WAITING
    connected: bool = False
    due: float = math.inf
    reason: str = "discovered"
    beats: int = 0
    missed: int = 0
    late_answers: int = 0
    round_trip_s: float | None = None
    health: Health = Health.UNKNOWN
    health_reason: str = ""
    profile: Profile = attrs.field(factory=Profile)
    is_heartbeating: bool = False
    owes_answer: bool = False
    reporting: bool = True

    @classmethod
    def of(cls, beat: Heartbeat) -> Snapshot:
        shown = {field.name: getattr(beat, field.name) for field in attrs.fields(cls)}
        if math.isnan(beat.round_trip_s):
            shown["round_trip_s"] = None
        return cls(**shown)


def init(
    invocation_id: int = 1804289383,
    *,
    name: str = "vm1",
    interval_ms: int = 1000,
    restart_secs: int = 121,
    corrective_action: CorrectiveAction = CorrectiveAction.REBOOT,
) -> Init:
    """An ``init`` as a guest without further settings sends it."""
    return Init(
        invocation_id=invocation_id,
        name=name,
        heartbeat_interval_ms=interval_ms,
        vote_secs=9,
        shutdown_notice_secs=10,
        suspend_notice_secs=11,
        resume_notice_secs=14,
        restart_secs=restart_secs,
        corrective_action=corrective_action,
    )


def answer(
    number: int,
    health: Health = Health.HEALTHY,
    action: CorrectiveAction = CorrectiveAction.REBOOT,
    log_msg: str = "",
) -> ChallengeResponse:
    """An answer; healthy ones carry the configured action too, as deployed guests do."""
    return ChallengeResponse(number, health, action, log_msg)


class HeartbeatBench:
    """Drives one heartbeat. Challenges are numbered 1, 2, 3 and so on.

    Each step takes the effects that are expected, and the public attributes that are expected to
    change; all others must be what they were.
    """

    def __init__(self, now: float = 0.0, **settings: Any) -> None:
        numbers = count(1)
        self.now = now
        self.beat = Heartbeat(HeartbeatRules(**settings), new_id=lambda: next(numbers))
        #: The number of the last challenge that was sent.
        self.last = 0
        self.seen = Snapshot.of(self.beat)
        assert self.seen == Snapshot()

    def expect(self, effects: tuple[Effect, ...], wanted: Sequence[Effect], **changes: Any) -> None:
        """Compares the effects of a step, and the whole state after it.

        The health of one that is not heartbeating is unknown; one that begins to has answered,
        healthy.
        """
        if state := changes.get("state"):
            heartbeating = state in HEARTBEATING
            health = Health.HEALTHY if heartbeating else Health.UNKNOWN
            changes = {"health": health, "health_reason": ""} | changes
        self._note(effects)
        assert effects == tuple(wanted)
        now_seen = Snapshot.of(self.beat)
        assert now_seen == attrs.evolve(self.seen, **changes)
        self.seen = now_seen

    def _note(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, SendToGuest) and isinstance(effect.message, Challenge):
                self.last = effect.message.heartbeat_challenge

    def skip(self, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
        """Takes a step as it comes; for the way to what a test is about."""
        self._note(effects)
        self.seen = Snapshot.of(self.beat)
        return effects

    # -- steps, as the driver takes them ----------------------------------------------------

    def at(self, now: float) -> HeartbeatBench:
        assert now >= self.now
        self.now = now
        return self

    def open(self) -> tuple[Effect, ...]:
        return self.beat.opened(self.now)

    def send_init(self, **values: Any) -> tuple[Effect, ...]:
        return self.beat.received(init(**values), self.now)

    def answer_challenge(self, number: int | None = None, **values: Any) -> tuple[Effect, ...]:
        return self.beat.received(
            answer(self.last if number is None else number, **values), self.now
        )

    def send_exit(self, log_msg: str = "Exiting...") -> tuple[Effect, ...]:
        return self.beat.received(Exit(log_msg), self.now)

    def tick(self, *, late: bool = False) -> tuple[Effect, ...]:
        return self.beat.tick(self.now, late=late)

    # -- stretches of time ------------------------------------------------------------------

    def heartbeating(self, **values: Any) -> HeartbeatBench:
        """Connected and proven; the answer came a quarter of a second after the init."""
        self.skip(self.open())
        self.skip(self.send_init(**values))
        self.at(self.now + 0.25)
        self.skip(self.answer_challenge())
        assert self.beat.state is HeartbeatState.HEARTBEATING
        return self

    def run(
        self, until: float, *, answers: bool = False, late: bool = False
    ) -> list[tuple[float, Effect]]:
        """Ticks whenever it is due, ``until`` included; returns what came of it, and when.

        Args:
            answers: whether the guest answers each challenge a quarter of a second later.
            late: whether the host is late all the time.
        """
        came: list[tuple[float, Effect]] = []
        for _ in range(MAX_STEPS):
            answer_at = self.now + 0.25 if answers and self.beat.owes_answer else math.inf
            if min(self.beat.due, answer_at) > until:
                break
            if answer_at < self.beat.due:
                effects = self.at(answer_at).answer_challenge()
            else:
                effects = self.at(max(self.now, self.beat.due)).tick(late=late)
                assert self.beat.due > self.now
            self.skip(effects)
            came += [(self.now, effect) for effect in effects]
        else:
            raise AssertionError("a busy loop")
        self.at(until)
        return came

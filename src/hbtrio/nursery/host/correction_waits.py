"""What a correction waits for: other failures of the same moment, and the end of a hindrance."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import attrs
import trio

from hbtrio.fsm.correction import ASK_AGAIN_S
from hbtrio.fsm.corrective import Cause, Known
from hbtrio.fsm.domain import Standing
from hbtrio.log.subject import fields
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.correction_tools import CorrectionTools
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.mass_failure import Failure, FailureVerdict
from hbtrio.policy.time_guard import CALM_S
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.corrective")

#: Less than this is no time to wait, in seconds.
ROUNDING_S: Final = 1e-6

#: Times that a failure is held, if the host is late again each time.
_HOLDS: Final = 3

#: Seconds between two looks at a paused VM, or at a libvirt that did not answer.
_LOOK_AGAIN_S: Final = 5.0


class HeldFailure:
    """A failure, which is noted now and held to see whether others fail with it.

    Args:
        tools: what all corrections share.
        channel: the instance's.
        action: what it asked for.
    """

    def __init__(self, tools: CorrectionTools, channel: Channel, action: CorrectiveAction) -> None:
        self._tools = tools
        self._channel = channel
        self._action = action
        self._failure, self._judge_at = self._note()

    async def held_back(self, *, anew: bool, exempt: bool) -> bool:
        """Holds the failure; returns whether too many failed with it.

        Args:
            anew: whether the instance is decided about anew: it fails at this moment.
            exempt: whether it is not held back in any case.
        """
        if anew:
            self._failure, self._judge_at = self._note()
        failure = await self._held()
        return not exempt and self._is_braked(failure)

    def _note(self) -> tuple[Failure, float]:
        channel = self._channel
        # The instances that were heartbeating before this failure, including this one.
        total = self._tools.heartbeating.count + (not channel.heartbeating)
        interval_s = channel.heartbeat.profile.interval_s
        failure = Failure(channel.uuid, self._ran_s(), interval_s, total)
        return failure, self._tools.mass_failures.note(failure)

    async def _held(self) -> Failure:
        """Waits until all that failed together are known; returns the failure, as of that time.

        A host that was late took back the misses of the others that failed with this instance. So
        it holds the failure until they would be lost too, and counts them all.
        """
        failure, judge_at, guard = self._failure, self._judge_at, self._tools.guard
        lost_after_s = (self._tools.failure_threshold + 2) * failure.interval_s
        late_ticks = guard.late_ticks
        for _ in range(_HOLDS):
            while (left_s := judge_at - self._ran_s()) > ROUNDING_S:
                await sleep_reading(left_s, self._channel, self._tools)
            if guard.late_ticks == late_ticks:
                break
            late_ticks = guard.late_ticks
            judge_at = self._ran_s() + lost_after_s
            # Since it was late, which was at least CALM_S ago.
            failure = attrs.evolve(failure, at=judge_at, interval_s=CALM_S + lost_after_s)
            self._tools.mass_failures.note(failure)
        return failure

    def _is_braked(self, failure: Failure) -> bool:
        channel, brake = self._channel, self._tools.brake
        match self._tools.mass_failures.judge(failure):
            case FailureVerdict.HOLD_AND_ALARM:
                brake.close()
                _log.critical(
                    "ALARM: too many instances failed within %g s of each other: the host itself "
                    "is suspected, no corrective command is run",
                    failure.interval_s,
                    extra=fields("brake"),
                )
            case FailureVerdict.ACT if not brake.closed:
                return False
            case FailureVerdict.HOLD | FailureVerdict.ACT:
                text = "%s: %s is held back by the mass failure guard"
                _log.error(text, channel.uuid, self._action)
        brake.keeps_back(channel.uuid)
        return True

    def _ran_s(self) -> float:
        """Returns the time without that in which this host did not run: failures are timed by it.

        While the host does not run, nobody fails in its eyes, nor is there time for it.
        """
        now = trio.current_time()
        return now - self._tools.guard.stalled_s(now)


async def until_ended(cause: Cause, uuid: str, tools: CorrectionTools) -> None:
    """Waits until the cause for which nothing was done has ended, or is to be asked again."""
    match cause:
        case Cause.OWNER:
            await tools.owners.until_free(uuid)
        case Cause.BRAKE:
            await tools.brake.until_released()
        case Cause.HOLD:
            await tools.holds.until_ended(uuid)
        case Cause.LIMIT:
            await trio.sleep_until(tools.quota_of(uuid).free_at(trio.current_time()))
        case Cause.POLICY:
            await tools.policies.until_changed(uuid)
        case Cause.PAUSED:
            await _while_libvirt_says(_is_paused, uuid, tools)
        case Cause.LIBVIRT_SILENT:
            await _while_libvirt_says(_is_silent, uuid, tools)
        case _:
            await trio.sleep(ASK_AGAIN_S)


def _is_paused(known: Known) -> bool:
    return known.standing is Standing.PAUSED


def _is_silent(known: Known) -> bool:
    return known.silent


async def _while_libvirt_says(
    holds: Callable[[Known], bool], uuid: str, tools: CorrectionTools
) -> None:
    while True:
        if not holds(await tools.look(uuid)):
            return
        await trio.sleep(_LOOK_AGAIN_S)


async def sleep_reading(seconds: float, channel: Channel, tools: CorrectionTools) -> None:
    """Sleeps; at the end what the instance has sent is read. See ``sleep_until_on_time``."""
    await sleep_until_on_time(
        trio.current_time() + seconds,
        tools.guard,
        at_most_s=CALM_S,
        sources=[channel.take_in],
    )

"""Carries out one correction: holds it, asks what is not known, runs the command, waits.

:mod:`hbtrio.fsm.corrective` decides, and :mod:`hbtrio.fsm.correction` says what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from hbtrio.fsm.correction import (
    AwaitEnd,
    Correction,
    CorrectionState,
    End,
    Hold,
    Probe,
    Retry,
    Run,
    Step,
)
from hbtrio.fsm.corrective import (
    Act,
    Ask,
    Cause,
    Known,
    NotNow,
    Picture,
    Question,
    decide,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.correction_command import CorrectionCommand, Outcome
from hbtrio.nursery.host.correction_tools import CorrectionTools
from hbtrio.nursery.host.correction_waits import ROUNDING_S, HeldFailure, sleep_reading, until_ended
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.nursery.time_guard import take_in
from hbtrio.wire.vocabulary import CorrectiveAction, Health

_log = logging.getLogger("hbtrio.corrective")


class CorrectionRun:
    """One correction of one instance, as a task.

    Args:
        tools: what all corrections share.
        channel: the instance's.
        action: what it asked for.
        reason: the reason of the report.
        seen: whether this daemon saw the failure happen, and does not remember it.
    """

    def __init__(
        self,
        tools: CorrectionTools,
        channel: Channel,
        action: CorrectiveAction,
        reason: str,
        *,
        seen: bool,
    ) -> None:
        self.action = action
        self.correction = Correction(channel.heartbeat.profile.interval_s)
        #: Cancelled when a newer failure of the instance replaces this one.
        self.scope = trio.CancelScope()
        self._tools = tools
        self._channel = channel
        self._seen = seen and not tools.has_agent
        #: Whether it is about a loss, and not about ill health.
        self.is_of_a_loss = channel.heartbeat.state is HeartbeatState.LOST
        self._beats = channel.heartbeat.beats
        self._command = CorrectionCommand(tools, channel, action, reason)
        self._wait: trio.CancelScope | None = None
        #: libvirt's words when it was decided last.
        self._state = ""
        self._braked = self._exempt = False
        self._failure = HeldFailure(tools, channel, action)
        self._failed_at = trio.current_time()
        #: Since when it waits for its groups; None: it does not.
        self._waits_since: float | None = None

    @property
    def has_command(self) -> bool:
        """Whether anything is configured that it may run."""
        tools, action = self._tools, self.action
        return bool(tools.command(action) or tools.command(action, starts_gone=True))

    @property
    def running(self) -> bool:
        """Whether its command runs."""
        return self.correction.state is CorrectionState.RUNNING

    def is_same_illness(self, newer: CorrectionRun) -> bool:
        """Whether ``newer`` is about the same ill health, which has not ended in between."""
        return (
            not (self.is_of_a_loss or newer.is_of_a_loss)
            and newer.action is self.action
            and self.stands
        )

    @property
    def stands(self) -> bool:
        """Whether the instance is still silent, or ill."""
        beat = self._channel.heartbeat
        if beat.state is HeartbeatState.LOST:
            return True
        if self.is_of_a_loss and beat.state is HeartbeatState.WAITING:
            # The host itself connects anew to a guest that is silent for long.
            return beat.beats == self._beats and beat.losses.may_be_probed
        if self.correction.failures and beat.state is HeartbeatState.RETURNING:
            return True  # the command could not do anything; it is challenged meanwhile
        return not self.is_of_a_loss and beat.health is Health.UNHEALTHY

    def changed(self) -> None:
        """Handles a change of the instance: one that is back is no longer waited for."""
        if self._wait is not None and not self.stands:
            self._wait.cancel()

    def take_over(self) -> None:
        """Ends the command that runs, for an operator."""
        self._command.take_over()

    async def run(self) -> None:
        """Carries it out. Cancelled, a running command is terminated."""
        try:
            with self.scope:
                step = self.correction.start()
                while not isinstance(step, End):
                    step = await self._take(step)
                if step.why is not None:
                    self._report(step.why)
        finally:
            self._tools.groups.waits_no_more(self._channel.uuid)

    async def _take(self, step: Step) -> Step:
        match step:
            case Hold():
                return await self._hold()
            case Retry(seconds):
                if not await self._waits(partial(trio.sleep, seconds)):
                    return self.correction.back()
                return self.correction.retries()
            case AwaitEnd(why, news):
                if news:
                    self._report(why)
                ended = await self._waits(partial(self._until_ended, why.cause))
                return self.correction.cause_ended() if ended else self.correction.back()
            case Probe(seconds):
                silent = await self._probe(seconds)
                return self.correction.still_silent() if silent else self.correction.back()
        async with self._tools.limit:
            step = await self._decide()
            return await self._perform() if isinstance(step, Run) else step

    async def _hold(self) -> Step:
        exempt, self._exempt = self._exempt, False
        self._braked = await self._failure.held_back(anew=self.correction.anew, exempt=exempt)
        return self.correction.held()

    # -- the decision -----------------------------------------------------------------------

    async def _decide(self) -> Step:
        known: Known | None = None
        busy: str | None = None
        refusal: str | None = None
        while True:
            # The instance may have changed while this one waited for its turn or an answer, and
            # this host may not have run meanwhile.
            await take_in([self._channel.take_in])
            if not self.stands:
                self._log_return()
                return self.correction.back()
            match decide(self._picture(known, busy, refusal)):
                case Ask(Question.LIBVIRT):
                    known = await self._tools.look(self._channel.uuid)
                case Ask(Question.TRAFFIC):
                    busy = await self._traffic()
                    known = None  # that took a while
                case Ask(Question.CONFIRM):
                    refusal = await self._command.confirm(known.words if known else "")
                    known = None
                case Act(starts_gone):
                    if not self._tools.command(self.action, starts_gone=starts_gone):
                        return self.correction.back()
                    self._command.take(known.words if known else "", starts_gone=starts_gone)
                    self._wait_for_groups(waits=False)
                    return self.correction.acts()
                case NotNow() as why:
                    self._state = known.words if known else ""
                    self._wait_for_groups(waits=why.cause is Cause.GROUP)
                    return self.correction.hindered(why)

    def _wait_for_groups(self, *, waits: bool) -> None:
        """Notes whether it waits for its groups; those that were lost later wait for it then."""
        uuid, groups = self._channel.uuid, self._tools.groups
        if not waits:
            self._waits_since = None
            groups.waits_no_more(uuid)
        elif self._waits_since is None:
            self._waits_since = trio.current_time()
            groups.waits(uuid, self._failed_at)

    def _group_hindrance(self) -> str:
        since = trio.current_time() if self._waits_since is None else self._waits_since
        groups, uuid = self._tools.groups, self._channel.uuid
        return groups.hindrance(uuid, self.action, self._failed_at, since)

    def _picture(self, known: Known | None, busy: str | None, refusal: str | None) -> Picture:
        tools, uuid = self._tools, self._channel.uuid
        picture = tools.picture(uuid, self.action, tools.quota_of(uuid))
        return attrs.evolve(
            picture,
            braked=self._braked,
            group=self._group_hindrance(),
            known=known,
            saw_it_end_s=self._saw_it_end_s(trio.current_time()),
            asks_traffic=picture.asks_traffic and not self._channel.heartbeating,
            busy=busy,
            refusal=refusal,
        )

    def _saw_it_end_s(self, now: float) -> float | None:
        if not self._seen or self.correction.anew:
            return None
        changed_after = self._tools.libvirt.changed_after(self._channel.uuid)
        return None if changed_after is None else now - changed_after

    async def _traffic(self) -> str:
        """Observes the instance; returns why it seems to be alive, or "" if it does not."""
        seconds = self._tools.policies.of(self._channel.uuid).no_io_for_s
        libvirt = self._tools.libvirt
        before = await libvirt.traffic(self._channel.uuid)
        await sleep_reading(seconds, self._channel, self._tools)
        after = await libvirt.traffic(self._channel.uuid)
        if before is None or after is None:
            return "it is unknown whether its disk requests or sent packets grow"
        grown = after - before
        return f"{grown} disk requests and sent packets in {seconds:g} s" if grown > 0 else ""

    def _log_return(self) -> None:
        channel = self._channel
        state = channel.heartbeat.state.shown
        text = "%s: %s not run: the instance is %s now"
        _log.info(text, channel.uuid, self.action, state)

    # -- the command ------------------------------------------------------------------------

    async def _perform(self) -> Step:
        match await self._command.run():
            case Outcome.NOT_STARTED | Outcome.IN_VAIN:
                self._tools.quota_of(self._channel.uuid).give_back()
                self._tools.memory.ran_in_vain(self._channel.uuid)
                return self.correction.ran_in_vain()
        return self.correction.ran()

    # -- waiting ----------------------------------------------------------------------------

    async def _waits(self, wait: Callable[[], Awaitable[None]]) -> bool:
        """Waits; returns False as soon as the instance is back."""
        with trio.CancelScope() as self._wait:
            if self.stands:
                await wait()
        self._wait = None
        return self.stands

    async def _until_ended(self, cause: Cause) -> None:
        if cause is Cause.GROUP and self._waits_since is not None:
            groups, uuid = self._tools.groups, self._channel.uuid
            await groups.until_it_may(uuid, self._failed_at, self._waits_since)
            return
        await until_ended(cause, self._channel.uuid, self._tools)
        if cause is Cause.BRAKE:
            # The operator has decided about the host; it would be closed at once again.
            self._exempt = self._tools.brake.by_operator

    async def _probe(self, seconds: float) -> bool:
        """Challenges the instance for so long; returns whether it stayed silent, or ill.

        An ``init`` begins the time anew: the guest is starting. So does a late answer, which it may
        have given in time while this machine stood still.
        """
        channel, interval_s = self._channel, self._channel.heartbeat.profile.interval_s
        left_s = seconds
        while left_s > ROUNDING_S:
            late_answers = channel.heartbeat.late_answers
            channel.outages.probe()
            await sleep_reading(min(left_s, interval_s), channel, self._tools)
            if not self.stands:
                return False
            beat = channel.heartbeat
            spoke = beat.situation.init_seen or beat.late_answers > late_answers
            left_s = seconds if spoke else left_s - interval_s
        return True

    def _report(self, why: NotNow) -> None:
        channel = self._channel
        if why.cause is Cause.LIMIT:
            _log.error("%s: %s not run: %s", channel.uuid, self.action, why.text)
        channel.report(
            ReportKind.NOT_ACTED,
            f"{self.action} not run: {why.text}",
            corrective_action=self.action,
            cause=why.cause,
            state=self._state,
            alarm=why.alarm,
        )

"""Tells one instance's heartbeat of outages that no notice announced.

A command, a corrective action, an orchestrator's report or one of libvirt's changes what is
expected of the instance. A notice does the same by itself, see
:meth:`~hbtrio.fsm.heartbeat.announced.AnnouncedEvents.notice_opened`.
"""

from __future__ import annotations

from collections.abc import Callable

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat import effects as hb
from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.dialling import Dialling
from hbtrio.nursery.host.heartbeat_clock import HeartbeatClock
from hbtrio.policy.profile import Profile


class ChannelOutages:
    """Begins and ends the outages of an instance. A channel that is gone ignores them.

    Args:
        heartbeat: decides what follows.
        clock: the heartbeat's.
        dialling: knows whether the instance's socket is there.
        expect: carries out the effects and reports the change.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        clock: HeartbeatClock,
        dialling: Dialling,
        expect: Callable[[tuple[hb.Effect, ...]], None],
    ) -> None:
        self._heartbeat = heartbeat
        self._clock = clock
        self._dialling = dialling
        self._expect = expect

    def restarts(self, what: str) -> None:
        """Expects silence and a return: a command restarts the instance without a notice.

        Args:
            what: the event or corrective action of the command, for reports.
        """
        if not self._gone:
            self._expect(self._heartbeat.announced.restarts(what, self._clock.now()))

    def stops(self, what: str) -> None:
        """Expects silence: a command stops the instance without a notice."""
        if not self._gone:
            self._expect(self._heartbeat.announced.stops(what, self._clock.now()))

    def performing(self, what: str) -> None:
        """Notes that the command of ``what`` starts now: resets meanwhile are its own."""
        self._heartbeat.announced.performing(what)

    def call_off(self, what: str, reason: str, *, is_pursued: bool = False) -> None:
        """Expects answers again: ``what`` did not happen. Ignored while the socket is gone.

        Args:
            what: the event or corrective action.
            reason: why it did not happen.
            is_pursued: whether the instance is lost already, and what failed is tried again.
        """
        # Without a socket the instance did go down, whatever the command reported; RESTART decides.
        if not self._gone and not self._dialling.absent:
            now = self._clock.now()
            self._expect(
                self._heartbeat.announced.called_off(what, reason, now, is_pursued=is_pursued)
            )

    def carried_out(self, what: str) -> None:
        """Notes that the command of ``what`` has succeeded: a return is final from now on."""
        self._heartbeat.announced.carried_out(what, self._clock.now())

    def runs_again(self, reason: str) -> None:
        """Notes that a pause, suspend or live migration is over, as an orchestrator reported."""
        before = self._heartbeat.state
        effects = self._heartbeat.announced.runs_again(reason, self._clock.now())
        if self._heartbeat.state is not before:
            self._expect(effects)

    def domain_changed(
        self, change: DomainChange, words: str, *, is_alarming: bool = False
    ) -> None:
        """Handles a change of the instance's domain, as libvirt reports it.

        Args:
            change: what happened.
            words: libvirt's state and reason.
            is_alarming: whether a fault has paused the VM.
        """
        if not self._gone:
            now = self._clock.now()
            self._expect(
                self._heartbeat.domain.changed(change, words, now, is_alarming=is_alarming)
            )

    def domain_runs(self) -> None:
        """Handles that libvirt says that the VM runs: a guest is waited for."""
        due = self._heartbeat.due
        if not self._gone:
            self._heartbeat.domain.runs(self._clock.now())
        if self._heartbeat.due != due:
            self._expect(())

    def domain_reset(self) -> None:
        """Handles a reset or reboot of the instance's domain, by whomever."""
        if not self._gone:
            self._expect(self._heartbeat.domain.reset(self._clock.now()))

    def confirm(self, standing: Standing | None, words: str) -> None:
        """Handles libvirt's answer about an instance that seems to be lost.

        Args:
            standing: what the domain's state means; None if libvirt has not answered.
            words: its state and reason, or that they are unknown.
        """
        if self._heartbeat.suspected:
            self._expect(self._heartbeat.domain.confirmed(standing, words, self._clock.now()))

    def presume(self, profile: Profile, reason: str, within_s: float) -> None:
        """Expects a guest back that an earlier run has heard; see :meth:`.Losses.presumed`."""
        if not self._gone:
            now = self._clock.now()
            self._expect(
                self._heartbeat.losses.presumed(profile, reason, within_s, now, remembered=True)
            )

    def freeze(self, profile: Profile, reason: str, event: str, was: HeartbeatState) -> None:
        """Takes that a guest was frozen in an earlier run; see :meth:`.EarlierRun.frozen`."""
        if not self._gone:
            now = self._clock.now()
            self._expect(self._heartbeat.earlier.frozen(profile, reason, event, was, now))

    def had_left(self, profile: Profile, reason: str, within_s: float) -> None:
        """Takes that a guest left in an earlier run; see :meth:`.EarlierRun.had_left`."""
        if not self._gone:
            now = self._clock.now()
            self._expect(self._heartbeat.earlier.had_left(profile, reason, within_s, now))

    def was_missing(self, profile: Profile, reason: str, *, unheard: bool) -> None:
        """Takes that no guest was there in an earlier run; see :meth:`.EarlierRun.was_missing`."""
        if not self._gone:
            now = self._clock.now()
            self._expect(self._heartbeat.earlier.was_missing(profile, reason, now, unheard=unheard))

    def cut_off(self, reason: str) -> None:
        """Expects a guest back whose connection was closed, as libvirt says that its VM runs."""
        self._expect(self._heartbeat.cut_off(reason, self._clock.now()))

    def probe(self) -> None:
        """Challenges a lost instance once more: whether it lives is decided anew."""
        if not self._gone and (effects := self._heartbeat.probed(self._clock.now())):
            self._expect(effects)

    def another_process(self, words: str) -> None:
        """Starts anew with a guest of which nothing is known: its QEMU process is another one."""
        if not self._gone:
            self._expect(self._heartbeat.domain.another_process(words, self._clock.now()))

    def release(self) -> None:
        """Lets go of its owner, which has ended and ignores outages."""
        del self._expect

    @property
    def _gone(self) -> bool:
        return self._heartbeat.state is HeartbeatState.GONE

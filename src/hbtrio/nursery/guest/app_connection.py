"""Serves one application's connection: reads, sends challenges, and asks for votes.

The application is an untrusted process of the same VM. This module bounds what the application can
cost the guest: bytes per second, unread bytes, log lines, and time connected without registering.
:class:`hbtrio.fsm.application.ApplicationSession` decides; this module carries out its effects.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from hbtrio.fsm import application_effects as fsm
from hbtrio.fsm.application import ApplicationSession
from hbtrio.fsm.application_table import ApplicationEvent, ApplicationState
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.nursery.guest.app_log import ConnectionLog
from hbtrio.nursery.guest.app_question import AppQuestion
from hbtrio.nursery.guest.app_requests import AppRequests, inhibition_status
from hbtrio.nursery.guest.app_services import SharedServices
from hbtrio.nursery.guest.app_writer import AppWriter
from hbtrio.nursery.port import ChannelFault, SocketPort
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import Answer, BallotWindow
from hbtrio.policy.quota import ByteBucket
from hbtrio.policy.time_guard import CALM_S
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.wire.app_codec import AppDecoder
from hbtrio.wire.app_messages import AppMessage
from hbtrio.wire.app_status import ApplicationStatus
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import VoteResult, VoterHealth

#: Bytes that an application may send per second and in a burst: 35 messages a second, where a
#: healthy application needs 2 or 3.
BYTES_PER_S: Final = 8192
BURST_BYTES: Final = 8192

#: Longest time that an application may be connected without being registered, in seconds. The
#: deployed library registers at once and closes right after ``final``; a refused application may
#: retry for this long.
UNREGISTERED_S: Final = 60.0

#: Reads before an application is judged: one that answers after a burst is not silent.
_READS: Final = 4


class AppConnection:
    """Serves one application, from accept to close; :meth:`run` may be called once.

    Args:
        port: the connection; closed by :meth:`run`.
        peer: the process at the other end.
        services: shared with the other connections.
    """

    def __init__(self, port: SocketPort, peer: PeerCredentials, services: SharedServices) -> None:
        self.application = ApplicationSession(services.new_id)
        #: Written by the pacer only.
        self.slot: int | None = None
        self._port = port
        self._pacer = services.pacer
        self._withdrew = services.withdrew
        self._guard = services.guard
        self._peer = peer
        process = f"pid {peer.pid}, uid {peer.uid}, gid {peer.gid}"
        self._log = ConnectionLog(services.log, process, self.application)
        self._requests = AppRequests()
        now = trio.current_time()
        #: Since when the application is in its state.
        self._changed_at = now
        #: Since when the application is not registered; meaningless while it is registered.
        self.unregistered_at = now
        self._bucket = ByteBucket(BYTES_PER_S, BURST_BYTES, now)
        self._decoder = AppDecoder()
        self._skipped = 0
        #: None once nothing can be sent any more.
        self._writer: AppWriter | None = None
        #: The open vote or notice.
        self._question: AppQuestion | None = None
        self._scope = trio.CancelScope()
        self._unregistered = WakeUp()
        self._crash: Exception | None = None

    @property
    def label(self) -> str:
        """The application's name and process, for the log."""
        return self._log.label

    def status(self, now: float) -> ApplicationStatus:
        """Returns what is known of the application at ``now``."""
        profile, health = self.application.profile, self.application.health
        return ApplicationStatus(
            name=profile.name,
            pid=self._peer.pid,
            uid=self._peer.uid,
            gid=self._peer.gid,
            heartbeat_s=profile.interval_s,
            vote_s=profile.vote_s,
            shutdown_notice_s=profile.shutdown_notice_s,
            suspend_notice_s=profile.suspend_notice_s,
            resume_notice_s=profile.resume_notice_s,
            if_silent=str(profile.corrective_action),
            health=self.application.state.value,
            health_s=round(now - self._changed_at, 3),
            corrective_action=str(health.action),
            reason=health.reason,
            requests=self._requests.status(now),
            inhibits=inhibition_status(self.application.inhibition, now),
        )

    def known(self, name: str) -> KnownVoter:
        """Returns what is known of the registered application, called ``name``."""
        profile, health = self.application.profile, self.application.health
        return KnownVoter(
            name=name,
            health=VoterHealth(self.application.state.value),
            since=self._changed_at,
            interval_ms=round(profile.interval_s * 1000),
            corrective_action=profile.corrective_action if health.healthy else health.action,
            reason=health.reason,
            last=self._requests.last(),
        )

    async def run(self) -> None:
        """Serves the connection until its end, then closes it and removes the application.

        Raises:
            Exception: a programming error in handling its messages or challenges.

        Cancelled, it closes the connection and removes the application, too.
        """
        has_left = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._writer = AppWriter(self._port, nursery, self.close, self._guard)
                    nursery.start_soon(self._limit_unregistered)
                    await self._read()
                    has_left = True
                    self._scope.cancel()
        finally:
            self._writer = None
            self._pacer.schedule(self, math.inf)
            self._port.close()
            self._apply(self.application.closed(has_left=has_left))
        if self._crash is not None:
            raise self._crash

    def close(self, reason: str) -> None:
        """Ends :meth:`run` and logs the reason."""
        self._log.closed(reason)
        self._scope.cancel()

    # -- reading ----------------------------------------------------------------------------

    async def _limit_unregistered(self) -> None:
        """Closes the connection if the application is unregistered for too long.

        The time in which this process did not run does not count.
        """
        while True:
            await self._wait_unregistered()
            since = self.unregistered_at
            due, stall_s = since + UNREGISTERED_S, 0.0
            stalled_s = self._guard.stalled_s(trio.current_time())
            while True:
                due += stall_s
                await sleep_until_on_time(
                    due, self._guard, at_most_s=CALM_S, sources=[self._take_in]
                )
                stall_s = self._guard.stalled_s(trio.current_time()) - stalled_s
                if stall_s <= 0:
                    break
                stalled_s += stall_s
            if not self.application.registered and self.unregistered_at == since:
                self.close(f"not registered for {UNREGISTERED_S:g} s")
                return

    async def _wait_unregistered(self) -> None:
        while self.application.registered:
            await self._unregistered.wait()

    async def _read(self) -> None:
        """Reads until the end."""
        while True:
            await self._port.wait_readable()
            try:
                data = self._port.receive_nowait()
            except ChannelFault:
                return  # reset: the application crashed with unread data
            if data is None:
                continue
            if not data:
                return
            # One read per wake-up keeps other connections on time; the bucket bounds the CPU time.
            pause_s = self._take(data, trio.current_time())
            if pause_s > 0:
                await trio.sleep(pause_s)

    def _take(self, data: bytes, now: float) -> float:
        """Handles received bytes; returns for how many seconds to stop reading."""
        for message in self._decoder.feed(data):
            self._apply(self.application.received(message, now))
        decoder = self._decoder
        skipped = decoder.garbage_bytes + decoder.other_versions + decoder.other_types
        if skipped != self._skipped:
            self._skipped = skipped
            self._log.misuse(
                f"skipped so far: {decoder.garbage_bytes} bytes that are no message, "
                f"{decoder.other_versions} messages of another version, "
                f"{decoder.other_types} of an unknown type",
            )
        self._pacer.schedule(self, self.application.deadline)
        return self._bucket.take(len(data), now)

    # -- time -------------------------------------------------------------------------------

    def on_time(self, now: float) -> float:
        """Judges the pending answers and sends the next challenge; called by the pacer when due."""
        try:
            self._expire(now)
        except Exception as crash:  # noqa: BLE001 - raised again by this connection's own task
            self._crash = crash
            self._scope.cancel()
            return math.inf
        return self.application.deadline

    def _take_in(self) -> bool:
        """Reads what has arrived, as a :data:`Source` of windows; never has more to come."""
        try:
            self._take_unread(trio.current_time())
        except Exception as crash:  # noqa: BLE001 - raised again by this connection's own task
            self._crash = crash
            self._scope.cancel()
        return False

    def _expire(self, now: float) -> None:
        for _ in range(_READS if now >= self.application.silent_at else 1):
            if not self._take_unread(now):
                break
        late, stalled_s = self._guard.is_late(now), self._guard.stalled_s(now)
        self._apply(self.application.expired(now, late=late, stalled_s=stalled_s))

    def _take_unread(self, now: float) -> bool:
        """Handles what has arrived, ahead of the reader task; returns whether that was anything."""
        try:
            data = self._port.receive_nowait()
        except ChannelFault:
            return False  # the reader will find the end itself
        if data:
            self._take(data, now)
        return bool(data)

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, notify: ActionNotify, window: BallotWindow) -> Answer | None:
        """Sends a vote or notice and waits for the answer, within the application's own window.

        A newer vote or notice ends an older one. A vote that it inhibits is not sent.

        Args:
            notify: the vote or notice.
            window: the window of the whole VM; it cancels this call when it closes.

        Returns:
            The answer; None if the application takes no part, as it is not registered (any more).
        """
        application = self.application
        if not application.registered:
            return None
        profile, guard = application.profile, self._guard
        question = AppQuestion(profile, window, guard, self._take_in, self._send)
        request, answer = self._requests.opened(notify, trio.current_time()), None
        held = application.reject_inhibited(notify.event_type, notify.notification_type)
        if held is not None:
            answer = Answer(VoteResult.REJECT, held.reason, by_name=True)
            request.close(answer)
            return answer
        try:
            event, kind = notify.event_type, notify.notification_type
            self._apply(application.ask(event, kind, notify.planned_at))
            self._question = question
            answer = await question.wait()
        finally:
            request.close(answer)
            if self._question is question:
                self._question = None
                application.unask()
        return answer

    def _send(self, message: AppMessage) -> None:
        if self._writer is not None:
            self._writer.send_message(message)

    def _end_question(self, answer: Answer | None) -> None:
        if self._question is not None:
            self._question.close(answer)
            self._question = None

    # -- effects ----------------------------------------------------------------------------

    def _apply(self, effects: list[fsm.Effect]) -> None:
        for effect in effects:
            match effect:
                case fsm.SendToApplication(message):
                    self._send(message)
                case fsm.AsksForTime(request):
                    if self._question is not None:
                        self._question.ask_time(request)
                case fsm.WithdrewReject(event):
                    self._withdrew(event, self.application.profile.name)
                case fsm.Answered(result, reason):
                    self._end_question(Answer(result, reason, by_name=True))
                case fsm.Withdrew():
                    self._end_question(None)
                case fsm.Ignored(reason):
                    self._log.misuse(f"ignored: {reason}")
                case fsm.ApplicationStateChanged(old, new, event):
                    self._note_change(old, new, event)
                case fsm.InhibitionChanged():
                    self._log.inhibits()
                case fsm.StillIll():
                    self._log.still_ill()
                case fsm.RegistrationChanged(old_profile):
                    self._log.re_registered(old_profile)
                case fsm.RegistrationRefused():
                    self._log.refused()

    def _note_change(
        self, old: ApplicationState, new: ApplicationState, event: ApplicationEvent
    ) -> None:
        self._changed_at = trio.current_time()
        if new is ApplicationState.UNREGISTERED:
            self.unregistered_at = self._changed_at
            self._unregistered.set()
        else:  # its challenges may have less time than a guard that rests takes to look
            self._guard.end_rest()
        self._log.changed(old, new, event)

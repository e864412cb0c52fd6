"""Runs an action on an instance as a task: carries out the steps of the action machine.

The task belongs to the host, not to the client that requested it: an operator who closes the
terminal must not leave an instance that received a pre-notice and never receives the post-notice.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from hbtrio.config.host import expand
from hbtrio.fsm.action import (
    Action,
    ActionState,
    AskVote,
    AwaitReturn,
    Finish,
    GiveNotice,
    Perform,
    Step,
)
from hbtrio.fsm.ballot import BallotState, Outcome
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.round import NotHeartbeating, Round
from hbtrio.nursery.progress_lines import ProgressLines
from hbtrio.nursery.windows import within
from hbtrio.policy.begin_by import BeginBy, Expired
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessNotStarted, ProcessRunner
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType, VoteResult

_log = logging.getLogger("hbtrio.actions")

#: Bytes of a command's output, at most, in its progress line.
_OUTPUT_BYTES: Final = 2048


class ActionRun:
    """An action in progress on one instance.

    Args:
        uuid: the instance.
        name: which action, a row of the event table.
        command: what performs it; ``{uuid}`` stands for the instance.
        force: skip the vote.
        channel_of: returns the instance's current channel, or None; an instance that restarts or
            moves may get a new channel.
        processes: runs the command.
        timeout_s: how long the command may take, in seconds.
        guard: the process's on-time guard.
        begin_by: until when its first step may begin; after that it ends without a step.
        who: who requested it.
    """

    def __init__(
        self,
        uuid: str,
        name: ActionName,
        command: tuple[str, ...],
        *,
        force: bool,
        channel_of: Callable[[str], Channel | None],
        processes: ProcessRunner,
        timeout_s: float,
        guard: OnTimeGuard,
        begin_by: BeginBy,
        who: str = "",
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.who = who
        self._command = command
        self._machine = Action(name, force=force)
        self._channel_of = channel_of
        self._processes = processes
        self._timeout_s = timeout_s
        self._guard = guard
        #: None once the first step has begun.
        self._begin_by: BeginBy | None = begin_by
        self._lines = ProgressLines()
        self._reason = ""
        #: Whether the instance was notified, or is expected back without a notice.
        self._announced = False
        #: Whether a RESTART window was open before the command; it may close during the command.
        self._restarts = False

    @property
    def state(self) -> ActionState:
        """The state of the action machine."""
        return self._machine.state

    @property
    def outcome(self) -> str:
        """The state and its reason, for the history; the outcome, once the action has ended."""
        return f"{self.state.value}: {self._reason}" if self._reason else self.state.value

    async def wait_for(self, what: str, wait: Callable[[], Awaitable[None]]) -> None:
        """Waits before the first step, which may begin so much later; watchers are told why.

        Args:
            what: what is waited for.
            wait: returns when it has ended.
        """
        self._progress(step="command", waiting=f"{what} is in progress")
        since = trio.current_time()
        await wait()
        if self._begin_by is not None:
            self._begin_by = self._begin_by.extended(trio.current_time() - since)

    async def run(self) -> None:
        """Carries out the action; the last progress line has the outcome.

        Cancelled, it ends without an outcome, and a running command is terminated.
        """
        try:
            await self._carry_out()
        except Expired as error:
            self._machine.expired()
            self._reason = str(error)
        _log.info("%s: action %s: %s", self.uuid, self.name, self.outcome)
        self._progress(step="end", outcome=self.state.value, reason=self._reason)

    async def _carry_out(self) -> None:
        """Takes the steps.

        Raises:
            Expired: the first one came too late.
        """
        step: Step = self._machine.start()
        while True:
            match step:
                case AskVote(event):
                    outcome = await self._round("vote", event, NotificationType.REVOCABLE)
                    rejected = outcome is not None and outcome.result is VoteResult.REJECT
                    self._reason = outcome.reason if rejected and outcome is not None else ""
                    step = self._machine.voted(rejected=rejected)
                case GiveNotice(event):
                    outcome = await self._round("notice", event, NotificationType.IRREVOCABLE)
                    self._announced = self._announced or outcome is not None
                    step = self._machine.noticed(sent=outcome is not None)
                case Perform():
                    step = self._machine.performed(succeeded=await self._perform())
                case AwaitReturn():
                    never_down = await self._await_return()
                    step = self._machine.stayed() if never_down else self._machine.back()
                case Finish():
                    return

    def _check_in_time(self) -> None:
        if self._begin_by is not None:
            self._begin_by.check()

    def close(self) -> None:
        """Ends :meth:`progress` for every watcher."""
        self._lines.close()

    def progress(self) -> AsyncGenerator[ProgressLine | None]:
        """Yields each progress line from the first one; ends with the action."""
        return self._lines.watch()

    def _progress(self, **line: Any) -> None:
        self._lines.add(ProgressLine(**line))

    async def _round(
        self, kind: str, event: Event, notification: NotificationType
    ) -> Outcome | None:
        """Runs a vote or notice and returns its outcome; None if the instance can't take part."""
        try:
            opened = await self._open(event, notification)
        except NotHeartbeating as error:
            self._progress(step=kind, event=event, skipped=str(error))
            return None
        window = opened.window
        self._progress(step=kind, event=event, window=window.kind, seconds=window.seconds)
        await opened.done.wait()
        outcome = opened.outcome
        if outcome is not None:
            self._progress(step=kind, event=event, result=outcome.result, reason=outcome.reason)
        return outcome

    async def _open(self, event: Event, notification: NotificationType) -> Round:
        """Opens a vote or notice, after the one that is open already: a guest can handle only one.

        Nobody else opens another in between, so that the wait is as long as the progress line says.

        Raises:
            NotHeartbeating: the instance can't take part.
            Expired: it is the action's first step, and came too late.
        """
        self._check_in_time()
        channel = self._present_channel()
        if channel.round is not None:
            now = trio.current_time()
            left_s = channel.round.window.remaining_s(now)
            # Without this line a watcher would take the wait for a hung host.
            self._progress(
                step="vote" if notification is NotificationType.REVOCABLE else "notice",
                event=event,
                waiting=channel.round.open_text(now),
                seconds=round(left_s, 3),
            )
            if self._begin_by is not None:
                # Whoever follows the action was told of this wait.
                self._begin_by = self._begin_by.extended(left_s)
            with channel.rounds.reserved():
                await channel.round.done.wait()
            self._check_in_time()
            channel = self._present_channel()
        opened = channel.open_round(
            event, notification, begins_action=notification is NotificationType.REVOCABLE
        )
        self._begin_by = None
        return opened

    def _present_channel(self) -> Channel:
        channel = self._channel_of(self.uuid)
        if channel is None or channel.gone:
            raise NotHeartbeating("the instance is not on this host")
        return channel

    async def _perform(self) -> bool:
        self._check_in_time()
        self._begin_by = None
        channel = self._channel_of(self.uuid)
        event = self._machine.restarting
        if channel is not None and event is not None:
            # Most reboots are of lost instances: they can't be notified, but are expected back.
            if not self._announced or channel.restart.window is None:
                channel.outages.restarts(event)
            self._announced = True
        self._restarts = channel is not None and channel.restart.window is not None
        if channel is not None and event is not None:
            channel.outages.performing(event)
        argv = expand(self._command, uuid=self.uuid)
        self._progress(step="command", argv=tuple(argv), seconds=self._timeout_s)
        _log.info("%s: action %s: running %s", self.uuid, self.name, argv)
        fault = f"timed out after {self._timeout_s:g} s"
        output = ""
        run = partial(self._processes.run, argv, max_output=_OUTPUT_BYTES)
        try:
            result = await within(self._timeout_s, self._guard, run)
        except trio.TooSlowError:
            pass
        except ProcessNotStarted as error:
            fault = f"{error.path}: {error.reason}"
        else:
            output = (result.stdout + result.stderr).decode("utf-8", "replace").strip()
            fault = "" if result.exit_code == 0 else f"exit status {result.exit_code}"
            if result.signal is not None:
                fault = f"killed by signal {result.signal}"
        self._progress(
            step="command", result="failed" if fault else "done", reason=fault, output=output
        )
        channel = self._channel_of(self.uuid)
        before = self._machine.before
        if not fault:
            if channel is not None and self._announced and before is not None:
                channel.outages.carried_out(before)
            return True
        self._reason = f"the command failed: {fault}"
        # Only an announced event can be called off: an instance that could not be resumed is still
        # suspended.
        if channel is not None and self._announced and before is not None:
            channel.outages.call_off(before, plain_text(self._reason, 223))
        return False

    async def _await_return(self) -> bool:
        """Waits for the VM's return; returns whether it never went down."""
        channel = self._channel_of(self.uuid)
        if channel is None or not self._restarts:
            self._progress(step="restart", skipped="the instance is not on this host")
            return False
        window = last = channel.restart.window
        # Another window may follow: after an init at the last moment, or for another restart.
        while window is not None:
            left_s = window.remaining_s(trio.current_time())
            self._progress(step="restart", window=window.kind, seconds=round(left_s, 1))
            await channel.restart.closed.wait()
            window, last = channel.restart.window, window
        back = channel.heartbeating
        never_down = back and last is not None and last.ballot.state is BallotState.EXPIRED
        reason = channel.heartbeat.reason
        if never_down:
            reason = "it never went down: it still answered when RESTART expired"
        self._progress(step="restart", result="back" if back else "expired", reason=reason)
        if never_down or not back:
            self._reason = reason
        return never_down

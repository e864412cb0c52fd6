"""Runs an action on an instance as a task: carries out the steps of the action machine.

The task belongs to the host, not to the client that requested it: an operator who closes the
terminal must not leave an instance that received a pre-notice and never receives the post-notice.
Each step is remembered before it is taken, so that the next run of the host goes on with it if this
one ends in the middle.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from hbtrio.config.expansion import expand
from hbtrio.fsm.action import (
    BEFORE_COMMAND,
    Action,
    ActionState,
    AskVote,
    AwaitDown,
    AwaitReturn,
    Finish,
    GiveNotice,
    Inspect,
    Perform,
    Step,
)
from hbtrio.log.subject import fields
from hbtrio.nursery.host.action_command import run_command
from hbtrio.nursery.host.action_rounds import ActionRounds
from hbtrio.nursery.host.action_tools import ActionTools
from hbtrio.nursery.host.down_wait import DownWait
from hbtrio.nursery.host.return_wait import until_back
from hbtrio.nursery.progress_lines import ProgressLines
from hbtrio.policy.begin_by import BeginBy, Expired
from hbtrio.store.host_records import ActionRecord
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ActionName, VoteResult

_log = logging.getLogger("hbtrio.actions")

#: For how long an action may be resumed whose command had not begun, in seconds after its step.
_RESUMES_S: Final = 60.0

#: The reason of an action whose command was running when the host ended.
INTERRUPTED: Final = "interrupted: the host ended while the command ran"

#: The reason of one whose command had not begun, and which was not resumed in time.
LAPSED: Final = "interrupted: the host was away for too long"


class ActionRun:
    """An action in progress on one instance.

    Args:
        record: what it is, and the step it is at.
        tools: what all actions share.
        begin_by: until when its first step may begin; after that it ends without a step.
        is_resumed: whether an earlier run of the host has begun it.
        denial: why the rule of a group forbids it; "" if none does.
    """

    def __init__(
        self,
        record: ActionRecord,
        tools: ActionTools,
        begin_by: BeginBy,
        *,
        is_resumed: bool = False,
        denial: str = "",
    ) -> None:
        self.is_resumed = is_resumed
        #: Why it is not begun; "" if it is.
        self.denial = denial
        self._record = record
        self._tools = tools
        self._has_ended = False
        self._machine = Action(record.name, force=record.force)
        self._lines = ProgressLines()
        self.rounds = ActionRounds(record, tools, self._progress, begin_by, self._extended)
        self._down = DownWait(
            record.uuid, self._machine.before, self._machine.effect, tools, self._progress
        )
        self._reason = record.reason
        #: Why it is called off; "" while it is not.
        self._called_off = ""
        #: Whether the instance was notified, or is expected back without a notice.
        self._announced = record.announced
        #: Whether a RESTART window was open before the command; it may close during the command.
        self._restarts = False

    @property
    def record(self) -> ActionRecord:
        """What it is, and the step that was remembered last."""
        return self._record

    @property
    def uuid(self) -> str:
        """The instance."""
        return self._record.uuid

    @property
    def name(self) -> ActionName:
        """Which action, a row of the event table."""
        return self._record.name

    @property
    def who(self) -> str:
        """Who requested it."""
        return self._record.who

    @property
    def state(self) -> ActionState:
        """The state of the action machine."""
        return self._machine.state

    @property
    def reason(self) -> str:
        """Why it was rejected or failed, once it has ended."""
        return self._reason

    @property
    def is_called_off(self) -> bool:
        """Whether it was ended before its command, as :meth:`call_off` asked."""
        return bool(self._called_off) and self._reason == self._called_off

    def call_off(self, reason: str) -> None:
        """Ends it before its command begins; one that has begun goes on.

        A vote or notice that is open comes to its end first: a guest can handle only one.
        """
        self._called_off = self._called_off or reason

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
        self.rounds.extend(trio.current_time() - since)

    async def run(self) -> None:
        """Carries out the action.

        Cancelled, it ends without an outcome, and a running command is terminated. The next run of
        the host resumes it.
        """
        try:
            step = await self._resume() if self.is_resumed else self._start()
            while not isinstance(step, Finish):
                ended = self._called_off_at(step)
                if ended is None:
                    await self._remember()
                    ended = self._called_off_at(step)
                step = await self._take(step) if ended is None else ended
        except Expired as error:
            self._machine.expired()
            self._reason = str(error)
        about = fields("action")
        _log.info("%s: action %s: %s", self.uuid, self.name, self.outcome, extra=about)
        self._has_ended = True

    def close(self) -> None:
        """Ends :meth:`progress` for every watcher, after a line with the outcome if it has one.

        Whoever reads that line may begin the next action.
        """
        if self._has_ended:
            self._progress(step="end", outcome=self.state.value, reason=self._reason)
        self._lines.close()

    def progress(self) -> AsyncGenerator[ProgressLine | None]:
        """Yields each progress line from the first one; ends with the action."""
        return self._lines.watch()

    def _progress(self, **line: Any) -> None:
        self._lines.add(ProgressLine(**line))

    # -- its steps --------------------------------------------------------------------------

    def _start(self) -> Step:
        if not self.denial:
            return self._machine.start()
        self._reason = self.denial
        self._progress(step="group", result=VoteResult.REJECT, reason=self.denial)
        return self._machine.denied()

    async def _resume(self) -> Step:
        """Returns the step at which an earlier run of the host was."""
        record, memory = self._record, self._tools.memory
        _log.warning("%s: action %s: resumed at: %s", self.uuid, self.name, record.step)
        is_cut_off = record.step == ActionState.PERFORMING.value
        await self._tools.sightings.until_settled(self.uuid, answers=not is_cut_off)
        state, left_s = ActionState(record.step), record.left_s(memory.moment)
        if state is ActionState.GOING_DOWN:
            self._down.limit(left_s)
        step = self._machine.resume(state, noticed=record.announced, in_time=left_s > -_RESUMES_S)
        if step == Inspect():
            self._reason = INTERRUPTED
        elif self.state in (ActionState.FAILED, ActionState.FINISHING_FAILED) and not self._reason:
            self._reason = LAPSED
        return step

    def _called_off_at(self, step: Step) -> Step | None:
        """Ends it if it is called off and its command has not begun; returns the step after."""
        if not self._called_off or step == Inspect() or self.state not in BEFORE_COMMAND:
            return None
        self._reason = self._called_off
        self._call_off()
        return self._machine.called_off()

    async def _remember(self) -> None:
        """Stores the step before it is taken; one that was resumed keeps its deadline."""
        if self._record.step == self.state.value:
            return
        moment = self._tools.memory.moment
        bound_s = self._tools.bound_s(self.uuid, self._machine, self._down.bound_s)
        self._record = attrs.evolve(
            self._record,
            step=self.state.value,
            step_deadline=round(moment.boot_s + bound_s, 1),
            announced=self._announced,
            reason=self._reason,
            boot_id=moment.boot_id,
            domain_id=self._tools.domain_id(self.uuid),
        )
        self._tools.drains.action_stepped(self._record)
        await self._tools.memory.put_action(self._record)

    async def _extended(self, left_s: float) -> None:
        """Stores that the present step may take so many seconds from now on."""
        later = round(self._tools.memory.moment.boot_s + left_s, 1)
        self._record = attrs.evolve(self._record, step_deadline=later)
        await self._tools.memory.put_action(self._record)

    async def _take(self, step: Step) -> Step:
        """Takes one step and returns the next.

        Raises:
            Expired: it is the first one, and came too late.
        """
        machine = self._machine
        match step:
            case AskVote(event):
                outcome = await self.rounds.vote(event)
                rejected = outcome is not None and outcome.result is VoteResult.REJECT
                self._reason = outcome.reason if rejected and outcome is not None else ""
                return machine.voted(rejected=rejected)
            case GiveNotice(event):
                outcome = await self.rounds.notice(event)
                self._announced = self._announced or outcome is not None
                return machine.noticed(sent=outcome is not None)
            case Perform():
                return machine.performed(succeeded=await self._perform())
            case Inspect():
                return machine.performed(succeeded=await self._inspect())
            case AwaitReturn():
                never_down = await self._await_return()
                return machine.stayed() if never_down else machine.back()
            case AwaitDown():
                if not (fault := await self._down.wait()):
                    return machine.down()
                self._reason = fault
                self._call_off()
                return machine.stayed()
            case Finish():
                return step

    async def _perform(self) -> bool:
        """Runs the command; returns whether it succeeded."""
        self.rounds.begins()
        self._expect()
        argv = expand(self._record.command, uuid=self.uuid)
        tools = self._tools
        self._progress(step="command", argv=tuple(argv), seconds=tools.timeout_s)
        _log.info("%s: action %s: running %s", self.uuid, self.name, argv)
        async with self._down.watching(if_=self._machine.goes_down):
            end = await run_command(argv, tools.processes, tools.timeout_s, tools.guard)
        result = "failed" if end.fault else "done"
        self._progress(step="command", result=result, reason=end.fault, output=end.output)
        if end.fault:
            self._reason = f"the command failed: {end.fault}"
        return self._performed(succeeded=not end.fault)

    async def _inspect(self) -> bool:
        """Waits until it is seen what an interrupted command did; returns whether it worked."""
        effect, domain_id = self._machine.effect, self._record.domain_id
        worked = await self._tools.sightings.took_effect(self.uuid, effect, domain_id)
        channel = self._tools.channel_of(self.uuid)
        self._restarts = channel is not None and channel.restart.window is not None
        self._progress(step="command", result="failed", reason=self._reason)
        return self._performed(succeeded=worked)

    def _expect(self) -> None:
        """Takes that the command begins now, which may restart the VM."""
        channel, event = self._tools.channel_of(self.uuid), self._machine.restarting
        if channel is not None and event is not None:
            # Most reboots are of lost instances: they can't be notified, but are expected back.
            if not self._announced or channel.restart.window is None:
                channel.outages.restarts(event)
            self._announced = True
        self._restarts = channel is not None and channel.restart.window is not None
        if channel is not None and event is not None:
            channel.outages.performing(event)

    def _performed(self, *, succeeded: bool) -> bool:
        """Takes the end of the command."""
        channel, before = self._tools.channel_of(self.uuid), self._machine.before
        if not succeeded:
            self._call_off()
        elif channel is not None and self._announced and before is not None:
            channel.outages.carried_out(before)
        return succeeded

    def _call_off(self) -> None:
        """Expects answers again, if the event was announced.

        An instance that could not be resumed is still suspended.
        """
        channel, before = self._tools.channel_of(self.uuid), self._machine.before
        if channel is not None and self._announced and before is not None:
            channel.outages.call_off(before, plain_text(self._reason, 223))

    async def _await_return(self) -> bool:
        """Waits for the VM's return; returns whether it never went down."""
        channel = self._tools.channel_of(self.uuid)
        if self.is_resumed and channel is not None:
            self._restarts = self._restarts or channel.restart.window is not None
        if channel is None or not self._restarts:
            self._progress(step="restart", skipped="the instance is not on this host")
            return False
        end = await until_back(channel, self._progress)
        self._reason = end.reason or self._reason
        return end.never_down

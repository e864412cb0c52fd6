"""Runs the command of a correction, and judges how it ended."""

from __future__ import annotations

import logging
from enum import Enum
from functools import partial
from typing import Final

import trio

from hbtrio.config.expansion import expand
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.correction_tools import CorrectionTools
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.nursery.windows import within
from hbtrio.system.runner import ProcessNotStarted, ProcessResult
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.corrective")

#: Bytes of a reason that are passed to a command; reasons contain text from tenants.
_REASON_BYTES: Final = 223


class Outcome(Enum):
    """How a command ended."""

    DONE = "done"
    NOT_STARTED = "not-started"
    IN_VAIN = "in-vain"  # it failed, and libvirt says that nothing has happened
    FAILED = "failed"  # it may have done something
    TIMED_OUT = "timed-out"
    ENDED = "ended"
    DRY_RUN = "dry-run"

    @property
    def word(self) -> str:
        """The ``outcome`` of its event."""
        return Outcome.FAILED.value if self is Outcome.IN_VAIN else self.value


class CorrectionCommand:
    """The commands of one correction.

    Args:
        tools: what all corrections share.
        channel: the instance's.
        action: what it asked for.
        reason: the reason of the report.
    """

    def __init__(
        self, tools: CorrectionTools, channel: Channel, action: CorrectiveAction, reason: str
    ) -> None:
        self._tools = tools
        self._channel = channel
        self._action = action
        self._reason = plain_text(reason, _REASON_BYTES)
        self._state = ""
        self._argv: list[str] = []
        self._owns = False
        self._is_of_a_loss = channel.heartbeat.state is HeartbeatState.LOST
        self._scope: trio.CancelScope | None = None

    def take(self, state: str, *, starts_gone: bool) -> None:
        """Takes the instance and one of its quota, for :meth:`run`; without a checkpoint.

        Args:
            state: libvirt's words.
            starts_gone: whether to run the command for a VM that is gone.
        """
        uuid = self._channel.uuid
        self._state = state
        command = self._tools.command(self._action, starts_gone=starts_gone)
        self._argv = self._expanded(command, state)
        self._tools.quota_of(uuid).take(trio.current_time())
        self._tools.memory.ran(uuid)
        # A log command does nothing to the VM: it needs no owner, and may run under another.
        self._owns = not self._tools.settings.dry_run and self._action is not CorrectiveAction.LOG
        if self._owns:
            self._tools.owners.command_begins(uuid, self._action)
            self._tools.groups.command_begins(uuid, self._action)

    def take_over(self) -> None:
        """Ends the command that runs, for an operator."""
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> Outcome:
        """Runs the command and reports how it ended. Cancelled, it is terminated."""
        channel, argv = self._channel, self._argv
        if self._tools.settings.dry_run:
            self._report(Outcome.DRY_RUN, f"{self._action} would have been run: {argv}")
            return Outcome.DRY_RUN
        _log.warning("%s: %s: running %s", channel.uuid, self._action, argv)
        try:
            return await self._run()
        finally:
            if self._owns:
                self._tools.owners.command_ended(channel.uuid)
                self._tools.groups.command_ended(channel.uuid)

    async def _run(self) -> Outcome:
        channel, tools = self._channel, self._tools
        # Before the command, because the instance falls silent while the command runs.
        what = f"corrective action {self._action}"
        if self._action is CorrectiveAction.REBOOT:
            channel.outages.restarts(what)
        elif self._action is CorrectiveAction.STOP:
            channel.outages.stops(what)
        tools.counts.ran += 1
        restarts = tools.libvirt.restarts(channel.uuid)
        outcome, fault = await self._outcome()
        if outcome is Outcome.FAILED and restarts is not None:
            known = await tools.look(channel.uuid)
            if not known.silent and tools.libvirt.restarts(channel.uuid) == restarts:
                outcome = Outcome.IN_VAIN
        if outcome is Outcome.DONE:
            _log.info("%s: %s done", channel.uuid, self._action)
        else:
            tools.counts.failed += 1
            _log.error("%s: %s failed: %s", channel.uuid, self._action, fault)
        # A command that may have done something leaves RESTART open: the VM's return decides.
        nothing_happened = outcome in (Outcome.NOT_STARTED, Outcome.IN_VAIN)
        if nothing_happened or (fault and self._action is CorrectiveAction.STOP):
            channel.outages.call_off(
                what,
                f"the command failed: {fault}",
                is_pursued=nothing_happened and self._is_of_a_loss,
            )
        self._report(
            outcome, f"{self._action} failed: {fault}" if fault else f"{self._action} done"
        )
        return outcome

    async def _outcome(self) -> tuple[Outcome, str]:
        """Runs the command; returns how it ended, and the fault in words."""
        tools = self._tools
        run = partial(tools.processes.run, self._argv)
        try:
            with trio.CancelScope() as self._scope:
                result = await within(tools.commands.timeout_s, tools.guard, run)
                return (Outcome.DONE, "") if result.exit_code == 0 else _failed(result)
        except trio.TooSlowError:
            return Outcome.TIMED_OUT, f"timed out after {tools.commands.timeout_s:g} s"
        except ProcessNotStarted as error:
            return Outcome.NOT_STARTED, f"{error.path}: {error.reason}"
        return Outcome.ENDED, "an operator took over"

    async def confirm(self, state: str) -> str:
        """Runs the command of ``confirm``; returns its reason to do nothing, or "" if it agrees.

        Args:
            state: libvirt's words.
        """
        tools = self._tools
        run = partial(tools.processes.run, self._expanded(tools.settings.confirm, state))
        try:
            result = await within(tools.commands.timeout_s, tools.guard, run)
        except trio.TooSlowError:
            return f"confirm: no answer within {tools.commands.timeout_s:g} s"
        except ProcessNotStarted as error:
            return f"confirm: {error.path}: {error.reason}"
        if result.exit_code == 0:
            return ""
        said = result.stdout.decode("utf-8", "replace").strip().partition("\n")[0]
        return plain_text(said, _REASON_BYTES) or f"confirm: {_failed(result)[1]}"

    def _expanded(self, command: tuple[str, ...], state: str) -> list[str]:
        return expand(
            command,
            uuid=self._channel.uuid,
            reason=self._reason,
            action=self._action,
            state=state,
        )

    def _report(self, outcome: Outcome, reason: str) -> None:
        self._channel.report(
            ReportKind.CORRECTIVE,
            reason,
            corrective_action=self._action,
            outcome=outcome.word,
            state=self._state,
        )


def _failed(result: ProcessResult) -> tuple[Outcome, str]:
    stderr = plain_text(result.stderr.decode("utf-8", "replace"), _REASON_BYTES)
    ended = f"signal {result.signal}" if result.signal else f"exit {result.exit_code}"
    return Outcome.FAILED, f"{ended}: {stderr}"

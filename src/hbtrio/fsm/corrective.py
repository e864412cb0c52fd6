"""Decides whether a corrective command may run now: the one place that does.

:func:`decide` looks at all that is known of an instance at one moment. What is not known yet it
asks for, the cheapest first, and is then given the whole picture anew: who owns the instance, and
whether it answers, may have changed while libvirt was asked.

Nothing is done to a VM that is not known to be running, or to have panicked, and at fault.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final

import attrs

from hbtrio.fsm.domain import Standing
from hbtrio.wire.vocabulary import CorrectiveAction

#: A VM that ended by a failure is started again only this soon after it, in seconds.
GONE_WITHIN_S: Final = 60.0


class Cause(StrEnum):
    """Why a corrective command was not run, as events name it."""

    HOLD = "hold"
    LIMIT = "limit"
    BRAKE = "brake"
    OWNER = "owner"
    PAUSED = "paused"
    LIBVIRT_SILENT = "libvirt-silent"
    CONFIRM = "confirm"
    BUSY = "busy"
    DOWN = "down"
    POLICY = "policy"
    UNSURE = "unsure"
    GROUP = "group"


class Question(Enum):
    """What has to be found out before the decision."""

    LIBVIRT = "libvirt's state"
    TRAFFIC = "whether its disk requests or sent packets grow"
    CONFIRM = "the command of confirm"


class Policy(Enum):
    """What the administrator allows for an instance."""

    ON = "on"
    LOG = "log"  # only the command of the action log
    OFF = "off"
    UNKNOWN = "unknown"  # libvirt has not told its name or metadata yet


@attrs.frozen
class Known:
    """What libvirt has answered to a fresh question.

    Args:
        standing: what the state means; None: it did not answer in time, or has no such domain.
        words: libvirt's state and reason; ``libvirt unknown`` for a silence.
        silent: whether libvirt is in use and did not answer.
    """

    standing: Standing | None = None
    words: str = ""
    silent: bool = False


@attrs.frozen(kw_only=True)
class Picture:
    """All that is known of an instance at one moment.

    Args:
        action: what the failed instance asked for: log, reboot or stop.
        policy: what the administrator allows.
        held: the operator's hold on the instance, in words; empty without one.
        owner: who owns the instance, in words; empty for nobody.
        braked: whether so many instances failed at once that the host is suspected.
        limit: the quota that is used up, in words; empty if it is not.
        group: why it has to wait for a group, in words; empty if it need not.
        known: libvirt's answer; None: not asked yet.
        starts_gone: whether a command is configured for a VM that has ended by a failure.
        saw_it_end_s: how long ago this daemon saw the VM end or crash, in seconds; None: it did
            not see it, this is a decision anew, or an agent decides.
        asks_traffic: whether ``no_io_for_s`` is set, for an instance that is silent.
        busy: why it seems to be alive all the same; empty: it is not; None: not observed yet.
        asks_confirm: whether a command of ``confirm`` is set.
        refusal: why the command of ``confirm`` refuses; empty: it agrees; None: not asked yet.
    """

    action: CorrectiveAction
    policy: Policy = Policy.ON
    held: str = ""
    owner: str = ""
    braked: bool = False
    limit: str = ""
    group: str = ""
    known: Known | None = None
    starts_gone: bool = False
    saw_it_end_s: float | None = None
    asks_traffic: bool = False
    busy: str | None = None
    asks_confirm: bool = False
    refusal: str | None = None


@attrs.frozen
class Act:
    """Run the command of the action, or the one that starts a VM that is gone."""

    starts_gone: bool = False


@attrs.frozen
class Ask:
    """Find this out first."""

    question: Question


@attrs.frozen
class NotNow:
    """Run nothing; decide anew when the cause has ended.

    ``alarm``: somebody has to see to it.
    """

    cause: Cause
    text: str
    alarm: bool = False

    @property
    def words(self) -> str:
        """The cause and the text, as operators read them."""
        return f"{self.cause}: {self.text}"


@attrs.frozen
class Never(NotNow):
    """Run nothing, and don't decide anew."""


Decision = Act | Ask | NotNow | Never


def decide(picture: Picture) -> Decision:
    """Decides what to do about a failed instance that is still silent or ill."""
    if (hindrance := _hindrance(picture)) is not None:
        return hindrance
    known = picture.known
    if known is None:
        return Ask(Question.LIBVIRT)
    if picture.action is CorrectiveAction.LOG:
        return Act()  # it does nothing to the VM
    if known.silent:
        # A reset would hang as well.
        return NotNow(Cause.LIBVIRT_SILENT, "libvirt does not answer", alarm=True)
    match known.standing:
        case Standing.PAUSED:
            return NotNow(Cause.PAUSED, known.words)
        case Standing.FAILED:
            return _gone(picture, known)
        case Standing.ENDING | Standing.STOPPED | Standing.UNKNOWN:
            return Never(Cause.DOWN, known.words)
        case Standing.PANICKED:
            return _confirmed(picture)  # its kernel does no I/O any more
    if picture.asks_traffic:
        if picture.busy is None:
            return Ask(Question.TRAFFIC)
        if picture.busy:
            return NotNow(Cause.BUSY, picture.busy, alarm=True)
    return _confirmed(picture)


def _hindrance(picture: Picture) -> NotNow | None:
    """What forbids every command, whatever libvirt may say."""
    if picture.policy is Policy.OFF or (
        picture.policy is Policy.LOG and picture.action is not CorrectiveAction.LOG
    ):
        return NotNow(Cause.POLICY, f"corrective is {picture.policy.value} for this instance")
    if picture.policy is Policy.UNKNOWN:
        text = "libvirt ([libvirt] enabled) has not told what holds for this instance"
        return NotNow(Cause.POLICY, text, alarm=True)
    # A log command does nothing to the VM, so it crosses nobody's plans.
    if picture.held and picture.action is not CorrectiveAction.LOG:
        return NotNow(Cause.HOLD, picture.held)
    if picture.braked:
        return NotNow(Cause.BRAKE, "too many instances failed at once")
    if picture.owner and picture.action is not CorrectiveAction.LOG:
        return NotNow(Cause.OWNER, f"{picture.owner} is in progress")
    if picture.limit:
        return NotNow(Cause.LIMIT, picture.limit)
    if picture.group:
        return NotNow(Cause.GROUP, picture.group)
    return None


def _gone(picture: Picture, known: Known) -> Decision:
    """A VM must not run twice: it is started only right after a failure that was seen."""
    if picture.action is not CorrectiveAction.REBOOT or not picture.starts_gone:
        return Never(Cause.DOWN, known.words, alarm=True)
    ago_s = picture.saw_it_end_s
    if ago_s is None:
        text = f"{known.words}, and it was not seen to fail just now: it may run elsewhere"
        return Never(Cause.UNSURE, text, alarm=True)
    if ago_s > GONE_WITHIN_S:
        text = f"{known.words}, {ago_s:.0f} s ago: it may run elsewhere"
        return Never(Cause.UNSURE, text, alarm=True)
    return _confirmed(picture, starts_gone=True)


def _confirmed(picture: Picture, *, starts_gone: bool = False) -> Decision:
    if picture.asks_confirm:
        if picture.refusal is None:
            return Ask(Question.CONFIRM)
        if picture.refusal:
            return NotNow(Cause.CONFIRM, picture.refusal)
    return Act(starts_gone)

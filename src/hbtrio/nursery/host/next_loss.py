"""Says what would follow if an instance were lost now."""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.corrective import Act, Known, Question
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.corrective import Corrective
from hbtrio.nursery.host.domains import Domains
from hbtrio.wire.operator import NextLossLine
from hbtrio.wire.vocabulary import CorrectiveAction

#: libvirt's silence, as a decision takes it.
_SILENT: Final = Known(silent=True)

#: What asks for nothing.
_NO_ACTION: Final = (CorrectiveAction.NONE, CorrectiveAction.UNKNOWN)


def next_loss(channel: Channel, corrective: Corrective, domains: Domains) -> NextLossLine:
    """Returns what would follow, by what is known now.

    Args:
        channel: the instance's.
        corrective: would decide.
        domains: knows whether libvirt is asked, and answers.
    """
    action = channel.heartbeat.profile.corrective_action
    argv = corrective.command(action)
    if not channel.heartbeat.reporting:
        why = "the VIM has turned off the reports about it"
        return NextLossLine(reported=False, action=str(action), does="nothing", why=why)
    if not argv:
        no_command = f"no command is configured for {action} ([corrective-commands])"
        why = "its guest asks for no corrective action" if action in _NO_ACTION else no_command
        return NextLossLine(action=str(action), does="nothing", why=why)
    known = _SILENT if domains.is_silent else None
    foresight = corrective.foresee(channel.uuid, action, known)
    decision = foresight.decision
    if not isinstance(decision, Act):
        return NextLossLine(
            action=str(action), does="nothing", argv=argv, cause=decision.cause, why=decision.text
        )
    asks_libvirt = domains.watch is not None and domains.watch.in_use
    return NextLossLine(
        action=str(action),
        does="dry-run" if corrective.is_dry else "command",
        argv=argv,
        asks=tuple(
            str(one.value) for one in foresight.asks if asks_libvirt or one is not Question.LIBVIRT
        ),
    )

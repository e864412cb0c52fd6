"""Decides from what is seen of a VM whether an action has taken effect.

libvirt's word counts first: a VM that it calls running is neither stopped nor frozen, however
silent its guest. Without libvirt a stopped VM has no socket, and a frozen one does not answer.
"""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.fsm.domain import Standing
from hbtrio.wire.vocabulary import ExpectedEffect

#: The VM has ended.
_ENDED: Final = frozenset({Standing.STOPPED, Standing.FAILED})

#: The VM stands still, or has ended: a suspended one may have been saved.
_STILL: Final = _ENDED | {Standing.PAUSED}


@attrs.frozen
class Sighting:
    """What is seen of a VM at one moment.

    Args:
        standing: what libvirt's state means; None if libvirt does not know it, or does not answer.
        has_socket: whether its channel's socket is there and accepts connections.
        silent: whether its guest leaves challenges unanswered, or is not challenged.
    """

    standing: Standing | None
    has_socket: bool
    silent: bool

    def is_down(self, effect: ExpectedEffect) -> bool:
        """Whether the VM has stopped, or if ``effect`` is to freeze it, stands still."""
        freezes = effect is ExpectedEffect.FREEZES
        if self.standing is not None and self.standing is not Standing.UNKNOWN:
            return self.standing in (_STILL if freezes else _ENDED)
        return not self.has_socket or (freezes and self.silent)

    def took_effect(self, effect: ExpectedEffect, *, answers: bool, renewed: bool) -> bool | None:
        """Whether a command that was interrupted took effect; None: it is not known yet.

        A VM that is silent may be on its way down or up, so it is waited for as if the command had
        succeeded; one that answers runs on unchanged.

        Args:
            effect: what the command does to the VM.
            answers: whether the guest has answered since.
            renewed: whether the VM has another QEMU process than before the command.
        """
        runs = self.standing is Standing.RUNNING
        if effect is ExpectedEffect.RETURNS:
            verdict: bool | None = True if answers or runs else None
        elif renewed or self.standing in _ENDED or not self.has_socket:
            verdict = True
        else:
            verdict = False if answers else None
        if verdict is None and self.silent:
            freezes = effect is ExpectedEffect.FREEZES
            return effect is not ExpectedEffect.RETURNS and not (freezes and runs)
        return verdict

"""What the tests of rounds share."""

from __future__ import annotations

import attrs

from hbtrio.policy.allowances import agrees_after_s, told_timeout_s
from support.agent_world import AgentWorld
from support.scripted_host import INSTANCE, OTHER_VM

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)


VOTE_S, STOP_NOTICE_S = INSTANCE.vote_s, INSTANCE.shutdown_notice_s


def agrees_s(window_s: float) -> float:
    """How long after its opening a round of the VIM ends if the guest is silent."""
    return agrees_after_s(window_s, for_vim=True)


AGREES_S = agrees_s(VOTE_S)
#: When the VIM no longer waits.
ENDS_S = told_timeout_s(VOTE_S)


async def history(world: AgentWorld) -> list[tuple[str, str, str, str]]:
    """What was recorded of votes and notices, the oldest first; a note is in brackets."""
    found = [record.entry for record in reversed(await world.store.history())]
    return [
        (
            one.kind,
            one.event or "",
            one.result or "",
            one.reason + (f" [{one.note}]" if one.note else ""),
        )
        for one in found
        if one.kind in ("vote", "notice", "undelivered")
    ]

"""What would follow from a loss: the decision, under what is presumed of the VM."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from hbtrio.fsm.corrective import Act, Cause, Known, NotNow, Picture, Policy, Question
from hbtrio.fsm.foresight import Foresight, foresee
from hbtrio.wire.vocabulary import CorrectiveAction

REBOOT = Picture(action=CorrectiveAction.REBOOT)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, Foresight(Act(), (Question.LIBVIRT,))),
        ({"asks_traffic": True}, Foresight(Act(), (Question.LIBVIRT, Question.TRAFFIC))),
        (
            {"asks_traffic": True, "asks_confirm": True},
            Foresight(Act(), (Question.LIBVIRT, Question.TRAFFIC, Question.CONFIRM)),
        ),
        ({"policy": Policy.OFF}, Cause.POLICY),
        ({"braked": True}, Cause.BRAKE),
        ({"owner": "an operator's action"}, Cause.OWNER),
        ({"limit": "3 per hour"}, Cause.LIMIT),
        ({"known": Known(silent=True)}, Cause.LIBVIRT_SILENT),
    ],
)
def test_what_would_follow(known: dict[str, Any], expected: Foresight | Cause) -> None:
    foresight = foresee(attrs.evolve(REBOOT, **known))
    if isinstance(expected, Foresight):
        assert foresight == expected
    else:
        assert isinstance(foresight.decision, NotNow)
        assert (foresight.decision.cause, foresight.asks) == (expected, ())

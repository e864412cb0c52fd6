"""Whatever the guest asks in whatever order: each challenge at once, each question at most once."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import anyio
import attrs
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.backends import on_both
from app.scripted_guest import attending
from hbtrio.app import Accept, Notice, Reject, Vote
from hbtrio.wire.app_messages import AppActionResponse, AppChallenge, AppChallengeResponse
from hbtrio.wire.vocabulary import EVENT_TABLE, Event

WINDOW_S = 3


@attrs.frozen
class Step:
    """The guest asks, and then does nothing for some time; none of the times fall together.

    With ``event`` None it challenges, else it asks for a vote or tells.
    """

    event: Event | None
    vote: bool
    handler_takes_s: float
    raises: bool
    then_s: float


STEPS = st.lists(
    st.builds(
        Step,
        st.none() | st.sampled_from(list(EVENT_TABLE)),
        st.booleans(),
        st.sampled_from([0.0, 0.35, 1.35, 2.35, 5.35]),
        st.booleans(),
        st.sampled_from([0.2, 1.2, 4.2]),
    ),
    max_size=8,
)


def expected(steps: list[Step]) -> list[tuple[float, int]]:
    """When which of the steps are answered, in seconds since the first."""
    begins = [round(sum(step.then_s for step in steps[:n]), 2) for n in range(len(steps))]
    answers = []
    for number, step in enumerate(steps):
        if step.event is None:
            answers.append((begins[number], number))
            continue
        questions = [n for n in range(number + 1, len(steps)) if steps[n].event is not None]
        overtaken_at = begins[questions[0]] if questions else math.inf
        answered_at = round(begins[number] + step.handler_takes_s, 2)
        in_time = step.handler_takes_s < WINDOW_S and answered_at < overtaken_at
        if in_time and not step.raises:
            answers.append((answered_at, number))
    return sorted(answers)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
@on_both
async def test_each_is_answered_when_it_is_due_and_once(steps: list[Step]) -> None:
    asked: list[Step] = []

    async def handle(question: Vote | Notice) -> Accept | Reject | None:
        step = asked[-1]
        assert question.event is step.event
        await anyio.sleep(step.handler_takes_s)
        if step.raises:
            raise ZeroDivisionError("mine")
        if isinstance(question, Notice):
            return None
        return Reject("no") if step.event is Event.STOP else Accept()

    answers: list[tuple[float, int]] = []
    windows = ["vote_s", "shutdown_notice_s", "suspend_notice_s", "resume_notice_s"]
    options = dict.fromkeys(windows, WINDOW_S)
    with tempfile.TemporaryDirectory() as place:
        async with (
            attending(Path(place), on_vote=handle, on_notice=handle, **options) as guest,
            anyio.create_task_group() as tasks,
        ):
            begun = anyio.current_time()

            async def listen() -> None:
                while True:
                    answer = await guest.hear()
                    at = round(anyio.current_time() - begun, 2)
                    if isinstance(answer, AppChallengeResponse):
                        answers.append((at, answer.heartbeat_response))
                        continue
                    assert isinstance(answer, AppActionResponse)
                    step = steps[answer.invocation_id]
                    assert (answer.event_type, answer.vote_result, answer.log_msg) == (
                        step.event,
                        "complete"
                        if not step.vote
                        else "reject"
                        if step.event is Event.STOP
                        else "accept",
                        "no" if step.vote and step.event is Event.STOP else "",
                    )
                    answers.append((at, answer.invocation_id))

            tasks.start_soon(listen)
            for number, step in enumerate(steps):
                if step.event is None:
                    await guest.say(AppChallenge(number))
                else:
                    asked.append(step)
                    question = guest.question(step.event, vote=step.vote)
                    await guest.say(msgspec.structs.replace(question, invocation_id=number))
                await anyio.sleep(step.then_s)
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
    assert sorted(answers) == expected(steps)

"""An application of ours in the place of a recorded one, facing the recorded guest daemon."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec
import pytest

from app.backends import on_both
from app.scripted_guest import listening
from hbtrio.app import Accept, Application, Reject, Vote
from hbtrio.wire.app_codec import AppDecoder, encode
from hbtrio.wire.app_messages import AppActionResponse, AppMessage
from hbtrio.wire.vocabulary import VoteResult
from wire.captured import APP_TO_GUEST, api_capture


def plain(message: AppMessage) -> AppMessage:
    """Without the words that the recorded applications put into answers other than reject."""
    if isinstance(message, AppActionResponse) and message.vote_result is not VoteResult.REJECT:
        return msgspec.structs.replace(message, log_msg="")
    return message


# The other connection of the second recording is of an application that was killed.
@on_both
@pytest.mark.parametrize(
    ("recording", "connection", "name", "action"),
    [
        ("i1_two_apps_api", 1, "app-yes", "reboot"),
        ("i1_two_apps_api", 2, "app-no", "reboot"),
        ("i4_app_hb_timeout_api", 2, "fine", "reboot"),
    ],
)
async def test_it_says_byte_for_byte_what_the_recorded_one_said(
    tmp_path: Path, recording: str, connection: int, name: str, action: str
) -> None:
    recorded = [m for m in api_capture(recording) if m.connection == connection]

    async def vote(_: Vote) -> Accept | Reject:
        return Reject("no from B") if name == "app-no" else Accept()

    heard = b""
    async with listening(tmp_path / "api") as guest:
        app = Application(
            name,
            vote_s=8,
            shutdown_notice_s=5,
            suspend_notice_s=5,
            resume_notice_s=5,
            corrective_action=action,
            on_vote=vote,
            socket=guest.path,
        )
        await app.__aenter__()
        async with guest.connection() as connected:
            # Each of them speaks when the recorded one had; the last word is the farewell.
            for message in recorded[:-1]:
                if message.direction == APP_TO_GUEST:
                    heard += await connected.receive(len(message.data))
                else:
                    await connected.send(message.data)
                await anyio.sleep(0.001)
            await app.__aexit__(None, None, None)
            heard += await connected.receive()

    said = b""
    for number, message in enumerate(m for m in recorded if m.direction == APP_TO_GUEST):
        (decoded,) = AppDecoder().feed(message.data)
        said += encode(plain(decoded), number + 1)
    assert heard == said

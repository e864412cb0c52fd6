"""Tells the story of one instance: why it is as it is, and why nothing is done."""

from __future__ import annotations

import argparse
from typing import Final

from hbtrio.cli.ctl.facts import write_paragraph
from hbtrio.cli.ctl.instances import instance_of
from hbtrio.cli.ctl.past import happened
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.story import story_of
from hbtrio.cli.ctl.times import stamp
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus
from hbtrio.wire.operator import EventFilter

#: As many events as a story has.
_EVENTS: Final = 12


async def tell(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Tells the story of an instance.

    Raises:
        UserError: what went wrong.
    """
    uuid = await instance_of(options.uuid, client)
    detail = await client.instance(uuid)
    story = story_of(detail, await happened(client, EventFilter(uuid=uuid), _EVENTS))
    if options.json:
        past = [{"time": time, "text": text} for time, text in story.past]
        whole = {"uuid": uuid, "now": story.now, "past": past, "next": story.next}
        screen.json(whole)
        return ExitStatus.DONE
    for text in story.now:
        write_paragraph(screen, "", text)
    if story.past:
        screen.line()
    for time, text in story.past:
        write_paragraph(screen, f"{stamp(time)}  ", text)
    if story.next:
        screen.line()
    for text in story.next:
        write_paragraph(screen, "", text)
    return ExitStatus.DONE

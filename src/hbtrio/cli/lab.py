"""Try everything: an agent, two hosts and three guests on this machine, and a tour of what they do.

The daemons, and two applications in a guest, are real processes in a temporary directory below
TMPDIR; the lab plays QEMU, libvirt and the VIM. It ends with what was expected and what was seen.
If anything differed, the ends of the processes' logs follow on standard error and the exit status
is 1. Whatever happens, Ctrl-C included, every process is ended and the directory, with the logs, is
removed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.lab.cloud import Cloud, open_cloud
from hbtrio.lab.daemon import DaemonDied
from hbtrio.lab.steps import TOUR
from hbtrio.lab.tour import Tour
from hbtrio.lab.view import summary, view_of_stdout, write
from hbtrio.text import printable_lines

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--keep", action="store_true", help="keep everything running after the tour, until Ctrl-C"
    )


def run(options: argparse.Namespace) -> int:
    """Plays the tour; 128 and the signal's number if one ended it early.

    Raises:
        UserError: the scene can't be set, or one of its daemons ended by itself.
    """
    return trio.run(partial(_run, keep=options.keep))


async def _run(*, keep: bool) -> int:
    # Open to the very end: a second Ctrl-C must not leave half of the processes behind.
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        try:
            async with open_cloud() as cloud:
                return await _play(Tour(cloud, TOUR), signals, keep=keep)
        except DaemonDied as died:
            raise UserError(str(died), ExitStatus.FAILED) from died


async def _play(tour: Tour, signals: AsyncIterator[int], *, keep: bool) -> int:
    numbers: list[int] = []
    if keep:
        await write(f"To see it in a browser: {tour.cloud.agent.url}/\n")

    async def end_on_signal() -> None:
        numbers.append(await anext(signals))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal)
        async with trio.open_nursery() as showing:
            showing.start_soon(view_of_stdout().run, tour)
            await tour.play()
        await write(summary(tour))
        if not tour.agrees:
            print(printable_lines(tour.cloud.logs()), file=sys.stderr)
        if keep:
            await write(_how_to_talk(tour.cloud))
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    if not tour.is_over:
        return 128 + numbers[0]
    return ExitStatus.DONE if tour.agrees else ExitStatus.FAILED


def _how_to_talk(cloud: Cloud) -> str:
    itself = sys.argv[0]
    if os.path.basename(itself) != "hbtrio":
        itself = f"{sys.executable} -m hbtrio"
    token = shlex.quote(str(cloud.agent.token_file))
    agent = f"{itself} ctl --url {cloud.agent.url} --token-file {token}"
    host = f"{itself} ctl --url {shlex.quote(cloud.hosts['compute-0'].url)}"
    return "\n".join(
        [
            "",
            f"Everything goes on in {cloud.directory} until Ctrl-C. In a browser:",
            f"  {cloud.agent.url}/ (to act there, the token is in {token})",
            "To talk to the agent:",
            f"  {agent} status",
            f"  {agent} history",
            f"  {agent} vote db stop",
            f"  {agent} act web reboot",
            "To a host:",
            f"  {host} status",
            f"  {host} events --follow",
            "And as the VIM does:",
            f"  curl -A vim/1.0 http://127.0.0.1:{cloud.agent.vim_port}/v1/instances/"
            f"{next(iter(cloud.guests))}",
        ]
    )

"""Shows an output that is longer than the terminal in the user's pager, as git does.

The pager is ``$PAGER``, or else ``less``; where there is none, or ``PAGER`` is empty or ``cat``,
all is written at once. ``less`` gets ``LESS=FRX`` unless the user has set it: short texts stay on
the screen, colours are shown, and what was read remains there. It also gets ``LESSSECURE=1``, so
that whoever may run ``hbtrio ctl`` as another user gets no shell through it.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from hbtrio.cli.ctl.screen import Screen

#: What the pager gets in its environment.
_SECURE: Final = {"LESSSECURE": "1"}
_LESS: Final = {"LESS": "FRX", "LV": "-c"}


@contextmanager
def paged(screen: Screen, environment: Mapping[str, str]) -> Iterator[None]:
    """Holds what is written to a screen until the end, and shows it then.

    Args:
        screen: of which at a pipe nothing is paged.
        environment: as ``os.environ``.

    Raises:
        UserError: standard output can't be written.
        BrokenPipeError: its reader has gone.

    If what is inside fails, what it has written so far is written without a pager. A pager that the
    user ends early is no fault.
    """
    screen.hold()
    try:
        yield
    except BaseException:
        screen.write(screen.release())
        raise
    text = screen.release()
    # What fits stays on the screen, with the prompt below it.
    fits = text.count("\n") < shutil.get_terminal_size().lines
    command = () if fits or not screen.terminal else pager_of(environment)
    if not (command and _shown(command, text, environment)):
        screen.write(text)


def pager_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The words of the pager's command; none if there is no pager."""
    chosen = environment.get("PAGER")
    try:
        words = tuple(shlex.split("less" if chosen is None else chosen))
    except ValueError:  # a quotation mark without its pair
        return ()
    if not words or words == ("cat",) or shutil.which(words[0]) is None:
        return ()
    return words


def _shown(command: tuple[str, ...], text: str, environment: Mapping[str, str]) -> bool:
    """Runs the pager until the user ends it; returns whether it could be started."""
    # Ctrl-C is the pager's: it ends a search there. Taken by a handler, unlike an ignored signal,
    # it is not ignored in the pager.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, env={**_LESS, **environment, **_SECURE}
        ) as pager:
            assert pager.stdin is not None
            with suppress(BrokenPipeError):
                pager.stdin.write(text.encode())
            with suppress(BrokenPipeError):
                pager.stdin.close()
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return True

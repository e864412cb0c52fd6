"""The ``hbtrio`` command: one module for each subcommand, imported only when it is asked for.

The guest runs in small VMs, so that nothing of the host's or the agent's may be imported on its
way. This module is also the one boundary where faults become a line on standard error and an exit
status, and where a programming error becomes a traceback and status 70.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from types import ModuleType
from typing import Any, Final, NoReturn

import hbtrio
from hbtrio.cli.extras import NEEDS, require
from hbtrio.errors import ExitStatus, UserError
from hbtrio.output import discard_output, write_out
from hbtrio.stderr import write_stderr_within
from hbtrio.text import printable, printable_lines

COMMANDS: Final[dict[str, str]] = {
    "guest": "run the daemon inside a VM",
    "host": "run the daemon on a compute host",
    "agent": "run the daemon on the controller",
    "ctl": "ask a daemon, or make it act",
    "apps": "in a VM: list the applications that are registered",
    "inhibit": "in a VM: reject events while a command runs",
    "lab": "try everything on this machine: an agent, two hosts, three guests",
    "simulate": "simulate a fleet in which everything goes wrong, seed by seed",
    "check-config": "check a configuration file",
    "files": "list or copy the files that come with it: configuration, units, documentation",
}

#: Commands that a service manager ends: they must not wait for a reader of their last words.
DAEMONS: Final = ("guest", "host", "agent")

#: How long the last words of a daemon may take, in seconds.
_LAST_WORDS_S: Final = 1.0

#: What ends a process or has it reload. Whoever started us may have blocked them, and a mask is
#: inherited over exec; a blocked TERM would wait for good.
_MEANT_FOR_US: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_USAGE: Final = "\n".join(
    [
        "usage: hbtrio COMMAND [OPTION...]",
        "",
        *(f"  {name:14}{text}" for name, text in COMMANDS.items()),
        "",
        "`hbtrio COMMAND --help` explains a command; `hbtrio --version` says which one this is.",
    ]
)


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one line, as all others."""

    def error(self, message: str) -> NoReturn:
        """Raises the fault for :func:`main` to print."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def print_help(self, file: Any = None) -> None:
        """Explains the command; a standard output that takes nothing is a fault as all others."""
        write_out(self.format_help())


def main(arguments: list[str] | None = None) -> int:
    """Runs ``hbtrio`` with ``arguments`` (the process's by default); returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _MEANT_FOR_US)
    try:
        return _run(words)
    except UserError as error:
        prefix = f"hbtrio {words[0]}" if words and words[0] in COMMANDS else "hbtrio"
        lines = [f"{prefix}: {printable(line)}\n" for line in str(error).splitlines()]
        _complain(words, "".join(lines))
        return error.status
    except BrokenPipeError:
        discard_output()  # whoever read us has had enough
        return ExitStatus.FAILED
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 - the boundary for programming errors
        _complain(words, printable_lines(traceback.format_exc()))
        return ExitStatus.INTERNAL


def _complain(words: list[str], text: str) -> None:
    if words and words[0] in DAEMONS:
        write_stderr_within(text, _LAST_WORDS_S)
    else:
        print(text, end="", file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words:
        print(_USAGE, file=sys.stderr)
        return ExitStatus.USAGE
    if words[0] in ("-h", "--help"):
        write_out(f"{_USAGE}\n")
        return ExitStatus.DONE
    if words[0] == "--version":
        write_out(f"hbtrio {hbtrio.__version__}\n")
        return ExitStatus.DONE
    if words[0] not in COMMANDS:
        raise UserError(f"no command {words[0]!r}; there are {', '.join(COMMANDS)}")
    if words[0] in NEEDS:
        require(NEEDS[words[0]])
    parser = Parser(prog=f"hbtrio {words[0]}")
    command = add_command(words[0], parser)
    status: int = command.run(parser.parse_args(words[1:]))
    return status


def add_command(name: str, parser: argparse.ArgumentParser) -> ModuleType:
    """Imports a command, declares its options and what it does, and returns its module."""
    command = importlib.import_module(f"hbtrio.cli.{name.replace('-', '_')}")
    parser.description = command.__doc__
    command.add_arguments(parser)
    return command

"""Checks a configuration file and reports all its faults at once; status 2 if there are any."""

from __future__ import annotations

import argparse
import os

from hbtrio.config.agent import load_agent_config
from hbtrio.config.guest import load_guest_config
from hbtrio.config.host import load_host_config
from hbtrio.config.source import printable
from hbtrio.errors import ExitStatus
from hbtrio.output import write_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "file", metavar="FILE", help="host.toml, agent.toml or a guest_heartbeat.conf"
    )


def run(options: argparse.Namespace) -> int:
    """Checks the file.

    Raises:
        ConfigError: its faults.
    """
    if not options.file.endswith(".toml"):
        load_guest_config(options.file)
    elif "agent" in os.path.basename(options.file):
        load_agent_config(options.file)
    else:
        load_host_config(options.file)
    write_out(f"{printable(options.file)}: correct\n")
    return ExitStatus.DONE

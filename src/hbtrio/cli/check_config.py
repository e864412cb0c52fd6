"""Checks a configuration file and reports all its faults at once; status 2 if there are any."""

from __future__ import annotations

import argparse

from hbtrio.config.guest import load_guest_config
from hbtrio.config.host import load_host_config
from hbtrio.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("file", metavar="FILE", help="host.toml, or a guest_heartbeat.conf")


def run(options: argparse.Namespace) -> int:
    """Checks the file.

    Raises:
        ConfigError: its faults.
    """
    if options.file.endswith(".toml"):
        load_host_config(options.file)
    else:
        load_guest_config(options.file)
    print(f"{options.file}: correct")
    return ExitStatus.DONE

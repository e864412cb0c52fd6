"""Runs on a compute host: heartbeats every VM, runs votes and notices, and reports.

The other options override FILE. SIGTERM ends it, once the actions in progress are over or
stop_grace_s has passed; a second one ends it at once. The VMs only see that the connection closes.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

import attrs
import trio

from hbtrio.config.host import DEFAULT_HOST_CONFIG, HostConfig
from hbtrio.config.toml import load_toml, structure
from hbtrio.daemons.host import serve_host
from hbtrio.daemons.machine.host import open_host_world
from hbtrio.errors import ExitStatus, UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options; those that are keys of the configuration too outrank it."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_HOST_CONFIG})"
    )
    parser.add_argument("--channel-dir", metavar="DIR", help="directory of the channel sockets")
    parser.add_argument("--control-socket", metavar="PATH", help="unix socket for `hbtrio ctl`")
    parser.add_argument(
        "--events", metavar="FILE|-", help="file for events, as JSON lines; -: standard output"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="directory for what is remembered across restarts"
    )
    parser.add_argument("--log", choices=("stderr", "syslog"), help="destination of the log")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="what the log looks like (json: an object on each line, for programs)",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        UserError: the configuration, a socket or a directory can't be used.
    """
    config = _load(options)
    file = str(options.config or DEFAULT_HOST_CONFIG)
    with open_host_world(config, file) as world:
        trio.run(serve_host, config, file, world)
    return ExitStatus.DONE


def _load(options: argparse.Namespace) -> HostConfig:
    if options.config is None:
        config = load_toml(DEFAULT_HOST_CONFIG, HostConfig, missing_ok=True)
    else:
        config = load_toml(options.config, HostConfig)
    given: dict[str, Any] = {
        name: value
        for name in ("channel_dir", "control_socket", "events", "state_dir", "log", "log_format")
        if (value := getattr(options, name)) is not None
    }
    for name in ("channel_dir", "control_socket", "events", "state_dir"):
        if given.get(name) not in (None, "", "-"):
            given[name] = os.path.abspath(given[name])
    # systemd's: the first of several, which are separated by colons.
    systemd_dir = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if systemd_dir and not (given.get("state_dir") or config.state_dir):
        given["state_dir"] = systemd_dir
    # The same checks as for the file, with the option's name in the fault.
    structure(given, HostConfig, "options")
    try:
        return attrs.evolve(config, **{"hostname": config.hostname or platform.node(), **given})
    except ValueError as error:  # what the options and the file make together
        raise UserError(f"options: {error}") from error

"""Runs on the controller: serves the VIM, commands the hosts and delivers what they report.

--log and --log-format override FILE. SIGTERM ends it; undelivered reports stay in the store.
"""

from __future__ import annotations

import argparse
import platform

import attrs
import trio

from hbtrio.cli.extras import CLUSTER, require
from hbtrio.config.agent import DEFAULT_AGENT_CONFIG, AgentConfig
from hbtrio.config.toml import load_toml
from hbtrio.daemons.agent import serve_agent
from hbtrio.daemons.machine.agent import open_agent_world
from hbtrio.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_AGENT_CONFIG})"
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
        UserError: the configuration, the store or an address can't be used; MISSING_PACKAGE if
            there is no client of the database.
    """
    if options.config is None:
        config = load_toml(DEFAULT_AGENT_CONFIG, AgentConfig, missing_ok=True)
    else:
        config = load_toml(options.config, AgentConfig)
    config = attrs.evolve(
        config,
        name=config.name or platform.node(),
        log=options.log or config.log,
        log_format=options.log_format or config.log_format,
    )
    if config.store.url:
        require(CLUSTER)
    file = str(options.config or DEFAULT_AGENT_CONFIG)
    with open_agent_world(config, file) as world:
        trio.run(serve_agent, config, file, world)
    return ExitStatus.DONE

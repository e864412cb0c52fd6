"""Runs inside a VM: answers challenges, runs the health script, votes, and receives notices.

Applications in the VM register at a unix socket. SIGHUP reloads the configuration; SIGTERM signs
off from the host and ends the daemon.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial

import trio

from hbtrio.config.guest import DEFAULT_GUEST_CONFIG, GuestConfig, load_guest_config
from hbtrio.daemons.guest import serve_guest
from hbtrio.daemons.machine.guest import channel_device, guest_world
from hbtrio.errors import ExitStatus
from hbtrio.log import Subject, logging_to
from hbtrio.log.limits import GUEST_PLACE_RATE, LineLimits
from hbtrio.nursery.guest.named_port import DEFAULT_DEVICE, PORT_NAME
from hbtrio.wire.app_socket import APP_SOCKET_VARIABLE, DEFAULT_APP_SOCKET


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_GUEST_CONFIG})"
    )
    parser.add_argument("--name", help="what the host calls this VM (default: the host name)")
    parser.add_argument(
        "--device",
        metavar="PATH",
        help=f"character device or unix socket (default: the port named {PORT_NAME}, else "
        f"{DEFAULT_DEVICE} if it has no name)",
    )
    parser.add_argument(
        "--wait-device",
        action="store_true",
        help="wait for a device that is missing at the start (default: end with status 6)",
    )
    parser.add_argument(
        "--app-socket",
        metavar="PATH",
        help=f"unix socket where applications register (default: ${APP_SOCKET_VARIABLE}, else "
        f"{DEFAULT_APP_SOCKET}; if it can't be created there, the guest runs without applications)",
    )
    parser.add_argument(
        "--log",
        choices=("stderr", "syslog"),
        default="stderr",
        help="destination of the log (default %(default)s)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="what the log looks like (default %(default)s; json: an object on each line, "
        "for programs)",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        UserError: the configuration or the device can't be used.
    """
    config = _load(options)
    name = options.name or platform.node()
    device = channel_device(options.device, wait=options.wait_device)
    with logging_to(
        options.log,
        ident="Guest-Client",
        log_format=options.log_format,
        prefix="Guest-Client",
        limits=LineLimits(GUEST_PLACE_RATE),
        own=Subject(name=name),
    ):
        world = guest_world(device, options.app_socket, partial(_load, options))
        trio.run(serve_guest, name, config, world)
    return ExitStatus.DONE


def _load(options: argparse.Namespace) -> GuestConfig:
    if options.config is None:
        return load_guest_config(missing_ok=True)
    return load_guest_config(options.config)

"""Runs inside a VM: answers challenges, runs the health script, votes, and receives notices.

Applications in the VM register at a unix socket. SIGHUP reloads the configuration; SIGTERM signs
off from the host and ends the daemon.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import resource
import signal
from functools import partial

import trio

from hbtrio.config.guest import DEFAULT_GUEST_CONFIG, GuestConfig, load_guest_config
from hbtrio.errors import ConfigError, ExitStatus
from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.log import Subject, logging_to
from hbtrio.log.limits import GUEST_PLACE_RATE, LineLimits
from hbtrio.nursery.guest.app_socket import AppSocket
from hbtrio.nursery.guest.app_status import AppStatusSocket
from hbtrio.nursery.guest.applications import MAX_CONNECTIONS, Applications
from hbtrio.nursery.guest.daemon import Guest, GuestSetup
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.named_port import DEFAULT_DEVICE, PORT_NAME, NamedPort
from hbtrio.nursery.guest.path_device import PathDevice
from hbtrio.nursery.guest.voters import AllVoters
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import ProcessRunner, SystemProcesses
from hbtrio.system.sd_notify import ServiceManager
from hbtrio.wire.app_socket import (
    APP_SOCKET_VARIABLE,
    DEFAULT_APP_SOCKET,
    configured_app_socket,
    status_socket,
)
from hbtrio.wire.channel_messages import MAX_ID

_log = logging.getLogger("hbtrio.guest")

#: Open files that are not applications': the channel, scripts and their output, the log.
_OTHER_FILES = 128


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
    device = PathDevice(options.device) if options.device else NamedPort()
    device.check(wait=options.wait_device)
    with logging_to(
        options.log,
        ident="Guest-Client",
        log_format=options.log_format,
        prefix="Guest-Client",
        limits=LineLimits(GUEST_PLACE_RATE),
        own=Subject(name=_name(options)),
    ):
        trio.run(_serve, options, config, device)
    return ExitStatus.DONE


def _load(options: argparse.Namespace) -> GuestConfig:
    if options.config is None:
        return load_guest_config(missing_ok=True)
    return load_guest_config(options.config)


def _name(options: argparse.Namespace) -> str:
    return options.name or platform.node()


def _setup(
    options: argparse.Namespace,
    device: PathDevice,
    processes: ProcessRunner,
    applications: Applications,
    config: GuestConfig,
) -> GuestSetup:
    scripts = EventScripts(config.event_notification_script, processes)
    return GuestSetup(
        device=device,
        voters=AllVoters(scripts, applications),
        session=SessionSettings(
            name=_name(options),
            hb_interval_ms=config.hb_interval_ms,
            hb_init_retry_ms=config.hb_init_retry_ms,
            hb_min_timeout_ms=config.hb_min_timeout_ms,
            vote_s=config.vote_s,
            shutdown_notice_s=config.shutdown_notice_s,
            suspend_notice_s=config.suspend_notice_s,
            resume_notice_s=config.resume_notice_s,
            restart_s=config.restart_s,
            corrective_action=config.corrective_action,
        ),
        health_script=HealthScript(
            config.health_check_script,
            config.health_check_interval_s,
            processes,
            config.health_check_timeouts,
            config.health_timeout_action,
        ),
        new_id=_new_id,
    )


def _new_id() -> int:
    return random.randint(0, MAX_ID)


def _room() -> tuple[int, str]:
    """How many applications there is room for, and why not for more."""
    enough = MAX_CONNECTIONS + _OTHER_FILES
    allow_descriptors(enough)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= enough:
        return MAX_CONNECTIONS, ""
    return max(1, files - _OTHER_FILES), f"the limit of open files (ulimit -n) is {files}"


async def _serve(options: argparse.Namespace, config: GuestConfig, device: PathDevice) -> None:
    manager = ServiceManager.of(os.environ, os.getpid())
    guard = OnTimeGuard(trio.current_time())
    applications = Applications(_new_id, guard, *_room())
    app_path = configured_app_socket(options.app_socket, os.environ)
    app_socket = AppSocket(app_path, applications)
    app_status = AppStatusSocket(status_socket(app_path or DEFAULT_APP_SOCKET), applications.status)
    with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
        # After the signals: whoever sees the socket may send TERM, and its end removes the socket.
        # Before the first nursery, which would wrap its fault.
        await app_socket.open(config.app_socket_bits, config.app_socket_group)
        await app_status.open()
        async with (
            SystemProcesses() as processes,
            manager.keep_alive(),
            trio.open_nursery() as nursery,
        ):
            setup = partial(_setup, options, device, processes, applications)
            guest = Guest(setup(config), guard)

            async def beat() -> None:
                await guest.run()
                nursery.cancel_scope.cancel()  # what applications say now would reach nobody

            nursery.start_soon(beat)
            nursery.start_soon(app_socket.serve)
            nursery.start_soon(app_status.serve)
            manager.ready()
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                manager.reloading()
                try:
                    config = _load(options)
                except ConfigError as error:
                    # The daemon goes on with what it has: a typo must not end the heartbeat.
                    for fault in error.faults:
                        _log.error("not reloaded: %s", fault)
                else:
                    _log.info("configuration read again")
                    guest.reload(setup(config))
                    await app_socket.reload(config.app_socket_bits, config.app_socket_group)
                    await app_status.open()
                manager.ready()
            manager.stopping()
            guest.stop()

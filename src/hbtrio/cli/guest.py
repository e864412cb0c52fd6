"""Runs inside a VM: answers the host's challenges, runs the health script, votes and is told.

SIGHUP reads the configuration again; SIGTERM says farewell to the host.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import signal

import trio

from hbtrio.config.guest import DEFAULT_GUEST_CONFIG, GuestConfig, load_guest_config
from hbtrio.errors import ConfigError, ExitStatus
from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.log import logging_to
from hbtrio.nursery.devices import PathDevice
from hbtrio.nursery.event_scripts import EventScripts
from hbtrio.nursery.guest import Guest, GuestSetup
from hbtrio.nursery.health_script import HealthScript
from hbtrio.nursery.processes import ProcessRunner, SystemProcesses
from hbtrio.wire.messages import MAX_ID

_log = logging.getLogger("hbtrio.guest")

#: What the deployed client opens when it is told nothing.
DEFAULT_DEVICE = "/dev/vport1p1"

#: Where udev puts the port by name; preferred, for its number changes with the VM's other devices.
NAMED_DEVICE = "/dev/virtio-ports/cgcs.heartbeat"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_GUEST_CONFIG})"
    )
    parser.add_argument("--name", help="what the host calls this VM (default: the host name)")
    parser.add_argument(
        "--device",
        metavar="PATH",
        help=f"character device or unix socket (default {NAMED_DEVICE}, else {DEFAULT_DEVICE})",
    )
    parser.add_argument(
        "--app-socket",
        metavar="PATH",
        help="where applications will register; this version serves none and says so in its log",
    )
    parser.add_argument("--log", choices=("stderr", "syslog"), default="stderr")


def run(options: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        UserError: the configuration or the device can't be used.
    """
    config = _load(options)
    device = PathDevice(options.device or _default_device())
    device.check()
    with logging_to(options.log, ident="Guest-Client", prefix="Guest-Client"):
        if options.app_socket:
            _log.warning("%s: applications are not served by this version", options.app_socket)
        trio.run(_serve, options, config, device)
    return ExitStatus.DONE


def _load(options: argparse.Namespace) -> GuestConfig:
    if options.config is None:
        return load_guest_config(missing_ok=True)
    return load_guest_config(options.config)


def _default_device() -> str:
    return NAMED_DEVICE if os.path.exists(NAMED_DEVICE) else DEFAULT_DEVICE


def _setup(
    options: argparse.Namespace,
    config: GuestConfig,
    device: PathDevice,
    processes: ProcessRunner,
) -> GuestSetup:
    return GuestSetup(
        device=device,
        voters=EventScripts(config.event_notification_script, processes),
        session=SessionSettings(
            name=options.name or platform.node(),
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
            config.health_check_script, config.health_check_interval_s, processes
        ),
        new_id=lambda: random.randint(0, MAX_ID),
    )


async def _serve(options: argparse.Namespace, config: GuestConfig, device: PathDevice) -> None:
    with trio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM, signal.SIGINT) as signals:
        async with SystemProcesses() as processes, trio.open_nursery() as nursery:
            guest = Guest(_setup(options, config, device, processes))
            nursery.start_soon(guest.run)
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                try:
                    config = _load(options)
                except ConfigError as error:
                    # The daemon goes on with what it has: a typo must not end the heartbeat.
                    for fault in error.faults:
                        _log.error("not reloaded: %s", fault)
                    continue
                _log.info("configuration read again")
                guest.reload(_setup(options, config, device, processes))
            guest.stop()

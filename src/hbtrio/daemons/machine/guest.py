"""The world of the guest daemon on this machine."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from functools import partial

from hbtrio.config.guest import GuestConfig
from hbtrio.daemons.guest import GuestWorld
from hbtrio.daemons.machine.process import receive_signals
from hbtrio.nursery.guest.app_socket import app_listen
from hbtrio.nursery.guest.app_status import status_listen
from hbtrio.nursery.guest.applications import MAX_CONNECTIONS
from hbtrio.nursery.guest.named_port import NamedPort
from hbtrio.nursery.guest.path_device import PathDevice
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import SystemProcesses
from hbtrio.system.sd_notify import ServiceManager
from hbtrio.wire.app_socket import DEFAULT_APP_SOCKET, configured_app_socket, status_socket
from hbtrio.wire.channel_messages import MAX_ID

#: Open files that are not applications': the channel, scripts and their output, the log.
_OTHER_FILES = 128


def channel_device(path: str | None, *, wait: bool) -> PathDevice:
    """Returns the device at a path, or the port that has the heartbeat's name.

    Args:
        path: the device; None: the named port.
        wait: accept a device that is missing.

    Raises:
        UserError: it can't be used, see :meth:`PathDevice.check`.
    """
    device = PathDevice(path) if path else NamedPort()
    device.check(wait=wait)
    return device


def guest_world(
    device: PathDevice, app_socket: str | None, reload: Callable[[], GuestConfig]
) -> GuestWorld:
    """Returns the guest's world.

    Args:
        device: its end of the channel.
        app_socket: the applications' socket that was asked for; None: that of the environment, or
            the default.
        reload: reads the configuration again.
    """
    manager = ServiceManager.of(os.environ, os.getpid())
    room, bounded_by = _room()
    configured = configured_app_socket(app_socket, os.environ)
    path = configured or DEFAULT_APP_SOCKET

    return GuestWorld(
        device=device,
        signals=receive_signals,
        app_socket=app_listen(path),
        app_socket_required=configured is not None,
        app_status=status_listen(status_socket(path)),
        max_applications=room,
        applications_bounded_by=bounded_by,
        processes=SystemProcesses,
        reload=reload,
        manager=manager,
        new_id=partial(random.randint, 0, MAX_ID),
    )


def _room() -> tuple[int, str]:
    """How many applications there is room for, and why not for more."""
    enough = MAX_CONNECTIONS + _OTHER_FILES
    allow_descriptors(enough)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= enough:
        return MAX_CONNECTIONS, ""
    return max(1, files - _OTHER_FILES), f"the limit of open files (ulimit -n) is {files}"

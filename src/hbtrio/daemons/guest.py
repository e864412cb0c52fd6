"""Composes the guest daemon: its core, and the sockets of the applications in its VM.

signals, applications' socket, applications' status
  processes, keep-alive of the service manager
    guest           see hbtrio/nursery/guest/daemon.py
    applications, applications' status
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import trio

from hbtrio.config.guest import GuestConfig
from hbtrio.daemons.signals import Signals, until_term
from hbtrio.errors import ConfigError
from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.nursery.guest.app_socket import AppListen, AppSocket
from hbtrio.nursery.guest.app_status import AppStatusSocket, StatusListen
from hbtrio.nursery.guest.applications import MAX_CONNECTIONS, Applications
from hbtrio.nursery.guest.daemon import Guest, GuestSetup
from hbtrio.nursery.guest.device import Device
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.script_search import ScriptSearch, Search
from hbtrio.nursery.guest.voters import AllVoters, Voters
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.sd_notify import ServiceManager

_log = logging.getLogger("hbtrio.guest")


class GuestWorld(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest reaches outside itself.

    Args:
        device: its end of the channel.
        signals: receives the signals.
        app_socket: opens the socket where applications register; raises UserError.
        app_socket_required: whether the guest ends if that socket can't be opened; else it goes on
            without applications.
        app_status: opens the socket where the applications are listed; raises UserError.
        max_applications: connections of applications at once, at most.
        applications_bounded_by: the limit that ``max_applications`` comes from, for the log.
        script_search: makes what looks for the event scripts of a path.
        voters: further voters, beside scripts and applications.
        processes: opens what runs commands.
        reload: reads the configuration again; raises ConfigError.
        manager: the service manager.
        run_guard: ticks the on-time guard.
        new_id: makes ids in 0..2^31-1.
    """

    device: Device
    signals: Signals
    app_socket: AppListen
    app_socket_required: bool
    app_status: StatusListen
    max_applications: int = MAX_CONNECTIONS
    applications_bounded_by: str = ""
    script_search: Search = ScriptSearch
    voters: tuple[Voters, ...] = ()
    processes: Callable[[], AbstractAsyncContextManager[ProcessRunner]]
    reload: Callable[[], GuestConfig]
    manager: ServiceManager
    run_guard: GuardRunner = run_guard
    new_id: Callable[[], int]


async def serve_guest(name: str, config: GuestConfig, world: GuestWorld) -> None:
    """Runs a guest until a signal ends it, which signs off from the host.

    Args:
        name: what the host calls this VM.
        config: its configuration.
        world: what it reaches outside itself.

    Raises:
        UserError: the applications' socket can't be opened, and is required.
    """
    manager = world.manager
    guard = OnTimeGuard(trio.current_time())
    applications = Applications(
        world.new_id, guard, world.max_applications, world.applications_bounded_by
    )
    app_socket = AppSocket(world.app_socket, applications, required=world.app_socket_required)
    app_status = AppStatusSocket(world.app_status, applications.status)
    with world.signals() as signals:
        # After the signals: whoever sees the socket may send TERM, and its end removes the socket.
        # Before the first nursery, which would wrap its fault.
        await app_socket.open(config.app_socket_bits, config.app_socket_group)
        await app_status.open()
        async with (
            world.processes() as processes,
            manager.keep_alive(),
            trio.open_nursery() as nursery,
        ):
            guest = Guest(
                _setup(name, config, world, processes, applications), guard, world.run_guard
            )
            applications.on_withdrawn = guest.reject_withdrawn

            async def beat() -> None:
                await guest.run()
                nursery.cancel_scope.cancel()  # what applications say now would reach nobody

            async def hang_up() -> None:
                manager.reloading()
                try:
                    reloaded = world.reload()
                except ConfigError as error:
                    # The daemon goes on with what it has: a typo must not end the heartbeat.
                    for fault in error.faults:
                        _log.error("not reloaded: %s", fault)
                else:
                    _log.info("configuration read again")
                    guest.reload(_setup(name, reloaded, world, processes, applications))
                    await app_socket.reload(reloaded.app_socket_bits, reloaded.app_socket_group)
                    await app_status.open()
                manager.ready()

            nursery.start_soon(beat)
            nursery.start_soon(app_socket.serve)
            nursery.start_soon(app_status.serve)
            manager.ready()
            await until_term(signals, hang_up)
            manager.stopping()
            guest.stop()


def _setup(
    name: str,
    config: GuestConfig,
    world: GuestWorld,
    processes: ProcessRunner,
    applications: Applications,
) -> GuestSetup:
    scripts = EventScripts(
        config.event_notification_script, processes, world.script_search, config.failure_rejects
    )
    return GuestSetup(
        device=world.device,
        voters=AllVoters(scripts, applications, *world.voters),
        session=SessionSettings(
            name=name,
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
        new_id=world.new_id,
        failure_rejects=config.failure_rejects,
    )

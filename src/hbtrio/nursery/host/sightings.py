"""Looks at a VM while an action stops, freezes or restarts it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.fsm.domain import Standing
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.fsm.sighting import Sighting
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.windows import within
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import ExpectedEffect

#: Seconds between two looks.
_LOOK_S: Final = 0.25

#: How long libvirt may take to answer before it is decided that a VM is not down, in seconds.
_ANSWERS_S: Final = 2.0

#: For so many seconds, or two intervals, a guest is challenged before it counts as silent.
_SILENT_S: Final = 7.0

#: How long the guest of an action that is resumed may take to answer again, in seconds.
SETTLES_S: Final = 10.0

#: The guest is challenged, and has not answered yet.
_UNSETTLED: Final = frozenset({HeartbeatState.WAITING, HeartbeatState.RETURNING})


class Sightings:
    """What is seen of the VMs of a host.

    Args:
        channel_of: returns the present channel of an instance, or None.
        domains: what libvirt knows of them.
        guard: the process's on-time guard.
    """

    def __init__(
        self,
        channel_of: Callable[[str], Channel | None],
        domains: Domains,
        guard: OnTimeGuard,
    ) -> None:
        self._channel_of = channel_of
        self._domains = domains
        self._guard = guard

    def of(self, uuid: str) -> Sighting:
        """Returns what is seen of an instance now."""
        channel = self._present(uuid)
        if channel is None:
            return Sighting(self._standing(uuid), has_socket=False, silent=True)
        return Sighting(
            self._standing(uuid),
            has_socket=not (channel.dialling.absent or channel.dialling.is_refused),
            silent=channel.heartbeat.is_silent,
        )

    async def until_down(self, uuid: str, effect: ExpectedEffect) -> None:
        """Waits until an instance's VM is down, or if ``effect`` is to freeze it, stands still."""
        while not self.of(uuid).is_down(effect):  # noqa: ASYNC110 - several sources tell
            await trio.sleep(_LOOK_S)

    async def is_down(self, uuid: str, effect: ExpectedEffect) -> bool:
        """Returns the same at once, or once libvirt has answered, within ``_ANSWERS_S``."""
        await self._domains.look([uuid], _ANSWERS_S)
        return self.of(uuid).is_down(effect)

    async def until_settled(self, uuid: str, *, answers: bool) -> None:
        """Waits until this host has found and connected to an instance, for ``SETTLES_S``.

        Args:
            uuid: the instance.
            answers: whether to wait for its first answer, too: a guest that has not been
                acknowledged yet agrees to any vote by itself.
        """
        with trio.move_on_after(SETTLES_S):
            while not self._is_settled(uuid, answers=answers):  # noqa: ASYNC110 - channels come and go
                await trio.sleep(_LOOK_S)

    async def took_effect(self, uuid: str, effect: ExpectedEffect, domain_id: int) -> bool:
        """Waits until it is seen whether an interrupted command took effect, and returns that.

        While a libvirt that is in use gives no answer, nothing is decided.

        Args:
            uuid: the instance.
            effect: what the command does to the VM.
            domain_id: libvirt's id of the domain before the command; -1 if it is unknown.
        """
        channel = self._present(uuid)
        seconds, sources = _SILENT_S, []
        if channel is not None:
            seconds = max(seconds, 2 * channel.heartbeat.profile.interval_s)
            sources.append(channel.take_in)
        verdict = partial(self._verdict, uuid, effect, domain_id)
        with suppress(trio.TooSlowError):
            return await within(
                seconds,
                self._guard,
                partial(_known, partial(verdict, silent=False)),
                sources=sources,
            )
        return await _known(partial(verdict, silent=True))

    def _verdict(
        self, uuid: str, effect: ExpectedEffect, domain_id: int, *, silent: bool
    ) -> bool | None:
        if self._domains.is_silent:
            return None
        channel = self._present(uuid)
        sighting = attrs.evolve(self.of(uuid), silent=silent)
        return sighting.took_effect(
            effect,
            answers=channel is not None and channel.heartbeat.beats > 0,
            renewed=0 <= domain_id != self._domains.id_of(uuid) >= 0,
        )

    def _is_settled(self, uuid: str, *, answers: bool) -> bool:
        channel = self._present(uuid)
        if channel is None or not channel.heartbeat.connected:
            return False
        return not answers or channel.heartbeat.state not in _UNSETTLED

    def _present(self, uuid: str) -> Channel | None:
        channel = self._channel_of(uuid)
        return None if channel is None or channel.gone else channel

    def _standing(self, uuid: str) -> Standing | None:
        domain = self._domains.of(uuid)
        if domain is None or self._domains.is_silent:
            return None
        return domain.state.standing if domain.listed else Standing.STOPPED


async def _known(verdict: Callable[[], bool | None]) -> bool:
    while (known := verdict()) is None:  # noqa: ASYNC110 - several sources tell
        await trio.sleep(_LOOK_S)
    return known

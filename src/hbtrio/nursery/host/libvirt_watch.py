"""Keeps what libvirt knows of each domain: name, state, reason, and finds its sockets.

Events are hints, answers are the truth. All domains are asked for at once: after each burst of
events, when ``virsh event`` has started, every ``RESYNC_S``, and for :meth:`LibvirtWatch.look`. A
lost or misread event costs a delay and no more.

    libvirt
      events      follows ``virsh event``
      questions   asks for the states of all domains
      channels    asks for the XML of domains that have started
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.known_domains import Domain, KnownDomains
from hbtrio.nursery.host.domain_channels import ChannelFinder
from hbtrio.nursery.host.virsh import LibvirtSilent, Virsh
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import Window
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.virsh import DomainHint, LiveXml

_log = logging.getLogger("hbtrio.libvirt")

#: Seconds between two answers at most.
RESYNC_S: Final = 10.0

#: Seconds until a libvirt in use that gave no answer is asked again.
RETRY_S: Final = 1.0

#: Seconds for which events are collected before the question.
_MERGE_S: Final = 0.02

#: Seconds by which a state may follow its event, with a margin; 40 ms were measured. An answer to a
#: question that was asked sooner after an event is not the last word.
LAG_S: Final = 0.1

#: Tenants can make events at will: over time, questions for their sake take a fifth of the time, a
#: few in a row go at once.
_SHARE: Final = 0.2
_BURST_S: Final = 1.0


class Source(Enum):
    """Where a :class:`Look` comes from."""

    ANSWER = "answer"  # libvirt has answered
    SILENCE = "silence"  # libvirt has not answered in time
    NONE = "none"  # libvirt is not in use, or it never knew this instance


@attrs.frozen
class Look:
    """The answer to a fresh question about one instance.

    Args:
        source: whether libvirt has answered.
        standing: what its state means; None unless libvirt has answered.
        words: for people and for ``{state}``: ``paused: saving``, ``libvirt unknown``.
        doubtful: for a silence: whether the last state or event known is not that of a running
            domain.
    """

    source: Source
    standing: Standing | None = None
    words: str = ""
    doubtful: bool = False


#: The look at an instance of which libvirt tells nothing.
NOT_IN_USE: Final = Look(Source.NONE)


@attrs.frozen
class DomainListener:
    """What the rest of the host wants to hear.

    Args:
        on_change: a domain has changed: the domain, and its changes in order.
        on_reset: a domain was reset or rebooted, by whomever; up to five times for one reset.
        on_channels: the sockets of a domain's heartbeat channels, by its uuid; none: it has ended.
        on_xml: called with the XML of a running domain, by its uuid, before ``on_channels``.
    """

    on_change: Callable[[Domain, tuple[DomainChange, ...]], None]
    on_reset: Callable[[Domain], None]
    on_channels: Callable[[str, tuple[str, ...]], None]
    on_xml: Callable[[str, LiveXml], None] = lambda _uuid, _xml: None


class LibvirtWatch:
    """Watches the domains of one libvirt.

    Args:
        virsh: asks it.
        listener: is called with each change.
        guard: the process's on-time guard.
        required: whether libvirt is in use even before its first answer; else a host without
            libvirt runs as if it had never been asked.
    """

    def __init__(
        self, virsh: Virsh, listener: DomainListener, guard: OnTimeGuard, *, required: bool
    ) -> None:
        #: Why libvirt gives no answer; empty while it does.
        self.fault = "not asked yet"
        #: Since when libvirt answers, or has not answered, on trio's clock.
        self.since = trio.current_time()
        #: Questions asked, for status.
        self.questions = 0
        self._virsh = virsh
        self._listener = listener
        self._guard = guard
        self._in_use = required
        self._wake = WakeUp()
        self._due = -math.inf
        self._answered = trio.Event()
        #: When the last question was asked that was answered, or may still be.
        self._asked_at = -math.inf
        #: When the last question that was answered had been asked.
        self._answer_from = -math.inf
        #: Until when no question is asked for the sake of an event.
        self._rests_until = -math.inf
        self._known = KnownDomains()
        #: The last event by name since the last answer: when, and whether it stops the domain.
        self._hints: dict[str, tuple[float, bool]] = {}
        self._finder = ChannelFinder(virsh, self._read_xml, self._known.run_of)
        #: From when on all XML is asked for again: events that change it may have been missed.
        self._all_xml_from = math.inf

    @property
    def in_use(self) -> bool:
        """Whether a decision waits for libvirt: it is required, or it has answered before."""
        return self._in_use

    def was_in_use(self) -> None:
        """Takes that libvirt had answered an earlier run of the host: it is in use."""
        self._in_use = True

    @property
    def has_answered(self) -> bool:
        """Whether libvirt has ever answered."""
        return self._answer_from > -math.inf

    @property
    def answers(self) -> bool:
        """Whether libvirt has answered the last question."""
        return not self.fault

    @property
    def count(self) -> int:
        """How many domains libvirt lists."""
        return self._known.count

    def domain(self, uuid: str) -> Domain | None:
        """Returns what libvirt knew last of an instance; None: never heard of it."""
        return self._known.get(uuid)

    def uuid_of(self, name: str) -> str | None:
        """Returns the uuid of the domain with this name, or None."""
        return self._known.uuid_of(name)

    async def run(self) -> NoReturn:
        """Watches until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_events)
            nursery.start_soon(self._ask_when_due)
            nursery.start_soon(self._finder.run)
        raise AssertionError("the tasks run until they are cancelled")

    # -- questions --------------------------------------------------------------------------

    async def look(self, uuids: Collection[str], within_s: float) -> Mapping[str, Look]:
        """Asks for the present state of some instances; those who ask at once share a question.

        Args:
            uuids: the instances.
            within_s: how long to wait for the answer, in seconds.

        A checkpoint. Cancelled, it returns nothing and the question goes on.
        """
        await trio.lowlevel.checkpoint()
        if not self._in_use:
            return dict.fromkeys(uuids, NOT_IN_USE)
        asked = trio.current_time()
        window: Window[None] = Window(within_s, self._guard)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle, window, uuids, asked)
            with suppress(trio.TooSlowError):
                await window.wait()
            nursery.cancel_scope.cancel()
        answered = self._answer_from >= asked
        return {uuid: self._look_at(uuid, answered=answered) for uuid in uuids}

    async def _settle(self, window: Window[None], uuids: Collection[str], asked: float) -> None:
        await self._answer_to_one_asked_at(max(asked, self._settled_at(uuids)))
        # A domain may have stopped since that was asked.
        while stopping := [uuid for uuid in uuids if self._may_have_stopped(uuid)]:
            await self._answer_to_one_asked_at(self._settled_at(stopping))
        window.close(None)

    def _may_have_stopped(self, uuid: str) -> bool:
        """Whether the last answer came too soon after an event: the domain may not run any more."""
        domain = self._known.get(uuid)
        if domain is None or domain.state.standing is not Standing.RUNNING:
            return False
        return self._is_doubtful(domain)

    def _is_doubtful(self, domain: Domain) -> bool:
        """Whether the last event of a domain, or else its last state, is not that it runs."""
        stopped = domain.state.standing is not Standing.RUNNING
        return self._hints.get(domain.name, (0.0, stopped))[1]

    async def next_answer(self) -> None:
        """Waits for libvirt's next answer, however long that takes."""
        await self._answer_to_one_asked_at(trio.current_time())

    async def _answer_to_one_asked_at(self, time: float) -> None:
        while self._answer_from < time:
            if self._asked_at < time:
                self._request(time)
            await self._answered.wait()

    def _settled_at(self, uuids: Collection[str]) -> float:
        """When the states follow all events so far about these instances."""
        domains = (self._known.get(uuid) for uuid in uuids)
        names = (domain.name for domain in domains if domain is not None)
        hints = (self._hints[name][0] for name in names if name in self._hints)
        return max(hints, default=-math.inf) + LAG_S

    def _look_at(self, uuid: str, *, answered: bool) -> Look:
        domain = self._known.get(uuid)
        # An answer that came too soon after an event is better than none, unless that stops it.
        if answered and not self._may_have_stopped(uuid):
            if domain is None:
                return NOT_IN_USE
            return Look(Source.ANSWER, domain.state.standing, domain.state.words)
        doubtful = domain is not None and self._is_doubtful(domain)
        return Look(Source.SILENCE, words="libvirt unknown", doubtful=doubtful)

    def _request(self, at: float) -> None:
        if at < self._due:
            self._due = at
            self._wake.set()

    async def _ask_when_due(self) -> NoReturn:
        while True:
            while (now := trio.current_time()) < self._due:
                with trio.move_on_at(self._due):
                    await self._wake.wait()
            self._due = now + RESYNC_S
            await self._ask()

    async def _ask(self) -> None:
        self._asked_at = asked = trio.current_time()
        self.questions += 1
        try:
            rows = await self._virsh.domains()
        except LibvirtSilent as error:
            self._asked_at = -math.inf
            self._silent(str(error))
            self._request(trio.current_time() + (RETRY_S if self._in_use else RESYNC_S))
            return
        took_s = trio.current_time() - asked
        self._rests_until = max(self._rests_until, asked - _BURST_S) + took_s / _SHARE
        self._in_use = True
        if self.fault:
            _log.info("libvirt answers: %d domains", len(rows))
            self.fault, self.since = "", trio.current_time()
        hints, self._hints = (
            self._hints,
            {name: hint for name, hint in self._hints.items() if hint[0] + LAG_S > asked},
        )
        if self._hints:
            self._request_for_event(max(at for at, _ in self._hints.values()) + LAG_S)
        hinted = {name: at for name, (at, _) in hints.items()}
        for before, domain in self._known.learn(rows, hinted, asked):
            self._announce(before, domain)
        if asked >= self._all_xml_from:
            self._all_xml_from = math.inf
            for uuid in self._known.running():
                self._finder.want(uuid)
        self._answer_from = asked
        self._answered.set()
        self._answered = trio.Event()

    def _silent(self, fault: str) -> None:
        was, self.fault = self.fault, fault
        if self._in_use and fault != was:
            _log.warning("libvirt does not answer: %s", fault)
        if not was:
            self.since = trio.current_time()

    def _announce(self, before: Domain | None, domain: Domain) -> None:
        happened = domain.changes_since(before)
        if happened or not domain.is_listed_as(before):
            self._listener.on_change(domain, happened)
        if domain.run < 0:
            self._finder.forget(domain.uuid)
            if before is not None and before.run >= 0:
                self._listener.on_channels(domain.uuid, ())
        elif before is None or before.run != domain.run:
            self._finder.want(domain.uuid)

    def _read_xml(self, uuid: str, xml: LiveXml) -> None:
        self._listener.on_xml(uuid, xml)
        self._listener.on_channels(uuid, xml.sockets)

    # -- events -----------------------------------------------------------------------------

    async def _follow_events(self) -> NoReturn:
        backoff = Backoff(0.2, 5.0)
        while True:
            self._request(trio.current_time())
            # What happens before it has subscribed is lost.
            self._request_for_event(trio.current_time() + RETRY_S)
            started = trio.current_time()
            self._all_xml_from = started + RETRY_S
            _log.debug("virsh event: %s", await self._virsh.follow_events(self._hinted))
            if trio.current_time() - started > RESYNC_S:
                backoff.reset()
            self._request(trio.current_time())
            await trio.sleep(backoff.next_delay_s())

    def _hinted(self, hint: DomainHint) -> None:
        now = trio.current_time()
        self._hints[hint.name] = (now, hint.is_stop)
        self._request_for_event(now + _MERGE_S)
        domain = self._known.get(self._known.uuid_of(hint.name) or "")
        if domain is None:
            return
        if hint.is_reset:
            self._listener.on_reset(domain)
        elif hint.changes_xml:
            self._finder.want(domain.uuid)

    def _request_for_event(self, at: float) -> None:
        self._request(max(at, self._rests_until))

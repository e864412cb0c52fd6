"""A libvirt behind a fake ``virsh``: as late, as silent and as forgetful as the real one.

Measured and imitated: an event is printed before the state follows; a hung libvirtd answers
nothing; one that is down refuses at once and ends ``virsh event``; after its restart a domain that
was shut off has no reason; what happens before ``virsh event`` has subscribed is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from hbtrio.lab.virsh_output import (
    PAUSED,
    RUNNING,
    SHUT_OFF,
    ListedDomain,
    answer_text,
    lifecycle,
    list_text,
    reset_event,
)
from hbtrio.system.runner import ProcessNotStarted, ProcessResult, ProcessRunner
from hbtrio.wire.virsh import DOMAINS_QUESTION
from support.fake_processes import FakeProcesses

#: Seconds by which the state follows its event, at most.
LAG_S = 0.04

#: Seconds that an answer takes.
ANSWER_S = 0.05

#: Seconds until ``virsh event`` has subscribed.
SUBSCRIBE_S = 0.04


@attrs.define
class FakeDomain(ListedDomain):
    """A domain with a QEMU."""

    #: Whether its QEMU answers; ``dumpxml`` and what it has done wait for that.
    hung: bool = False


class FakeLibvirt:
    """Runs ``virsh`` commands; any other command is passed on.

    Args:
        others: runs the other commands.
    """

    reaper_restarts = 0

    def __init__(self, others: ProcessRunner | None = None) -> None:
        self.domains: dict[str, FakeDomain] = {}
        #: Whether the virsh program is installed.
        self.installed = True
        #: Whether libvirtd runs, and whether it answers.
        self.up = True
        self.hung = False
        self.questions: list[float] = []
        self._others = FakeProcesses({}) if others is None else others
        self._subscribers: list[Callable[[bytes], None]] = []
        self._changed = trio.Event()
        self._last_id = 0

    # -- what happens to domains -------------------------------------------------------------

    def define(self, uuid: str, name: str, sockets: Sequence[str] = ()) -> FakeDomain:
        """A domain is defined, shut off."""
        domain = FakeDomain(uuid, name, sockets=tuple(sockets))
        self.domains[uuid] = domain
        self._print(lifecycle(name, "Defined Added"))
        return domain

    async def become(self, domain: FakeDomain, state: int, reason: int, *events: str) -> None:
        """The lifecycle events are printed, and ``LAG_S`` later the state is this."""
        for event in events:
            self._print(lifecycle(domain.name, event))
        await trio.sleep(LAG_S)
        domain.state, domain.reason = state, reason
        if state == SHUT_OFF:
            domain.domain_id = -1

    async def start(self, domain: FakeDomain) -> None:
        """A new QEMU."""
        self._last_id += 1
        domain.domain_id = self._last_id
        await self.become(domain, RUNNING, 1, "Resumed Unpaused", "Started Booted")

    async def suspend(self, domain: FakeDomain, reason: int = 1) -> None:
        await self.become(domain, PAUSED, reason, "Suspended Paused")

    async def resume(self, domain: FakeDomain) -> None:
        await self.become(domain, RUNNING, 5, "Resumed Unpaused")

    async def kill(self, domain: FakeDomain) -> None:
        """SIGKILL for its QEMU."""
        await self.become(domain, SHUT_OFF, 3, "Stopped Failed")

    async def destroy(self, domain: FakeDomain) -> None:
        await self.become(domain, SHUT_OFF, 2, "Stopped Destroyed")

    def reset(self, domain: FakeDomain) -> None:
        """A reset prints its event several times, and changes no state."""
        for _ in range(3):
            self._print(reset_event(domain.name))

    def set_metadata(self, domain: FakeDomain, attributes: str) -> None:
        """The element for hbtrio is set, with these attributes; none: it is removed."""
        uri = "urn:hbtrio:instance"
        element = f'<hbtrio:instance xmlns:hbtrio="{uri}" {attributes}/>'
        domain.metadata = element if attributes else ""
        self._print(f"event 'metadata-change' for domain '{domain.name}': type element, uri {uri}")

    def undefine(self, domain: FakeDomain) -> None:
        del self.domains[domain.uuid]
        self._print(lifecycle(domain.name, "Undefined Removed"))

    def print_event(self, line: str) -> None:
        """Any line of ``virsh event``."""
        self._print(line)

    # -- what happens to libvirtd ------------------------------------------------------------

    def stop(self) -> None:
        """libvirtd ends."""
        self.up = False
        self._notify()

    def restart(self) -> None:
        """libvirtd starts; it has forgotten why domains are shut off."""
        self.up, self.hung = True, False
        for domain in self.domains.values():
            if domain.state == SHUT_OFF:
                domain.reason = 0
        self._notify()

    def hang(self) -> None:
        """SIGSTOP for libvirtd."""
        self.hung = True
        self._notify()

    def go_on(self) -> None:
        """SIGCONT for libvirtd."""
        self.hung = False
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _print(self, line: str) -> None:
        if self.up and not self.hung:
            for feed in self._subscribers:
                feed(f"2026-11-29 19:43:34.951+0000: {line}\n".encode())

    # -- virsh -------------------------------------------------------------------------------

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        if argv[0] != "virsh":
            return await self._others.run(argv, max_output=max_output, env=env, on_output=on_output)
        await trio.lowlevel.checkpoint()
        if not self.installed:
            raise ProcessNotStarted("virsh", "No such file or directory")
        assert env == {"LC_ALL": "C"}
        if "event" in argv:
            assert on_output is not None
            return await self._follow(on_output)
        return await self._answer(argv[-1], max_output)

    async def _answer(self, question: str, max_output: int) -> ProcessResult:
        self.questions.append(trio.current_time())
        await self._connected()
        if not self.up:
            return _failed(b"error: failed to connect to the hypervisor\nerror: no socket\n")
        await trio.sleep(ANSWER_S)
        await self._connected()
        if question == DOMAINS_QUESTION:
            text = list_text(self.domains.values())
        else:
            asked = [part.rpartition(" ")[2] for part in question.split("; ")]
            if any(self.domains[uuid].hung for uuid in asked if uuid in self.domains):
                await trio.sleep_forever()
            text = answer_text(question, dict(self.domains))
        output = text.encode()
        return ProcessResult(0, None, output[:max_output], b"", len(output) > max_output)

    async def _connected(self) -> None:
        while self.hung:
            await self._changed.wait()

    async def _follow(self, feed: Callable[[bytes], None]) -> ProcessResult:
        await self._connected()
        await trio.sleep(SUBSCRIBE_S)
        self._subscribers.append(feed)
        try:
            while self.up:
                if self.hung:
                    with trio.move_on_after(8):
                        await self._connected()
                    if self.hung:
                        return _failed(b"error: Disconnected from qemu:///system due to keepalive")
                else:
                    await self._changed.wait()
        finally:
            self._subscribers.remove(feed)
        return _failed(b"error: Disconnected from qemu:///system due to end of file\n")


def _failed(stderr: bytes) -> ProcessResult:
    return ProcessResult(1, None, b"", stderr, truncated=False)

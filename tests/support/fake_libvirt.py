"""A libvirt behind a fake ``virsh``: as late, as silent and as forgetful as the real one.

Measured and imitated: an event is printed before the state follows; a hung libvirtd answers
nothing; one that is down refuses at once and ends ``virsh event``; after its restart a domain that
was shut off has no reason; what happens before ``virsh event`` has subscribed is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from hbtrio.system.runner import ProcessNotStarted, ProcessResult, ProcessRunner
from hbtrio.wire.virsh import DOMAINS_QUESTION
from support.fake_processes import FakeProcesses

#: Seconds by which the state follows its event, at most.
LAG_S = 0.04

#: Seconds that an answer takes.
ANSWER_S = 0.05

#: Seconds until ``virsh event`` has subscribed.
SUBSCRIBE_S = 0.04

RUNNING, PAUSED, SHUT_OFF, CRASHED = 1, 3, 5, 6


@attrs.define
class FakeDomain:
    """A domain: what libvirt would print of it."""

    uuid: str
    name: str
    state: int = SHUT_OFF
    reason: int = 0
    domain_id: int = -1
    sockets: tuple[str, ...] = ()
    #: Whether its QEMU answers; ``dumpxml`` and what it has done wait for that.
    hung: bool = False
    #: Its disk requests and sent packets.
    requests: int = 0
    packets: int = 0
    #: What is in its metadata, as XML.
    metadata: str = ""

    @property
    def traffic(self) -> str:
        return (
            f"Domain: '{self.name}'\n  block.count=1\n  block.0.name=vda\n"
            f"  block.0.rd.reqs={self.requests}\n  block.0.rd.bytes=4096\n"
            f"  net.count=1\n  net.0.rx.pkts=77\n  net.0.tx.pkts={self.packets}\n\n"
        )

    @property
    def xml(self) -> str:
        channels = "".join(
            f"<channel type='unix'><source mode='bind' path='{path}'/>"
            "<target type='virtio' name='cgcs.heartbeat'/></channel>"
            for path in self.sockets
        )
        metadata = f"<metadata>{self.metadata}</metadata>" if self.metadata else ""
        devices = f"<devices>{channels}</devices>"
        return f"<domain><uuid>{self.uuid}</uuid>{metadata}{devices}</domain>\n"


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
        self._print(f"event 'lifecycle' for domain '{name}': Defined Added")
        return domain

    async def become(self, domain: FakeDomain, state: int, reason: int, *events: str) -> None:
        """The events are printed, and ``LAG_S`` later the state is this."""
        for event in events:
            self._print(event.replace("NAME", domain.name))
        await trio.sleep(LAG_S)
        domain.state, domain.reason = state, reason
        if state == SHUT_OFF:
            domain.domain_id = -1

    async def start(self, domain: FakeDomain) -> None:
        """A new QEMU."""
        self._last_id += 1
        domain.domain_id = self._last_id
        await self.become(
            domain, RUNNING, 1, lifecycle("Resumed Unpaused"), lifecycle("Started Booted")
        )

    async def suspend(self, domain: FakeDomain, reason: int = 1) -> None:
        await self.become(domain, PAUSED, reason, lifecycle("Suspended Paused"))

    async def resume(self, domain: FakeDomain) -> None:
        await self.become(domain, RUNNING, 5, lifecycle("Resumed Unpaused"))

    async def kill(self, domain: FakeDomain) -> None:
        """SIGKILL for its QEMU."""
        await self.become(domain, SHUT_OFF, 3, lifecycle("Stopped Failed"))

    async def destroy(self, domain: FakeDomain) -> None:
        await self.become(domain, SHUT_OFF, 2, lifecycle("Stopped Destroyed"))

    def reset(self, domain: FakeDomain) -> None:
        """A reset prints its event several times, and changes no state."""
        for _ in range(3):
            self._print(f"event 'reboot' for domain '{domain.name}'")

    def set_metadata(self, domain: FakeDomain, attributes: str) -> None:
        """The element for hbtrio is set, with these attributes; none: it is removed."""
        uri = "urn:hbtrio:instance"
        element = f'<hbtrio:instance xmlns:hbtrio="{uri}" {attributes}/>'
        domain.metadata = element if attributes else ""
        self._print(f"event 'metadata-change' for domain '{domain.name}': type element, uri {uri}")

    def undefine(self, domain: FakeDomain) -> None:
        del self.domains[domain.uuid]
        self._print(f"event 'lifecycle' for domain '{domain.name}': Undefined Removed")

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
        assert env is not None
        assert env["LC_ALL"] == "C"
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
            text = self._list()
        else:
            text = ""
            for command in question.split("; "):
                traffic = command.startswith("domstats ")
                domain = self.domains.get(command.rpartition(" ")[2])
                if domain is not None and domain.hung:
                    await trio.sleep_forever()
                if domain is not None:
                    text += domain.traffic if traffic else f"{domain.xml}\n"
        output = text.encode()
        return ProcessResult(0, None, output[:max_output], b"", len(output) > max_output)

    def _list(self) -> str:
        listed = "".join(
            f"{d.uuid} {d.domain_id if d.domain_id >= 0 else '-'} {d.name}\n"
            for d in self.domains.values()
        )
        stats = "\n".join(
            f"Domain: '{d.name}'\n  state.state={d.state}\n  state.reason={d.reason}\n"
            for d in reversed(self.domains.values())
        )
        return f"{listed}STATS{stats}"

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


def lifecycle(text: str) -> str:
    """A line of ``virsh event`` about a domain."""
    return f"event 'lifecycle' for domain 'NAME': {text}"


def _failed(stderr: bytes) -> ProcessResult:
    return ProcessResult(1, None, b"", stderr, truncated=False)

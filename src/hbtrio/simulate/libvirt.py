"""Simulates the libvirt of one host: late, silent and forgetful, as the real one was measured.

An event is printed before the state follows. A libvirtd that hangs answers nothing; one that is
down refuses at once and ends ``virsh event``. After its restart it has forgotten why domains are
shut off, and what happens before ``virsh event`` has subscribed is lost. What happens to domains is
up to :mod:`hbtrio.simulate.instance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from hbtrio.lab.virsh_output import (
    RUNNING,
    SHUT_OFF,
    ListedDomain,
    answer_text,
    lifecycle,
    list_text,
    reset_event,
)
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.timeline import Timeline
from hbtrio.system.runner import ProcessResult
from hbtrio.wire.virsh import DOMAINS_QUESTION

#: Seconds by which a state follows its event, at most.
LAG_S: Final = 0.04

#: Seconds that an answer takes.
_ANSWER_S: Final = (0.04, 0.08)

#: Seconds until ``virsh event`` has subscribed.
_SUBSCRIBE_S: Final = 0.04

#: Seconds after which ``virsh event`` gives up a libvirtd that hangs.
_KEEPALIVE_S: Final = 8.0

#: A reset prints its event up to so many times.
_RESET_EVENTS: Final = 3


class _Call:
    """A ``virsh`` that runs: a child of a daemon, which goes on while that is stopped."""

    def __init__(self, process: Process, question: str) -> None:
        self.question = question
        self.output: list[bytes] = []
        self.result: ProcessResult | None = None
        self.waiters = Waiters(process)

    def print(self, line: str) -> None:
        """Prints a line of ``virsh event``."""
        self.output.append(f"2026-01-01 00:00:00.000+0000: {line}\n".encode())
        self.waiters.wake()

    def end(self, stdout: str = "", stderr: str = "", max_output: int = 4096) -> None:
        """Ends it, with status 0 or, if there is an error, with 1."""
        if self.result is None:
            output = stdout.encode()
            self.result = ProcessResult(
                1 if stderr else 0,
                None,
                output[:max_output],
                stderr.encode(),
                len(output) > max_output,
            )
            self.waiters.wake()


class Libvirt:
    """The libvirt of one host.

    Args:
        timeline: has the time.
        name: of its random stream.
    """

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.domains: dict[str, ListedDomain] = {}
        self.hung = False
        self.up = True
        #: Whether events are kept back, while questions are answered.
        self._is_mute = False
        self._timeline = timeline
        self._random = timeline.random(f"libvirt {name}")
        self._last_id = 0
        #: The calls of ``virsh event`` that have subscribed.
        self._followers: list[_Call] = []
        #: What waits for a libvirtd that hangs, or for its events.
        self._held: list[Callable[[], None]] = []

    # -- what happens to domains -------------------------------------------------------------------

    def start(
        self, uuid: str, name: str, socket: str, reason: int, *events: str, state: int = RUNNING
    ) -> None:
        """A domain starts here, with a new QEMU.

        Args:
            uuid: the domain.
            name: its name.
            socket: the path of its channel's socket.
            reason: the reason of its state, as a number of libvirt's.
            events: what lifecycle events say of it.
            state: its state, as a number of libvirt's.
        """
        self._last_id += 1
        domain = self.domains.setdefault(uuid, ListedDomain(uuid, name))
        domain.domain_id, domain.sockets = self._last_id, (socket,)
        self.become(uuid, state, reason, *events)

    def become(self, uuid: str, state: int, reason: int, *events: str) -> None:
        """Prints lifecycle events of a domain; up to ``LAG_S`` later it is in this state."""
        domain = self.domains[uuid]
        for event in events:
            self._print(lifecycle(domain.name, event))
        run = domain.domain_id

        def follow() -> None:
            if domain.domain_id != run:
                return  # it has been started anew meanwhile
            domain.state, domain.reason = state, reason
            if state == SHUT_OFF:
                domain.domain_id = -1

        self._timeline.after(LAG_S * self._random.random(), follow)

    def reset(self, uuid: str) -> None:
        """A domain is reset, which prints events and changes no state."""
        for _ in range(self._random.randint(1, _RESET_EVENTS)):
            self._print(reset_event(self.domains[uuid].name))

    def undefine(self, uuid: str) -> None:
        """A domain is undefined."""
        domain = self.domains.pop(uuid)
        self._print(lifecycle(domain.name, "Undefined Removed"))

    def _print(self, line: str) -> None:
        if not self.up:
            return
        if self.hung or self._is_mute:
            # QEMU's monitor keeps it for libvirtd.
            self._held.append(lambda: self._print(line))
            return
        for call in self._followers:
            call.print(line)

    # -- what happens to libvirtd ------------------------------------------------------------------

    def hang(self) -> None:
        """SIGSTOP for libvirtd."""
        self.hung = True
        self._timeline.after(_KEEPALIVE_S, self._lose_followers)

    def mute_for(self, seconds: float) -> None:
        """Libvirtd answers questions, and what it tells by itself is so much late."""
        self._is_mute = True
        self._timeline.after(seconds, self._speak)

    def _speak(self) -> None:
        self._is_mute = False
        if not self.hung:
            self.go_on()

    def go_on(self) -> None:
        """SIGCONT for libvirtd."""
        self.hung = False
        held, self._held = self._held, []
        for action in held:
            action()

    def stop(self) -> None:
        """Libvirtd ends."""
        self.up, self.hung, self._held = False, False, []
        followers, self._followers = self._followers, []
        for call in followers:
            call.end(stderr="error: Disconnected from qemu:///system due to end of file\n")

    def restart(self) -> None:
        """Libvirtd starts; it has forgotten why domains are shut off."""
        self.up = True
        for domain in self.domains.values():
            if domain.state == SHUT_OFF:
                domain.reason = 0

    def _lose_followers(self) -> None:
        if self.hung:
            followers, self._followers = self._followers, []
            for call in followers:
                call.end(
                    stderr="error: Disconnected from qemu:///system due to keepalive timeout\n"
                )

    # -- virsh -------------------------------------------------------------------------------------

    def begin(self, call: _Call, max_output: int) -> None:
        """A ``virsh`` has been started."""
        if "event" in call.question.split():
            self._timeline.after(_SUBSCRIBE_S, lambda: self._subscribe(call))
        else:
            delay_s = self._random.uniform(*_ANSWER_S)
            self._timeline.after(delay_s, lambda: self._answer(call, max_output))

    def leave(self, call: _Call) -> None:
        """A ``virsh`` has been killed."""
        if call in self._followers:
            self._followers.remove(call)

    def _subscribe(self, call: _Call) -> None:
        if self.hung:
            self._held.append(lambda: self._subscribe(call))
        elif not self.up:
            _refuse(call)
        else:
            self._followers.append(call)

    def _answer(self, call: _Call, max_output: int) -> None:
        if self.hung:
            self._held.append(lambda: self._answer(call, max_output))
        elif not self.up:
            _refuse(call)
        elif call.question == DOMAINS_QUESTION:
            call.end(list_text(self.domains.values()), max_output=max_output)
        else:
            call.end(answer_text(call.question, self.domains), max_output=max_output)


class Virsh:
    """Runs ``virsh`` for one process of the host.

    Args:
        libvirt: what it talks to.
        process: the daemon.
    """

    def __init__(self, libvirt: Libvirt, process: Process) -> None:
        self._libvirt = libvirt
        self._process = process

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        """See :class:`~hbtrio.system.runner.ProcessRunner`."""
        await trio.lowlevel.checkpoint()
        if not self._process.effect():
            await trio.sleep_forever()
        question = " ".join(argv[5:]) if on_output is not None else argv[-1]
        call = _Call(self._process, question)
        self._libvirt.begin(call, max_output)
        try:
            while True:
                output, call.output = call.output, []
                for piece in output:
                    assert on_output is not None
                    on_output(piece)
                if call.result is not None and not call.output:
                    return call.result
                await call.waiters.wait()
        finally:
            self._libvirt.leave(call)


def _refuse(call: _Call) -> None:
    call.end(stderr="error: failed to connect to the hypervisor\nerror: no socket\n")

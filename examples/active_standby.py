"""One half of an active/standby pair, which lets its VM go only while its peer can take over.

Run one in each of two VMs:

    python active_standby.py one --listen 10.0.0.1:7000 --peer 10.0.0.2:7000 --active
    python active_standby.py two --listen 10.0.0.2:7000 --peer 10.0.0.1:7000

The active half rejects every event that would stop or freeze its VM while its peer is not ready. If
the event comes anyway, the handler of its notice hands the active role over, and the peer has the
role before the VM goes. The active half steps down before it asks the peer: an answer can be lost,
and two active halves would be worse than none. The standby half accepts every event.
"""

from __future__ import annotations

import argparse
import logging
import signal

import anyio
from anyio.abc import SocketStream

from hbtrio.app import Accept, Application, Notice, Reject, Vote

log = logging.getLogger("pair")

#: How long a peer may take to answer: less than the shortest window of a handler, in seconds.
PEER_S = 2.0

#: The wait before the peer is asked again, in seconds.
RETRY_S = 0.5

#: The maximum length of a peer's question or answer.
LINE_BYTES = 64


class Half:
    """One half of the pair."""

    def __init__(self, name: str, peer: tuple[str, int], *, active: bool) -> None:
        self.name = name
        self.active = active
        self._peer = peer

    async def ask_peer(self, question: str) -> str | None:
        """Asks the peer a question and returns its answer.

        Returns None if the peer could not be reached, and "" if it did not answer.
        """
        answer = None
        try:
            with anyio.fail_after(PEER_S):
                async with await anyio.connect_tcp(*self._peer) as stream:
                    answer = ""
                    await stream.send(question.encode())
                    answer = (await stream.receive(LINE_BYTES)).decode(errors="replace")
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            log.info("%s: the peer does not answer", self.name)
        return answer

    async def answer_peer(self, stream: SocketStream) -> None:
        """Answers the peer's questions: whether we are ready, and whether we take over."""
        async with stream:
            try:
                with anyio.move_on_after(PEER_S):
                    question = await stream.receive(LINE_BYTES)
                    if question == b"take over":
                        self.become(active=True)
                    await stream.send(b"active" if self.active else b"ready")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                log.info("%s: the peer hung up", self.name)

    def become(self, *, active: bool) -> None:
        """Takes the role. A real application would mount its volume or take an address here."""
        self.active = active
        print(f"{self.name} is {'active' if active else 'standby'}", flush=True)

    async def vote(self, vote: Vote) -> Accept | Reject:
        """Rejects while no other half can do the work."""
        if self.active and not await self.ask_peer("ready?"):
            return Reject(f"{self.name} is active and its peer is not ready")
        return Accept()

    async def prepare(self, notice: Notice) -> None:
        """Hands the role over before the VM goes; after the event the role stays with the peer."""
        if not self.active or notice.happened:
            return
        self.become(active=False)
        answer = await self.ask_peer("take over")
        # A peer that has already taken over repeats its answer.
        while answer == "" and notice.remaining_s > 2 * PEER_S:
            await anyio.sleep(RETRY_S)
            answer = await self.ask_peer("take over") or ""
        if answer is None:
            self.become(active=True)
        elif answer != "active":
            log.warning("%s: unknown whether the peer has taken over", self.name)


def address(text: str) -> tuple[str, int]:
    """Parses HOST:PORT, for argparse."""
    host, _, port = text.rpartition(":")
    return host, int(port)


async def run(options: argparse.Namespace) -> None:
    """Serves the peer and the guest daemon until SIGINT or SIGTERM."""
    half = Half(options.name, options.peer, active=options.active)
    host, port = options.listen
    app = Application(
        half.name,
        on_vote=half.vote,
        on_notice=half.prepare,
        corrective_action="reboot",
        socket=options.app_socket,
    )
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with (
            await anyio.create_tcp_listener(local_host=host, local_port=port) as listener,
            app,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, half.answer_peer)
            half.become(active=options.active)
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break


def main() -> None:
    """Parses the command line and runs the half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--listen", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--peer", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--active", action="store_true", help="start as the active half")
    parser.add_argument("--app-socket")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    anyio.run(run, options, backend=options.backend)


if __name__ == "__main__":
    main()

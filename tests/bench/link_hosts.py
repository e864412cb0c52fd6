"""Many scripted hosts in one process: each holds a link to an agent, and none has code of a host.

    python -m bench.link_hosts SOCKET FIRST COUNT INSTANCES

Commands come on standard input, a line each; each is answered by a line of JSON, with times of the
clock that all processes of a machine share (CLOCK_MONOTONIC):

- ``dial``: all hosts connect, say hello and send their snapshots; answered once the agent has
  handled the last of these.
- ``cut``: all connections are closed.
- ``change INDEX SECONDS``: the host's first instance has another RESTART window.
- ``lost``: how many links the agent has ended.

An agent handles the messages of a host in order. So a ping behind the snapshot is answered once
the agent has handled all of it.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import attrs

from bench.sample import allow_descriptors
from hbtrio.wire.link_codec import encode_link
from hbtrio.wire.link_messages import Hello, Instance, Ping, Pong, SnapshotEnd
from support.scripted_host import INSTANCE

#: The numbers of pings behind a snapshot; the hosts send no others.
_TOLD: Final = 7

_WELCOME: Final = b'"type":"welcome"'
_PING: Final = b'"type":"ping"'
_ECHO: Final = encode_link(Pong(_TOLD, 0.0)).split(b",", 2)[1]

#: Bytes per read, and how long a connection may take, in seconds.
_READ_BYTES: Final = 65536
_DIAL_S: Final = 30.0


def host_name(index: int) -> str:
    """The name of a host."""
    return f"compute-{index}"


def host_uuid(index: int) -> str:
    """The cloud's uuid of a host."""
    return f"00000000-0000-4000-8000-{index:012}"


def instance_uuid(host: int, index: int) -> str:
    """The uuid of an instance of a host."""
    return f"{host:08}-0000-4000-9000-{index:012}"


@attrs.define(eq=False)
class _Host:
    """One host, with what is still to be written on its connection."""

    index: int
    hello: bytes
    snapshot: bytes
    link: socket.socket | None = None
    unsent: bytes = b""
    unread: bytes = b""
    told: bool = False


class Hosts:
    """The hosts of this process.

    Args:
        path: the agent's socket.
        first: the number of the first host.
        count: how many there are.
        instances: how many instances each has.
    """

    def __init__(self, path: str, first: int, count: int, instances: int) -> None:
        self._path = path
        self._selector = selectors.EpollSelector()
        self._hosts = [self._host(index, instances) for index in range(first, first + count)]
        self._lost = 0

    def _host(self, index: int, instances: int) -> _Host:
        hello = Hello(1, host_name(index), host_uuid(index), f"boot-{index}", "9.9.9", 0, 1.0)
        all_of_it = [encode_link(self._instance(index, one)) for one in range(instances)]
        end = encode_link(SnapshotEnd(instances)) + encode_link(Ping(_TOLD))
        return _Host(index, encode_link(hello), b"".join(all_of_it) + end)

    def _instance(self, host: int, index: int, restart_s: int = 121) -> Instance:
        uuid, name = instance_uuid(host, index), f"vm-{host}-{index}"
        return attrs.evolve(INSTANCE, uuid=uuid, name=name, restart_s=restart_s)

    def run(self) -> None:
        """Serves until standard input ends."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._turn(key.data)
                    continue
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                print(json.dumps(self._obey(line.decode().split())), flush=True)

    def _obey(self, words: list[str]) -> dict[str, Any]:
        if words[0] == "dial":
            return self._dial()
        if words[0] == "cut":
            for host in self._hosts:
                self._close(host)
        elif words[0] == "change":
            host = self._hosts[int(words[1])]
            change = self._instance(host.index, 0, int(words[2]))
            at = time.monotonic()
            self._send(host, encode_link(change))
            return {"at": at}
        return {"at": time.monotonic(), "lost": self._lost}

    def _dial(self) -> dict[str, Any]:
        began = time.monotonic()
        for host in self._hosts:
            host.told, host.unread = False, b""
            host.link = socket.socket(socket.AF_UNIX)
            host.link.settimeout(_DIAL_S)
            host.link.connect(self._path)
            host.link.setblocking(False)
            self._selector.register(host.link, selectors.EVENT_READ, host)
            self._send(host, host.hello)
        dialled = time.monotonic()
        while not all(host.told for host in self._hosts):
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._turn(key.data)
        return {"began": began, "dialled": dialled, "told": time.monotonic(), "lost": self._lost}

    def _close(self, host: _Host) -> None:
        if host.link is not None:
            self._selector.unregister(host.link)
            host.link.close()
            host.link, host.unsent = None, b""

    def _send(self, host: _Host, data: bytes) -> None:
        host.unsent += data
        self._write(host)

    def _write(self, host: _Host) -> None:
        if host.link is None:
            return
        try:
            host.unsent = host.unsent[host.link.send(host.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end(host)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if host.unsent else 0)
        self._selector.modify(host.link, events, host)

    def _end(self, host: _Host) -> None:
        self._lost += 1
        self._close(host)

    def _turn(self, host: _Host) -> None:
        if host.unsent:
            self._write(host)
        try:
            data = b"" if host.link is None else host.link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if host.link is not None:
                self._end(host)
            return
        *lines, host.unread = (host.unread + data).split(b"\n")
        for line in lines:
            if _PING in line:
                number = json.loads(line)["number"]
                self._send(host, encode_link(Pong(number, time.monotonic())))
            elif _WELCOME in line:
                self._send(host, host.snapshot)
            elif _ECHO in line and b'"type":"pong"' in line:
                host.told = True


def main() -> None:
    """Runs the hosts that the command line asks for."""
    path, first, count, instances = sys.argv[1:]
    allow_descriptors()
    Hosts(str(Path(path)), int(first), int(count), int(instances)).run()


if __name__ == "__main__":
    main()

"""The floor of a vote: its way through as many processes and sockets, and nothing else.

    python -m bench.relay agent LINK PORT VIM_PORT
    python -m bench.relay host LINK CHANNEL

Two blocking loops that pass on bytes of the size that they really have. What the agent's loop hears
over TCP goes over the link's unix socket to the host's loop and over the channel's to the guest,
whose answer goes back the same way. The reply is written before the verdict, which goes over a
connection of its own, as with an agent. There is no HTTP but for the end of a request, no JSON, no
store, no bound, no task. A GET is answered at once.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Final

from bench.vim_wire import is_whole
from hbtrio.lab.fake_vim import loopback_socket

_COMMAND: Final = b'{"type":"round","command_id":"%b"}\n' % (b"0" * 36)
_REPLY: Final = b'{"type":"reply","command_id":"%b","ok":true,"seconds":9}\n' % (b"0" * 36)
_REPORT: Final = b'{"type":"report","pad":"%b"}\n' % (b"0" * 300)

_ANSWER: Final = (
    b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 18\r\n\r\n"status":"enabled"'
)
_VERDICT: Final = (
    b'PATCH /nfvi-plugins/v1/instances/0 HTTP/1.1\r\nContent-Length: %d\r\n\r\n"guest-response"%b'
) % (216, b" " * 200)

_ACK: Final = b'\n{"version":3,"revision":1,"msg_type":"init_ack","sequence":1,"invocation_id":1}\n'
_ASK: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"action_notify","sequence":2,"invocation_id":7,'
    b'"event_type":"stop","notification_type":"revocable","timeout_ms":9000}\n'
)


def agent(link: str, port: int, vim_port: int) -> None:
    """The agent's loop."""
    listener = loopback_socket(port)
    listener.setblocking(True)
    listener.listen(128)
    with socket.socket(socket.AF_UNIX) as place:
        place.bind(link)
        place.listen(1)
        host, _ = place.accept()
    while True:
        caller, _ = listener.accept()
        request = _until(is_whole, caller)
        if request.startswith(b"GET"):
            caller.sendall(_ANSWER)
            caller.close()
            continue
        host.sendall(_COMMAND)
        told = _until(lambda data: b"\n" in data, host)
        caller.sendall(_ANSWER)
        caller.close()
        if told.count(b"\n") < 2:
            _until(lambda data: b"\n" in data, host)
        with socket.create_connection(("127.0.0.1", vim_port)) as vim:
            vim.sendall(_VERDICT)
            vim.recv(65536)


def host(link: str, channel: str) -> None:
    """The host's loop."""
    with socket.socket(socket.AF_UNIX) as agent, socket.socket(socket.AF_UNIX) as guest:
        agent.connect(link)
        guest.connect(channel)
        guest.recv(4096)  # its init, in one piece
        guest.sendall(_ACK)
        while agent.recv(4096):
            guest.sendall(_ASK)
            agent.sendall(_REPLY)
            _until(lambda data: data.endswith(b"}\n"), guest)
            agent.sendall(_REPORT)


def _until(whole: Callable[[bytes], bool], sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    while data and not whole(data):
        data += sock.recv(65536)
    return data


if __name__ == "__main__":
    if sys.argv[1] == "agent":
        agent(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        host(*sys.argv[2:])

"""An application as a C programmer would write it from docs/applications.md: structs on a socket.

python c_application.py SOCKET NAME INTERVAL_MS VOTE_RESULT REASON

Nothing of hbtrio is imported. It is silent to votes and notices with VOTE_RESULT -1. What happens
to it is a line of its output each.
"""

import socket
import struct
import sys

HEADER = struct.Struct("@8sBBHII")
INIT, INIT_ACK, CHALLENGE, CHALLENGE_RESPONSE, ACTION_NOTIFY, ACTION_RESPONSE = 0, 1, 3, 4, 5, 6
LOG, HEALTHY = 4, 1


def main() -> None:
    """Registers, beats and answers until the guest is gone."""
    path, name, interval_ms, result, reason = sys.argv[1:6]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    sequence = 0

    def send(kind: int, body: bytes) -> None:
        nonlocal sequence
        sequence += 1
        header = HEADER.pack(b"FDFDA5A5", 2, 1, kind, sequence, 228)
        connection.sendall((header + body).ljust(228, b"\0"))

    send(INIT, struct.pack("@40s6I", name.encode(), int(interval_ms), 30, 30, 30, 30, LOG))
    while len(data := connection.recv(228, socket.MSG_WAITALL)) == 228:
        magic, version, _, kind, _, size = HEADER.unpack_from(data)
        assert (magic, version, size) == (b"FDFDA5A5", 2, 228)
        first, second, third = struct.unpack_from("@3I", data, HEADER.size)
        if kind == INIT_ACK:
            print("accepted", first, flush=True)
        elif kind == CHALLENGE:
            send(CHALLENGE_RESPONSE, struct.pack("@3I192s", first, HEALTHY, 0, b""))
        elif kind == ACTION_NOTIFY:
            print("told", second, third, flush=True)
            if int(result) >= 0:
                answer = struct.pack("@4I", first, second, third, int(result))
                send(ACTION_RESPONSE, answer + reason.encode())
    print("the guest is gone", flush=True)


if __name__ == "__main__":
    main()

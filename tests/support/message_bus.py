"""A D-Bus message bus with one service on it: a systemd-logind that lists inhibitors.

Only what busctl needs: it logs in, greets the bus, and calls a method.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: what, who, why, mode, uid, pid; as ListInhibitors of systemd-logind returns them.
Inhibitor = tuple[str, str, str, str, int, int]

#: The identity of the bus.
_GUID = b"0123456789abcdef" * 2

_FIXED = struct.Struct("<cBBBIII")


def _padded(data: bytes, size: int) -> bytes:
    return data + b"\0" * (-len(data) % size)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def _inhibitors(all_of: Sequence[Inhibitor]) -> bytes:
    body = b""
    for *texts, uid, pid in all_of:
        body = _padded(body, 8)
        for text in texts:
            body = _padded(body, 4) + _string(str(text))
        body = _padded(body, 4) + struct.pack("<II", uid, pid)
    # The elements begin at 8, which is where an array of structs begins after its length.
    return struct.pack("<I", len(body)) + b"\0" * 4 + body


def _reply(serial: int, signature: str, body: bytes) -> bytes:
    fields = struct.pack("<BB2sI", 5, 1, b"u\0", serial)
    for number, kind, text in ((6, b"s\0", ":1.1"), (7, b"s\0", "org.freedesktop.DBus")):
        fields = _padded(fields, 8) + struct.pack("<BB2s", number, 1, kind) + _string(text)
    raw = signature.encode()
    fields = _padded(fields, 8) + struct.pack("<BB2sB", 8, 1, b"g\0", len(raw)) + raw + b"\0"
    head = _FIXED.pack(b"l", 2, 1, 1, len(body), serial, len(fields))
    return _padded(head + fields, 8) + body


def _serve(connection: socket.socket, answers: dict[bytes, tuple[str, bytes]]) -> None:
    with connection, connection.makefile("rb") as reader:
        while (line := reader.readline().strip(b"\0\r\n")) != b"BEGIN":
            if not line:
                return
            word = line.split()[0]
            # With its identity in the first line it needs no second one.
            is_known = word == b"DATA" or (word == b"AUTH" and len(line.split()) > 2)
            said = b"AGREE_UNIX_FD" if word == b"NEGOTIATE_UNIX_FD" else b"DATA"
            connection.sendall((b"OK " + _GUID if is_known else said) + b"\r\n")
        while len(head := reader.read(_FIXED.size)) == _FIXED.size:
            _, _, _, _, length, serial, fields = _FIXED.unpack(head)
            call = reader.read(fields + -fields % 8)
            reader.read(length)
            for member, (signature, body) in answers.items():
                if b"\0" + member + b"\0" in call:
                    connection.sendall(_reply(serial, signature, body))


@contextmanager
def message_bus(path: Path, inhibitors: Sequence[Inhibitor] | None) -> Iterator[str]:
    """Serves a bus at a path; None: a logind that never answers.

    Yields:
        Its address.
    """
    hello = _string(":1.1")
    answers: dict[bytes, tuple[str, bytes]] = {b"Hello": ("s", hello)}
    if inhibitors is not None:
        answers[b"ListInhibitors"] = ("a(ssssuu)", _inhibitors(inhibitors))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_serve, args=(connection, answers), daemon=True)
            thread.start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"unix:path={path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()

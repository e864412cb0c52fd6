"""What was recorded between a deployed guest client and a host, for tests to replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

CAPTURES = Path(__file__).resolve().parent.parent / "captures"

#: The recordings of the channel; those named ``*_api`` are of the application socket.
CHANNEL_FILES = tuple(
    sorted(path.stem for path in CAPTURES.glob("*.jsonl") if not path.stem.endswith("_api"))
)

#: The recordings of the application socket.
API_FILES = tuple(sorted(path.stem for path in CAPTURES.glob("*_api.jsonl")))

GUEST_TO_HOST, HOST_TO_GUEST = "g2h", "h2g"
APP_TO_GUEST, GUEST_TO_APP = "a2d", "d2a"


@attrs.frozen
class Captured:
    """One message as it was sent: seconds since the start, direction, bytes with newlines."""

    at_s: float
    direction: str
    data: bytes

    @property
    def line(self) -> bytes:
        """The message without its newlines."""
        return self.data.strip(b"\n")


def capture(name: str) -> list[Captured]:
    """The messages of one recording, in order; the end of the connection is left out."""
    lines = (CAPTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        Captured(record["t"], record["dir"], record["raw"].encode())
        for record in records
        if record["raw"]
    ]


@attrs.frozen
class ApiCaptured:
    """One message of the application socket: what :class:`Captured` says, and on which connection.

    ``says`` is what the recorder read in it: field by field, in the names of the C structs.
    """

    at_s: float
    connection: int
    direction: str
    data: bytes
    says: dict[str, Any]


def api_capture(name: str) -> list[ApiCaptured]:
    """The messages of one recording, in order; the ends of the connections are left out."""
    lines = (CAPTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := json.loads(line))["len"]]
    return [
        ApiCaptured(
            record["t"], record["conn"], record["dir"], bytes.fromhex(record["hex"]), *record["msg"]
        )
        for record in records
    ]

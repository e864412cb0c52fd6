"""The floor: the least that a host in Python can do for a heartbeat, by hand on epoll and a heap.

    python -m bench.floor CHANNEL_DIR CHANNELS SECONDS [packed]

The bytes are those of a real channel, answers are decoded by msgspec into the class that the host
uses, the echo is checked, the next beat armed. There is no state machine, no bound on anything, no
report, no task. Beats stand on the grid of the host's pacer, each channel's an interval after its
guest's init; or, packed, they share slots as the host's do, which spares wake-ups.
"""

from __future__ import annotations

import gc
import heapq
import json
import math
import random
import select
import socket
import sys
import time
from pathlib import Path
from typing import Final

import attrs
import msgspec

from bench.sample import WARM_UP_S, Meter, Sample, allow_descriptors, quantiles_ms, resident_kb
from hbtrio.nursery.pacer import SHARED, SLOT_S
from hbtrio.wire.channel_messages import ChallengeResponse
from support.guest_farm_process import channel_name

_INTERVAL_S: Final = 1.0
_READ_BYTES: Final = 4096

_ACK: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"init_ack","sequence":1,"invocation_id":%d}\n'
)
_CHALLENGE: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"challenge","sequence":%d,"heartbeat_challenge":%d}\n'
)


#: The grid of the plain floor's phases. Its own, and coarser than the host's: on a finer one it
#: wakes up more often, and a dearer floor would make the host look better than it is.
_GRID_S = 0.02


class _Channel:
    __slots__ = ("connection", "due", "held", "owed", "sequence")

    def __init__(self, connection: socket.socket, due: float) -> None:
        self.connection = connection
        self.due = due
        self.held = b""
        self.owed: int | None = None
        self.sequence = 1


class _Floor:
    def __init__(self, directory: Path, count: int, *, packed: bool) -> None:
        self.beats = 0
        self.misses = 0
        self.lateness: list[float] = []
        self._epoll = select.epoll()
        self._channels: dict[int, _Channel] = {}
        self._decode = msgspec.json.Decoder(ChallengeResponse).decode
        for index in range(count):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(directory / channel_name(index)))
            connection.recv(_READ_BYTES)  # its init, in one piece
            connection.send(_ACK % (1000 + index))
            connection.setblocking(False)
            due = (time.perf_counter() + _INTERVAL_S) // _GRID_S * _GRID_S
            self._channels[connection.fileno()] = _Channel(connection, due)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        if packed:
            self._pack()
        else:
            self._join()
        self._heap = [(one.due, index, one) for index, one in enumerate(self._channels.values())]
        heapq.heapify(self._heap)

    def _pack(self) -> None:
        start = time.perf_counter() // SLOT_S + 1
        used = -(-len(self._channels) // SHARED)
        for index, channel in enumerate(self._channels.values()):
            channel.due = (start + index // SHARED * round(_INTERVAL_S / SLOT_S) // used) * SLOT_S

    def _join(self) -> None:
        """Beats that came due while others connected are left out, each channel keeps its phase."""
        now = time.perf_counter()
        for channel in self._channels.values():
            channel.due += max(0, math.ceil((now - channel.due) / _INTERVAL_S)) * _INTERVAL_S

    def run(self, until: float) -> None:
        clock, heap, poll = time.perf_counter, self._heap, self._epoll.poll
        while (now := clock()) < until:
            for fd, _ in poll(max(0.0, heap[0][0] - now), 4096):
                self._read(self._channels[fd])
            now = clock()
            while heap[0][0] <= now:
                due, index, channel = heap[0]
                self._beat(channel)
                self.lateness.append(clock() - due)
                channel.due = due + _INTERVAL_S
                heapq.heapreplace(heap, (channel.due, index, channel))

    def _read(self, channel: _Channel) -> None:
        *lines, channel.held = (channel.held + channel.connection.recv(_READ_BYTES)).split(b"\n")
        for line in lines:
            if line:
                response = self._decode(line)
                if response.heartbeat_response == channel.owed:
                    channel.owed = None
                    self.beats += 1

    def _beat(self, channel: _Channel) -> None:
        if channel.owed is not None:
            self.misses += 1
        channel.owed = random.getrandbits(31)
        channel.sequence += 1
        channel.connection.send(_CHALLENGE % (channel.sequence, channel.owed))


def main(directory: str, count: int, seconds: float, *, packed: bool) -> Sample:
    """Measures a floor over channels that a farm has made."""
    allow_descriptors()
    before_kb = resident_kb()
    floor = _Floor(Path(directory), count, packed=packed)
    channel_kb = (resident_kb() - before_kb) / count
    gc.freeze()
    floor.run(time.perf_counter() + WARM_UP_S)
    floor.lateness.clear()
    beats, misses = floor.beats, floor.misses
    begin = Meter.read()
    floor.run(begin.at + seconds)
    end = Meter.read()
    return Sample(
        channels=count,
        seconds=end.at - begin.at,
        beats=floor.beats - beats,
        cpu_s=end.cpu_s - begin.cpu_s,
        wakeups=end.waits - begin.waits,
        channel_kb=channel_kb,
        late_ms=quantiles_ms(floor.lateness),
        misses=floor.misses - misses,
    )


if __name__ == "__main__":
    _sample = main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), packed=len(sys.argv) > 4)
    print(json.dumps(attrs.asdict(_sample)))

"""Simulates how bytes travel in one direction of a connection."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

import attrs

from hbtrio.simulate.timeline import Timeline

#: Between two arrivals of one pipe, in seconds, at least: at the same time, their order would be
#: drawn.
_APART_S: Final = 1e-7


@attrs.frozen
class Quality:
    """What a pipe is like.

    Args:
        latency_s: a typical latency, in seconds; each arrival takes 0.5 to 1.5 times as long.
        long: the share of arrivals that take up to ``long_times`` as long.
        long_times: see ``long``.
        split: the share of writes that arrive in two pieces.
        short: the share of reads that return less than there is.
        capacity: bytes that are on their way or unread, at most.
    """

    latency_s: float
    long: float = 0.01
    long_times: float = 50.0
    split: float = 0.05
    short: float = 0.02
    capacity: int = 65536


@attrs.frozen
class Strain:
    """What is worse than usual about a pipe; see :class:`Quality`. None: nothing."""

    split: float | None = None
    short: float | None = None


#: Nothing is worse than usual.
UNSTRAINED: Final = Strain()

#: Within a machine, and between two machines of a data centre.
LOCAL: Final = Quality(latency_s=50e-6)
NETWORK: Final = Quality(latency_s=300e-6)


class Pipe:
    """A byte stream from a writer to a reader: in order, delayed, bounded.

    Args:
        timeline: delivers.
        stream: its connection's random stream.
        quality: what it is like.
    """

    def __init__(self, timeline: Timeline, stream: random.Random, quality: Quality) -> None:
        #: Called when the reader finds something new, and when the writer has room again.
        self.on_arrival: Callable[[], object] = _nothing
        self.on_room: Callable[[], object] = _nothing
        #: Called with the bytes that arrive, and that are written, by whoever reads along.
        self.on_bytes: Callable[[bytes], object] | None = None
        self.on_written: Callable[[bytes], object] | None = None
        #: What the reader sees: bytes, then the end, or a reset at any time.
        self.unread = bytearray()
        self.ended = False
        self.reset = False
        #: No end of this pipe will read: what arrives is refused.
        self.deaf = False
        #: Called when bytes arrive at a deaf reader.
        self.on_refused: Callable[[], object] = _nothing
        self._timeline = timeline
        self._stream = stream
        self._usual = self.quality = quality
        self._on_way = 0
        self._last = 0.0
        self._held: list[Callable[[], object]] | None = None

    @property
    def room(self) -> int:
        """How many bytes can be written now."""
        return max(0, self.quality.capacity - self._on_way - len(self.unread))

    @property
    def has_news(self) -> bool:
        """Whether a read would return at once."""
        return bool(self.unread) or self.ended or self.reset

    # -- the writer's end --------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        """Sends bytes; returns how many there was room for."""
        taken = bytes(data[: self.room])
        if taken:
            if self.on_written is not None:
                self.on_written(taken)
            self._on_way += len(taken)
            cut = 0
            if len(taken) > 1 and self._stream.random() < self.quality.split:
                cut = self._stream.randrange(1, len(taken))
                self._send(partial(self._arrived, taken[:cut]))
            self._send(partial(self._arrived, taken[cut:]))
        return len(taken)

    def finish(self) -> None:
        """Ends the stream (FIN): the reader gets what was written, and then the end."""
        self._send(self._finished)

    def abort(self) -> None:
        """Resets the stream (RST); unread bytes may be lost, as on a real connection."""
        self._send(self._aborted)

    # -- the reader's end --------------------------------------------------------------------------

    def read(self, limit: int) -> bytes:
        """Returns unread bytes, at most ``limit``, sometimes fewer than there are."""
        unread = self.unread
        count = min(limit, len(unread))
        if count > 1 and self._stream.random() < self.quality.short:
            count = self._stream.randrange(1, count)
        data = bytes(unread[:count])
        del unread[:count]
        if data:
            self.on_room()
        return data

    # -- faults ------------------------------------------------------------------------------------

    @property
    def clogged(self) -> bool:
        """Whether what is sent is held back."""
        return self._held is not None

    def clog(self) -> None:
        """Holds back everything that would arrive from now on."""
        if self._held is None:
            self._held = []

    def unclog(self) -> None:
        """Delivers what was held back, in order; from now on bytes arrive again."""
        held, self._held = self._held or [], None
        for delivery in held:
            delivery()

    def strain(self, strain: Strain = UNSTRAINED) -> None:
        """Changes what the pipe is like from now on."""
        usual = self._usual
        self.quality = attrs.evolve(
            usual,
            split=usual.split if strain.split is None else strain.split,
            short=usual.short if strain.short is None else strain.short,
        )

    def cut(self) -> None:
        """Resets the stream at the reader now; what is on its way never arrives."""
        self._aborted()

    # -- arrivals ----------------------------------------------------------------------------------

    def _send(self, delivery: Callable[[], object]) -> None:
        latency = self.quality.latency_s
        draw = self._stream.random
        if draw() < self.quality.long:
            latency *= self.quality.long_times * draw()
        else:
            latency *= 0.5 + draw()
        self._last = max(self._last + _APART_S, self._timeline.now + latency)
        self._timeline.at(self._last, partial(self._deliver, delivery))

    def _deliver(self, delivery: Callable[[], object]) -> None:
        if self._held is not None:
            self._held.append(delivery)
        else:
            delivery()

    def _arrived(self, data: bytes) -> None:
        self._on_way -= len(data)
        if self.reset:
            return
        if self.deaf:
            self.on_refused()
            return
        self.unread += data
        if self.on_bytes is not None:
            self.on_bytes(data)
        self.on_arrival()

    def _finished(self) -> None:
        if not self.reset:
            self.ended = True
            self.on_arrival()

    def _aborted(self) -> None:
        if self.reset:
            return
        # Systems differ in whether a reset destroys what was received but not read.
        if self._stream.random() < 0.5:
            self.unread.clear()
        self.reset = True
        self.on_arrival()


def _nothing() -> None:
    pass

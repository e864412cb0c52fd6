"""Records what happened in a simulation, so that two of them can be compared.

*Events*, such as the start of a process or a fault, are kept as lines. Task steps and bytes are far
too many for that: they only go into a running digest, as the events do. If two simulations of one
seed have different digests, run both again with a file: the first line in which the files differ is
where they parted.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Final, Protocol, TextIO

#: Records that are digested at once: that costs less than one at a time.
_RECORDS: Final = 256


class Now(Protocol):
    """Knows the time, in seconds since the start of the simulation."""

    @property
    def now(self) -> float:
        """The time."""


class Trace:
    """The trace of one simulation.

    Args:
        clock: dates the lines.
        file: gets all lines, also those of task steps and bytes.
    """

    def __init__(self, clock: Now, file: TextIO | None = None) -> None:
        #: The lines of all events.
        self.events: list[str] = []
        #: How many task steps were taken.
        self.steps = 0
        self._clock = clock
        self._file = file
        #: What is not digested yet: the time of each record, and its text.
        self._times = array("d")
        self._texts: list[str] = []
        self._times_hash = hashlib.blake2b(digest_size=16)
        self._texts_hash = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """The digest of everything so far, in hexadecimal."""
        self._flush()
        both = self._times_hash.digest() + self._texts_hash.digest()
        return hashlib.blake2b(both, digest_size=16).hexdigest()

    def event(self, process: str, *words: str, **fields: object) -> None:
        """Records an event.

        Args:
            process: to which process it happened, or who caused it.
            words: what happened.
            fields: shown as ``NAME=VALUE``, in the order of the call; a value must look the same in
                each run, so no object with an address.
        """
        texts = [*words, *(f"{name}={value}" for name, value in fields.items())]
        text = f"{process} {' '.join(texts)}"
        line = f"{self._clock.now:.7f} {text}"
        self.events.append(line)
        self._add(text)
        if self._file is not None:
            self._file.write(f"{line}\n")

    def step(self, process: str, task: str) -> None:
        """Records that a process takes a step of a task."""
        self.steps += 1
        if task.endswith(">"):
            # Named after an object: its address is another one in each run.
            task = task.partition(" at 0x")[0]
        # Not by _add(): there are so many of them that the call would count.
        self._times.append(self._clock.now)
        texts = self._texts
        texts.append(f"{process} step {task}")
        if len(texts) >= _RECORDS:
            self._flush()
        if self._file is not None:
            self._file.write(f"{self._clock.now!r} {process} step {task}\n")

    def sent(self, sender: str, data: bytes) -> None:
        """Records bytes that ``sender`` puts into a stream."""
        self._add(f"{sender} sends {len(data)}\n{data.decode('latin-1')}")
        if self._file is not None:
            self._file.write(f"{self._clock.now!r} {sender} sends {data!r}\n")

    def _add(self, text: str) -> None:
        self._times.append(self._clock.now)
        self._texts.append(text)
        if len(self._texts) >= _RECORDS:
            self._flush()

    def _flush(self) -> None:
        # Apart from each other: to write a time in decimals takes longer than the rest of a record.
        self._times_hash.update(self._times.tobytes())
        self._texts_hash.update("\n".join([*self._texts, ""]).encode())
        self._times = array("d")
        self._texts.clear()

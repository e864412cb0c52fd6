"""Keeps the results of a campaign in a file, so that one that was ended goes on where it was.

The first line has the options of the campaign, and each other line a result. A line that was cut
off, because the campaign was killed while writing it, is removed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from types import TracebackType
from typing import Final, Self

import attrs
import msgspec

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.simulate.seed_result import SeedResult, from_line, to_line
from hbtrio.text import printable

#: The name of the file in the directory of a report.
RESULTS_NAME: Final = "results.jsonl"


@attrs.frozen
class Options:
    """What has to be the same for all results of a file.

    Args:
        minutes: of each run, virtual.
        vms: instances of each run.
        hosts: hosts of each run.
        faults: ``default``, ``none`` or what identifies a file of faults.
        version: of hbtrio.
    """

    minutes: float
    vms: int
    hosts: int
    faults: str
    version: str


class ResultsFile:
    """An open file of results; others who open it are refused meanwhile.

    Args:
        path: created if it is not there.
        options: of the campaign.

    Attributes:
        results: those that were in the file.

    Raises:
        UserError: the file can't be used, holds other results, or is in use.
    """

    def __init__(self, path: str, options: Options) -> None:
        self._name = printable(path)
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._fault(os_reason(error)) from error
        try:
            self.results = self._begin(options)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def append(self, result: SeedResult) -> None:
        """Adds a result.

        Raises:
            UserError: it can't be written.
        """
        self._write(to_line(result))

    def _begin(self, options: Options) -> list[SeedResult]:
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                raise self._fault("not a regular file")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(self._fd, "rb", closefd=False) as file:
                data = file.read()
            whole = data.rfind(b"\n") + 1
            os.ftruncate(self._fd, whole)
            os.lseek(self._fd, whole, os.SEEK_SET)
        except BlockingIOError as error:
            raise self._fault("another campaign uses it", ExitStatus.IN_USE) from error
        except OSError as error:
            raise self._fault(os_reason(error)) from error
        head = msgspec.json.encode(options)
        if not whole:
            self._write(head + b"\n")
            return []
        first, *lines = data[: whole - 1].split(b"\n")
        if first != head:
            raise self._fault(
                "results of another campaign or version; remove it or choose another directory"
            )
        try:
            return [from_line(line) for line in lines]
        except msgspec.DecodeError as error:
            raise self._fault(f"damaged: {error}") from error

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise self._fault(os_reason(error), ExitStatus.FAILED) from error

    def _fault(self, reason: str, status: ExitStatus = ExitStatus.USAGE) -> UserError:
        return UserError(f"{self._name}: {printable(reason)}", status)

"""Asks libvirt through ``virsh``, without its C binding.

A ``virsh`` process is bounded and can be killed; a call of the C binding that hangs in libvirtd
can't be. The connection is read-only and needs no group. docs/libvirt.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

import trio

from hbtrio.errors import is_thread_shortage
from hbtrio.nursery.windows import Window
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessNotStarted, ProcessResult, ProcessRunner
from hbtrio.wire.virsh import (
    DOMAINS_QUESTION,
    DomainHint,
    DomainRow,
    LiveXml,
    read_domains,
    read_event,
    read_live_xml,
    read_traffic,
)

#: Seconds that a question may take. The answer takes 40 to 80 ms; libvirtd may hang.
QUESTION_S: Final = 3.0

#: Bytes of an answer: 200 for each of 80,000 domains. Beyond that it is not read, and no answer.
_ANSWER_BYTES: Final = 16 * 1024 * 1024

#: Characters of an answer that is read in a thread: about 1,500 domains, 5 ms.
_LONG: Final = 256 * 1024

#: Bytes of one domain's XML, on average of those asked for together.
_XML_BYTES: Final = 256 * 1024

#: Bytes of a line of ``virsh event``; a longer one is dropped.
_LINE_BYTES: Final = 4096

#: Bytes kept of an error.
_ERROR_BYTES: Final = 1024


class LibvirtSilent(Exception):
    """libvirt gave no answer; the text is why."""


class Virsh:
    """Runs ``virsh``.

    Args:
        processes: runs it.
        uri: of the libvirt to ask, such as ``qemu:///system``.
        guard: the process's on-time guard: an answer that came while the process was stopped
            counts.
    """

    def __init__(self, processes: ProcessRunner, uri: str, guard: OnTimeGuard) -> None:
        self._processes = processes
        self._guard = guard
        self._argv = ("virsh", "-r", "-q", "-c", uri)
        # virsh translates its text.
        self._environment: Mapping[str, str] = {"LC_ALL": "C"}
        #: Whether events are followed, and how often that has ended: some may have been missed.
        self.is_following = False
        self.gaps = 0
        self._last_text = ""
        self._last_rows: dict[str, DomainRow] = {}

    async def domains(self) -> dict[str, DomainRow]:
        """Returns all domains by uuid, running or not; the same object if nothing has changed.

        The question takes no job lock and no QEMU monitor: a long save or a hung QEMU does not
        delay it.

        Raises:
            LibvirtSilent: no answer within ``QUESTION_S``, or an error.
        """
        text = await self._ask(DOMAINS_QUESTION, _ANSWER_BYTES)
        if text != self._last_text:
            # Beats go on while a long answer is read.
            try:
                rows = (
                    await trio.to_thread.run_sync(read_domains, text)
                    if len(text) > _LONG
                    else read_domains(text)
                )
            except RuntimeError as error:
                if not is_thread_shortage(error):
                    raise
                rows = read_domains(text)
            if rows is None:
                raise LibvirtSilent("virsh printed something that is not its list of domains")
            self._last_text, self._last_rows = text, rows
        return self._last_rows

    async def live_xml(self, uuids: Collection[str]) -> dict[str, LiveXml]:
        """Returns channels and metadata of running domains, by their uuids.

        A domain of which libvirt gives no XML, such as one that has just been undefined, is left
        out.

        Raises:
            LibvirtSilent: no answer within ``QUESTION_S``.
        """
        question = "; ".join(f"dumpxml {uuid}" for uuid in uuids)
        return read_live_xml(await self._ask(question, _XML_BYTES * len(uuids), partly=True))

    async def traffic(self, uuid: str) -> int | None:
        """Returns how many disk requests and sent packets a domain has made.

        QEMU is asked for it through its monitor: a hung QEMU, or a save, makes this question hang.

        Raises:
            LibvirtSilent: no answer within ``QUESTION_S``, or an error.
        """
        question = f"domstats --raw --block --interface {uuid}"
        return read_traffic(await self._ask(question, _XML_BYTES))

    async def follow_events(self, on_hint: Callable[[DomainHint], None]) -> str:
        """Passes on each event until ``virsh event`` ends, and returns why it ended.

        It ends within 10 ms of libvirtd, and 8 s after libvirtd has hung. What happens before it
        has subscribed is lost.
        """
        self.is_following = True
        try:
            return await self._follow_events(_Lines(on_hint))
        finally:
            self.is_following = False
            self.gaps += 1

    async def _follow_events(self, lines: _Lines) -> str:
        argv = (*self._argv, "-k", "2", "-K", "3", "event", "--all", "--loop", "--timestamp")
        try:
            result = await self._processes.run(
                argv, max_output=_ERROR_BYTES, env=self._environment, on_output=lines.feed
            )
        except ProcessNotStarted as error:
            return str(error)
        return _last_line(result.stderr) or "virsh event has ended"

    async def _ask(self, question: str, max_output: int, *, partly: bool = False) -> str:
        window: Window[ProcessResult | ProcessNotStarted] = Window(QUESTION_S, self._guard)
        result: ProcessResult | ProcessNotStarted | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, window, (*self._argv, question), max_output)
            with suppress(trio.TooSlowError):
                result = await window.wait()
            nursery.cancel_scope.cancel()
        if result is None:
            raise LibvirtSilent(f"no answer within {QUESTION_S:g} s")
        if isinstance(result, ProcessNotStarted):
            raise LibvirtSilent(str(result)) from result
        if result.truncated:
            raise LibvirtSilent(f"its answer is longer than {max_output} bytes")
        if result.exit_code != 0 and not (partly and result.stdout):
            raise LibvirtSilent(_last_line(result.stderr) or "virsh failed")
        return result.stdout.decode("utf-8", "replace")

    async def _run(
        self,
        window: Window[ProcessResult | ProcessNotStarted],
        argv: tuple[str, ...],
        max_output: int,
    ) -> None:
        try:
            result = await self._processes.run(argv, max_output=max_output, env=self._environment)
        except ProcessNotStarted as error:
            window.close(error)
        else:
            window.close(result)


def _last_line(stderr: bytes) -> str:
    """The cause: lines before it say what could not be done for it."""
    lines = stderr.decode("utf-8", "replace").split("\n")
    texts = [line.removeprefix("error: ").strip() for line in lines]
    return next((text for text in reversed(texts) if text), "")


class _Lines:
    """Cuts the output of ``virsh event`` into lines and reads them; holds one line at most."""

    def __init__(self, on_hint: Callable[[DomainHint], None]) -> None:
        self._on_hint = on_hint
        self._rest = b""
        self._too_long = False

    def feed(self, chunk: bytes) -> None:
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if not self._too_long and len(line) <= _LINE_BYTES:
                hint = read_event(line.decode("utf-8", "replace"))
                if hint is not None:
                    self._on_hint(hint)
            self._too_long = False
        self._too_long = self._too_long or len(rest) > _LINE_BYTES
        self._rest = b"" if self._too_long else rest

"""Uses renewed certificates and tokens without a restart, and warns before certificates expire.

The files are looked at every ``CHECK_S``, in a thread, since a file system may hang. What is used
for a connection that is up stays: TLS verifies only at its begin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import attrs
import trio

from hbtrio.errors import is_thread_shortage
from hbtrio.log import LogOnce
from hbtrio.policy.expiry import ExpiryWarnings, FileCertificate, expiry_text, threshold
from hbtrio.system.renewed_files import RenewedFiles

_log = logging.getLogger("hbtrio.files")

#: Seconds between two looks at the files. A renewed file is in use after two of them.
CHECK_S: Final = 10.0


class Certified(Protocol):
    """What was read of files with certificates: a TLS context."""

    @property
    def certificates(self) -> Sequence[FileCertificate]:
        """Returns the certificates that expire first."""


CertifiedT = TypeVar("CertifiedT", bound=Certified)


@attrs.frozen
class _Watched:
    """Files and what they are called in the log, and the log's memory of their fault."""

    what: str
    files: RenewedFiles[Any]
    fault_log: LogOnce = attrs.field(factory=LogOnce)


class FileWatch:
    """Watches the files of one daemon.

    Args:
        wall_clock: returns the current time, timezone-aware.
    """

    def __init__(self, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._wall_clock = wall_clock
        self._watched: list[_Watched] = []
        self._tls: list[RenewedFiles[Any]] = []
        #: When the certificates expire that peers have shown, by the peer's name.
        self._peers: dict[str, datetime] = {}
        self._warnings = ExpiryWarnings()
        #: Called with each warning that a certificate expires.
        self.on_warning: Callable[[str], None] = lambda _: None

    def add(self, what: str, files: RenewedFiles[str]) -> None:
        """Watches a file without certificates, such as a token; ``what`` is its name in the log."""
        self._watched.append(_Watched(what, files))

    def add_tls(self, what: str, files: RenewedFiles[CertifiedT]) -> None:
        """Watches the files of a TLS context."""
        self._watched.append(_Watched(what, files))
        self._tls.append(files)

    def note_peer(self, name: str, expires: datetime | None) -> None:
        """Notes when the certificate expires that a peer has just shown; None: it had none."""
        if expires is None:
            self.forget_peer(name)
        else:
            self._peers[name] = expires

    def forget_peer(self, name: str) -> None:
        """Forgets the certificate of a peer without a connection."""
        self._peers.pop(name, None)

    @property
    def peers(self) -> Mapping[str, datetime]:
        """Returns when the certificates expire that peers have shown, by the peer's name."""
        return self._peers

    @property
    def certificates(self) -> Sequence[FileCertificate]:
        """Returns the daemon's own certificates and authorities, each file once."""
        found = {}
        for files in self._tls:
            loaded: Certified = files.value
            found.update({(one.where, one.path): one for one in loaded.certificates})
        return list(found.values())

    @property
    def faults(self) -> list[str]:
        """Returns why renewed files can't be used; for those the previous ones are in use."""
        return [one.files.fault for one in self._watched if one.files.fault]

    def warnings(self) -> list[str]:
        """Returns a line for each own certificate and authority that expires within 30 days."""
        now = self._wall_clock()
        return [
            f"{_called(one)} {expiry_text(one.expires, now)}"
            for one in self.certificates
            if threshold(one.expires, now) is not None
        ]

    def peer_warning(self, name: str) -> str:
        """Returns a text if the certificate that a peer has shown last expires within 30 days."""
        expires, now = self._peers.get(name), self._wall_clock()
        if expires is None or threshold(expires, now) is None:
            return ""
        return f"its certificate {expiry_text(expires, now)}"

    async def run(self) -> None:
        """Watches the files until cancelled; returns at once if there are none."""
        while self._watched:
            self.warn()
            await trio.sleep(CHECK_S)
            await self.check()

    async def check(self) -> None:
        """Looks at the files once; logs what was renewed, and what can't be used."""
        for one in self._watched:
            try:
                renewed = await trio.to_thread.run_sync(one.files.check, abandon_on_cancel=True)
            except RuntimeError as error:
                if not is_thread_shortage(error):
                    raise
                return  # the next look is soon enough
            self._log_check(one, renewed=renewed)

    def _log_check(self, watched: _Watched, *, renewed: bool) -> None:
        if fault := watched.files.fault:
            if watched.fault_log.is_new(fault):
                _log.warning("%s; what was read before stays in use", fault)
            return
        recovered = watched.fault_log.clear()
        if renewed:
            _log.info("%s: renewed files are in use", watched.what)
        elif recovered:
            _log.info("%s: the files are again those in use", watched.what)

    def warn(self) -> None:
        """Logs certificates that expire soon, each threshold once."""
        now = self._wall_clock()
        names = set()
        for one in self.certificates:
            names.add(name := f"{one.where} {one.path}")
            if self._warnings.is_due(name, one.expires, now):
                self._warn(f"{_called(one)} {expiry_text(one.expires, now)}")
        for peer, expires in self._peers.items():
            names.add(name := f"peer {peer}")
            if self._warnings.is_due(name, expires, now):
                text = f"{peer}: the certificate of its connection {expiry_text(expires, now)}"
                self._warn(f"{text}; a renewed one is seen at its next")
        self._warnings.keep_only(names)

    def _warn(self, text: str) -> None:
        _log.warning("%s", text)
        self.on_warning(text)


def _called(one: FileCertificate) -> str:
    owner = f" of {one.owner}" if one.owner else ""
    return f"{one.where}: {one.path}: the certificate{owner}"

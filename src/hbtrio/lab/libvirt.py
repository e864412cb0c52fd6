"""Plays the libvirt of one host: its ``virsh`` prints what the lab's domains do.

    DIR/virsh           the program, for a host that has DIR in its PATH
    DIR/domains         what it prints for ``list`` and ``domstats --state``
    DIR/xml.UUID        for ``dumpxml``
    DIR/events          for ``event``, a line each
    DIR/hung            while it is there, no question is answered

A host asks it as it asks the real one, so that a VM may be paused, destroyed or reset behind the
host's back.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hbtrio.lab.handler_script import replace
from hbtrio.lab.virsh_output import (
    PAUSED,
    RUNNING,
    SHUT_OFF,
    ListedDomain,
    lifecycle,
    list_text,
    reset_event,
)

#: The last word holds the questions: ``dumpxml UUID; dumpxml UUID``.
_VIRSH: Final = """\
#!/bin/sh
cd {directory} || exit 1
for last; do :; done
[ ! -e hung ] || exec sleep 3600
case " $* " in
    *" event "*) exec tail -n 0 -f events ;;
    *" list --all "*) exec cat domains ;;
    *" dumpxml "*)
        for word in $last; do
            [ ! -f "xml.${{word%;}}" ] || cat "xml.${{word%;}}"
        done ;;
    *) exit 1 ;;
esac
"""

#: States with their reasons, as libvirt numbers them.
_BOOTED, _MIGRATED_IN, _UNPAUSED = (RUNNING, 1), (RUNNING, 2), (RUNNING, 5)
_PAUSED_BY_USER: Final = (PAUSED, 1)
_DESTROYED, _MIGRATED_AWAY = (SHUT_OFF, 2), (SHUT_OFF, 4)


class LabLibvirt:
    """The libvirt of one host of the lab.

    Args:
        directory: for its files; it is made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._domains: dict[str, ListedDomain] = {}
        self._last_id = 0
        self._events = directory / "events"
        directory.mkdir()
        self._events.touch()
        replace(directory / "virsh", _VIRSH.format(directory=shlex.quote(str(directory))), 0o755)
        self._list()

    def starts(self, uuid: str, name: str, channel: str, *, migrated: bool = False) -> None:
        """A domain starts here, by a boot or a migration, with its channel's socket at a path."""
        self._last_id += 1
        state = _MIGRATED_IN if migrated else _BOOTED
        domain = ListedDomain(uuid, name, *state, self._last_id, (channel,))
        self._domains[uuid] = domain
        replace(self.directory / f"xml.{uuid}", domain.xml)
        self._happens(name, "Started Migrated" if migrated else "Started Booted")

    def ends(self, uuid: str, *, migrated: bool = False) -> None:
        """A domain is destroyed, or has migrated away; it stays defined."""
        domain = self._domains[uuid]
        domain.state, domain.reason = _MIGRATED_AWAY if migrated else _DESTROYED
        domain.domain_id = -1
        (self.directory / f"xml.{uuid}").unlink()
        self._happens(domain.name, "Stopped Migrated" if migrated else "Stopped Destroyed")

    def pauses(self, uuid: str) -> None:
        """``virsh suspend``: the vCPUs stand still."""
        domain = self._domains[uuid]
        domain.state, domain.reason = _PAUSED_BY_USER
        self._happens(domain.name, "Suspended Paused")

    def resumes(self, uuid: str) -> None:
        """``virsh resume``."""
        domain = self._domains[uuid]
        domain.state, domain.reason = _UNPAUSED
        self._happens(domain.name, "Resumed Unpaused")

    def resets(self, uuid: str) -> None:
        """``virsh reset``: no state changes."""
        self._print(reset_event(self._domains[uuid].name))

    def hangs(self) -> None:
        """Questions are not answered, until :meth:`goes_on`."""
        (self.directory / "hung").touch()

    def goes_on(self) -> None:
        """Those that come from now on are answered."""
        (self.directory / "hung").unlink(missing_ok=True)

    def _happens(self, name: str, event: str) -> None:
        self._list()
        self._print(lifecycle(name, event))

    def _print(self, line: str) -> None:
        time = datetime.now(UTC).isoformat(" ", "milliseconds")
        with open(self._events, "a", encoding="utf-8") as events:
            events.write(f"{time}: {line}\n")

    def _list(self) -> None:
        replace(self.directory / "domains", list_text(self._domains.values()))

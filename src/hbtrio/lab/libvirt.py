"""Plays the libvirt of one host: its ``virsh`` prints what the lab's domains do.

    DIR/virsh           the program, for a host that has DIR in its PATH
    DIR/domains         what it prints for ``list`` and ``domstats --state``
    DIR/xml.UUID        for ``dumpxml``
    DIR/events          for ``event``, a line each

A host asks it as it asks the real one, so that a VM may be paused, destroyed or reset behind the
host's back.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from hbtrio.lab.handler_script import replace
from hbtrio.wire.virsh import CHANNEL_NAME

#: The last word holds the questions: ``dumpxml UUID; dumpxml UUID``.
_VIRSH: Final = """\
#!/bin/sh
cd {directory} || exit 1
for last; do :; done
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

_XML: Final = """\
<domain><uuid>{uuid}</uuid><devices><channel type='unix'><source mode='bind' path='{path}'/>\
<target type='virtio' name='{channel}'/></channel></devices></domain>
"""

#: States with their reasons, as libvirt numbers them.
_BOOTED, _MIGRATED_IN, _UNPAUSED = (1, 1), (1, 2), (1, 5)
_PAUSED_BY_USER: Final = (3, 1)
_DESTROYED, _MIGRATED_AWAY = (5, 2), (5, 4)


@attrs.define
class _Domain:
    name: str
    state: tuple[int, int]
    domain_id: int


class LabLibvirt:
    """The libvirt of one host of the lab.

    Args:
        directory: for its files; it is made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._domains: dict[str, _Domain] = {}
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
        self._domains[uuid] = _Domain(name, state, self._last_id)
        text = _XML.format(uuid=uuid, path=channel, channel=CHANNEL_NAME)
        replace(self.directory / f"xml.{uuid}", text)
        self._happens(name, "Started Migrated" if migrated else "Started Booted")

    def ends(self, uuid: str, *, migrated: bool = False) -> None:
        """A domain is destroyed, or has migrated away; it stays defined."""
        domain = self._domains[uuid]
        domain.state, domain.domain_id = _MIGRATED_AWAY if migrated else _DESTROYED, -1
        (self.directory / f"xml.{uuid}").unlink()
        self._happens(domain.name, "Stopped Migrated" if migrated else "Stopped Destroyed")

    def pauses(self, uuid: str) -> None:
        """``virsh suspend``: the vCPUs stand still."""
        self._domains[uuid].state = _PAUSED_BY_USER
        self._happens(self._domains[uuid].name, "Suspended Paused")

    def resumes(self, uuid: str) -> None:
        """``virsh resume``."""
        self._domains[uuid].state = _UNPAUSED
        self._happens(self._domains[uuid].name, "Resumed Unpaused")

    def resets(self, uuid: str) -> None:
        """``virsh reset``: no state changes."""
        self._print(f"event 'reboot' for domain '{self._domains[uuid].name}'")

    def _happens(self, name: str, event: str) -> None:
        self._list()
        self._print(f"event 'lifecycle' for domain '{name}': {event}")

    def _print(self, line: str) -> None:
        time = datetime.now(UTC).isoformat(" ", "milliseconds")
        with open(self._events, "a", encoding="utf-8") as events:
            events.write(f"{time}: {line}\n")

    def _list(self) -> None:
        lines = []
        for uuid, domain in self._domains.items():
            number = domain.domain_id if domain.domain_id >= 0 else "-"
            lines.append(f"{uuid} {number} {domain.name}\n")
        for domain in self._domains.values():
            state, reason = domain.state
            lines.append(f"Domain: '{domain.name}'\n  state.state={state}\n")
            lines.append(f"  state.reason={reason}\n\n")
        # With -q, virsh's echo ends no line.
        lines.insert(len(self._domains), "STATS")
        replace(self.directory / "domains", "".join(lines))

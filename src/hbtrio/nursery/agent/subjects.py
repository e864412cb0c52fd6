"""Says whom a line of the agent's log is about: an instance or a host, by its name too."""

from __future__ import annotations

from hbtrio.log import Subject
from hbtrio.log.subject import NOBODY, is_uuid
from hbtrio.nursery.agent.fleet import Fleet


class FleetSubjects:
    """Knows the names of the fleet's instances and hosts, for the agent's log.

    Args:
        fleet: what the agent knows of them.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def find(self, text: str) -> Subject:
        """Returns the instance or host that has this uuid or name; ``NOBODY`` if there is none.

        A uuid that is unknown to the agent is taken for an instance's.
        """
        if not is_uuid(text):
            known = text in self._fleet.sessions or text in self._fleet.down
            return Subject(host=text) if known else NOBODY
        if (host := self._fleet.hosts.get(text)) is not None:
            return Subject(host=host.hostname)
        if (bound := self._fleet.instances.get(text)) is None:
            return self._unbound(text)
        live = self._fleet.live(text)
        # A host that an instance moves to reports it before it knows its name.
        name = "" if live is None else live.name
        return Subject(text, name or self._fleet.last_name(bound), bound.hostname)

    def _unbound(self, uuid: str) -> Subject:
        for hostname, session in self._fleet.sessions.items():
            if (reported := session.instances.get(uuid)) is not None:
                return Subject(uuid, reported.name, hostname)
        return Subject(uuid)

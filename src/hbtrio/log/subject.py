"""Finds whom a line of the log is about, so that each names its instance: by uuid and by name.

A line's arguments name it: one that is an instance's uuid, or else one that is a host's name. Who
logs gives the uuid and nothing more; what the daemon knows of the instance is added in one place.
Only whole arguments count, because a tenant's text may contain anybody's uuid.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

import msgspec

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Subject(msgspec.Struct, frozen=True):
    """Whom a line is about.

    Attributes:
        uuid: the instance; empty if it is about none.
        name: its name, a tenant's text; empty if it is unknown.
        host: the host's name; empty if it is about none.
    """

    uuid: str = ""
    name: str = ""
    host: str = ""

    def completed(self, own: Subject) -> Subject:
        """Fills what is empty with what the daemon's own lines are about."""
        return Subject(self.uuid or own.uuid, self.name or own.name, self.host or own.host)


#: Nobody in particular.
NOBODY: Final = Subject()

#: Returns what is known of an argument of a line; ``NOBODY`` if it names neither an instance nor a
#: host. Called in the thread that logs, so it must not wait.
Find = Callable[[str], Subject]


def is_uuid(text: str) -> bool:
    """Returns whether a text is a uuid, as hosts and agents write them, and nothing besides."""
    return _UUID.fullmatch(text) is not None


def by_uuid(text: str) -> Subject:
    """Knows the uuids of instances by their form, and no names."""
    return Subject(text) if is_uuid(text) else NOBODY


def note_subject(record: logging.LogRecord, find: Find) -> None:
    """Notes in a record whom it is about: the first instance that it names, else the first host.

    Args:
        record: as it was logged, with its arguments.
        find: what is known of an argument.
    """
    record.__dict__["subject"] = _found(record, find)


def subject_of(record: logging.LogRecord) -> Subject:
    """Returns whom a record is about, as it was noted; ``NOBODY`` if nothing was."""
    subject = getattr(record, "subject", NOBODY)
    assert isinstance(subject, Subject)
    return subject


def _found(record: logging.LogRecord, find: Find) -> Subject:
    first, name = NOBODY, getattr(record, "instance_name", "")
    args = record.args if isinstance(record.args, tuple) else ()
    for arg in (getattr(record, "instance_uuid", ""), *args):
        # Exactly text: a closed list's word is neither a uuid nor a host.
        if type(arg) is not str:
            continue
        found = find(arg)
        if found.uuid:
            return msgspec.structs.replace(found, name=found.name or name)
        first = first if first.host else found
    return first


def fields(event: str = "", *, uuid: str = "", name: str = "") -> dict[str, str]:
    """Returns the ``extra`` of a log call: what its arguments don't tell.

    Args:
        event: a word of a closed list: the line's field ``event``.
        uuid: the instance, if no argument is its uuid and nothing else.
        name: the instance's, if who logs knows it better than :data:`Find` does: the instance may
            be gone already.
    """
    return {"event": event, "instance_uuid": uuid, "instance_name": name}

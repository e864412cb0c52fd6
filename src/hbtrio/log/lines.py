"""What a record of the log looks like: a line of text, or a JSON object on one line."""

from __future__ import annotations

import json
import logging
import os
import textwrap
import time
from datetime import UTC, datetime
from typing import Final, Protocol

from hbtrio.log.subject import Subject, subject_of
from hbtrio.text import blanked, printable_json, printable_lines

#: Longer texts are cut to this many characters, because they may contain a tenant's text.
_LENGTH: Final = 2000

#: Stands before each line of a traceback.
_INDENT: Final = "  "

#: The severities of syslog(3) and the journal, by the least level that has them.
_SEVERITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4))
_INFO, _DEBUG = 6, 7


class Lines(Protocol):
    """Writes records as lines."""

    def message(self, record: logging.LogRecord) -> str:
        """Returns a record for a log that adds the time and the level itself."""

    def line(self, record: logging.LogRecord) -> str:
        """Returns a record with its time and level, without a newline."""


class TextLines:
    """Writes records as text for readers.

    Args:
        prefix: text before each message.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def message(self, record: logging.LogRecord) -> str:
        """See :class:`Lines`; a traceback takes further lines, which are indented."""
        text = f"{self._prefix} {message(record)}" if self._prefix else message(record)
        # A traceback is unreadable on one line. An exception's message may hold a tenant's text:
        # indented, no line of it looks like a record.
        if record.exc_text:
            text = f"{text}\n{textwrap.indent(printable_lines(record.exc_text), _INDENT)}"
        return text

    def line(self, record: logging.LogRecord) -> str:
        """See :class:`Lines`."""
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{now}.{int(record.msecs):03d} {record.levelname} {self.message(record)}"


class JsonLines:
    """Writes records as JSON objects, for programs. The keys are a stable interface.

    ``time`` (RFC 3339 with milliseconds), ``level``, ``program``, ``pid`` and ``message`` are
    always there; ``uuid``, ``name``, ``host``, ``event`` and ``traceback`` where they are known.

    Args:
        program: the name of the program.
        own: whom lines are about that name nobody else.
    """

    def __init__(self, program: str, own: Subject) -> None:
        self._program = program
        self._own = own
        self._pid = os.getpid()

    def message(self, record: logging.LogRecord) -> str:
        """See :class:`Lines`: the same."""
        return self.line(record)

    def line(self, record: logging.LogRecord) -> str:
        """See :class:`Lines`."""
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        fields: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "program": self._program,
            "pid": self._pid,
        }
        fields |= fields_of(record, self._own)
        fields["message"] = message(record)
        if record.exc_text:
            fields["traceback"] = printable_lines(record.exc_text)
        data = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return printable_json(data).decode()


def message(record: logging.LogRecord) -> str:
    """Returns a record's text on one line, whatever a tenant's text contains, without traceback.

    The instance's name comes last: it is a tenant's text, and must not be mistaken for the line's
    own.
    """
    text = blanked(record.getMessage()[:_LENGTH])
    subject = subject_of(record)
    return f"{text} ({blanked(subject.name)})" if subject.uuid and subject.name else text


def fields_of(record: logging.LogRecord, own: Subject) -> dict[str, str]:
    """Returns whom a record is about, and its event: those of the four that are known.

    Args:
        record: the record.
        own: whom it is about if it names nobody else.
    """
    subject = subject_of(record).completed(own)
    event = getattr(record, "event", "")
    fields = {"uuid": subject.uuid, "name": subject.name, "host": subject.host, "event": event}
    return {key: blanked(value) for key, value in fields.items() if value}


def severity(level: int) -> int:
    """Returns the severity of syslog(3) of a level of :mod:`logging`."""
    for least, number in _SEVERITIES:
        if level >= least:
            return number
    return _INFO if level >= logging.INFO else _DEBUG

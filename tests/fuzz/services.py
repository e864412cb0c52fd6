"""What must hold for an HTTP connection and for the agent's store."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse
from trio.testing import MockClock

from fuzz.draw import Draw
from hbtrio.errors import UserError
from hbtrio.fsm.delivery import OutboxKind
from hbtrio.store import history, host_rows, outbox, rounds
from hbtrio.store.database import open_database
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    Moment,
)
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.jobs import Job, StoreFault, perform
from hbtrio.store.migration import Schema, migrate
from hbtrio.store.records import HistoryEntry, NewEntry, RoundRecord
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction, Event, VoteResult
from support.http_cases import Receive, Scope, Send, ask

# -- HTTP ------------------------------------------------------------------------------------------

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")


async def _look_at_everything(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    url = request.url
    seen: list[Any] = [url.path, url.hostname, url.port, request.base_url, request.cookies]
    seen += [dict(request.query_params), await request.body()]
    await JSONResponse([*map(repr, seen)])(scope, receive, send)


def http_requests(data: bytes) -> None:
    """A connection answers each request, and refuses a faulty one; the application never raises."""
    answer = trio.run(ask, _look_at_everything, *Draw(data).pieces(), clock=MockClock(0, 0))
    if answer:
        status = _STATUS.match(answer)
        assert status is not None, answer[:80]
        assert status[1] != b"500"


# -- the store -------------------------------------------------------------------------------------

T0: Final = datetime(2025, 3, 1, 12, tzinfo=UTC)


def _read_all(db: sqlite3.Connection) -> tuple[Any, ...]:
    return rounds.still_open(db), history.read(db, 100, None, None), outbox.entries(db, 100)


def _write(db: sqlite3.Connection, texts: tuple[str, str, str]) -> None:
    first, second, third = texts
    entry = HistoryEntry(
        T0, "vote", "uuid", first, second, Event.STOP, VoteResult.REJECT, third,
        CorrectiveAction.REBOOT, T0, "c1", first,
    )  # fmt: skip
    history.record(db, entry, T0.timestamp())
    rounds.open_round(
        db, RoundRecord("c1", "uuid", first, Event.STOP, True, second, T0, 8.0, boot_id=third)
    )
    outbox.queue(db, [NewEntry(OutboxKind.ALARM, "uuid", "{}", hostname=first)], T0.timestamp())


def store_texts(data: bytes) -> None:
    """A tenant's or operator's texts are what they were once stored, but for half surrogates."""
    draw = Draw(data)
    texts = draw.text(), draw.text(), draw.text()
    first, second, third = (text.encode("utf-8", "replace").decode() for text in texts)
    with contextlib.closing(_copy(_empty())) as db:
        _write(db, texts)
        (opened,), (record,), (queued,) = _read_all(db)
    assert (opened.hostname, opened.asked_by, opened.boot_id) == (first, second, third)
    entry = record.entry
    assert (entry.hostname, entry.reason, entry.who, entry.note) == (first, second, third, first)
    assert queued.kind is OutboxKind.ALARM


@cache
def _empty() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, AGENT_SCHEMA.migrations)
        return db.serialize()


def _copy(image: bytes) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(image)
    return db


def _write_host(db: sqlite3.Connection) -> None:
    known = KnownInstance(
        uuid="uuid", state="heartbeating", boot_id="boot", ill_action=CorrectiveAction.LOG
    )
    host_rows.put_instances(db, [known])
    action = ActionRecord(
        id="a1", uuid="uuid", name=ActionName.STOP, command=("x", "{uuid}"), force=False,
        who="uid 0", step="voting", begun_at=T0.timestamp(), boot_id="boot",
    )  # fmt: skip
    host_rows.put_action(db, action)
    host_rows.put_hold(db, HoldRecord("operator", "uuid", "a hold", T0.timestamp()))
    run = CorrectiveRun("uuid", Moment("boot", 1.0, T0.timestamp()))
    host_rows.add_corrective_runs(db, [run], T0.timestamp())


def _read_host(db: sqlite3.Connection) -> tuple[Any, ...]:
    return (
        host_rows.instances(db),
        host_rows.actions(db),
        host_rows.corrective_runs(db),
        host_rows.holds(db),
    )


@attrs.frozen
class _Store:
    """One daemon's store: its schema, and all that it reads of what was written."""

    schema: Schema
    write: Callable[[sqlite3.Connection], None]
    read: Callable[[sqlite3.Connection], tuple[Any, ...]]


_AGENT: Final = _Store(AGENT_SCHEMA, lambda db: _write(db, ("compute-0", "busy", "vim")), _read_all)
_HOST: Final = _Store(HOST_SCHEMA, _write_host, _read_host)


@cache
def _image(store: _Store) -> bytes:
    """A sound file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        with contextlib.closing(open_database(str(path), store.schema)) as database:
            store.write(database.db)
        return path.read_bytes()


@cache
def _places(store: _Store) -> tuple[int, ...]:
    """Where the file is not empty: most of it is."""
    return tuple(at for at, byte in enumerate(_image(store)) if byte)


def store_files(data: bytes) -> None:
    """A damaged file raises a UserError when it is opened, or a StoreFault when it is read.

    The first byte chooses the store. Of every three others, two are a place, one is what is there.
    """
    store = _HOST if data[:1] > b"\x7f" else _AGENT
    image, places = bytearray(_image(store)), _places(store)
    for at in range(1, len(data) - 2, 3):
        image[places[int.from_bytes(data[at : at + 2], "big") % len(places)]] = data[at + 2]
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
        path = Path(folder) / "store.db"
        path.write_bytes(image)
        path.chmod(0o600)
        with (
            contextlib.suppress(UserError, StoreFault),
            contextlib.closing(open_database(str(path), store.schema)) as database,
        ):
            job = Job(store.read)
            perform(database.db, [job])
            job.outcome()


#: In memory, if there is such a place: a sync of a disk takes longer than all the rest.
_SCRATCH: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None

"""Reads and writes the tables of a host's store, but for its history."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from hbtrio.policy.profile import Profile
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    MemberRecord,
    Moment,
)
from hbtrio.store.sql import Connection, changed, records, rows, text_of
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction

#: For how long a corrective command counts against the limit of its instance, in seconds.
COUNTS_S: Final = 3600.0

#: The most corrective commands that are remembered.
RUNS: Final = 100_000

_INSTANCE: Final = (
    "uuid, state, reason, profile, boot_id, domain_id, socket, expected_until_boot, ill_action,"
    " ill_reason, ill_at_boot"
)
_ACTION: Final = (
    "id, uuid, name, command, force, who, step, step_deadline_boot, announced, reason, begun_at,"
    " boot_id, domain_id, drain"
)
_HOLD: Final = "kind, uuid, why, since, who, number, is_ended, boot_id, ends_boot, ends"


def put_instances(db: Connection, known: Iterable[KnownInstance]) -> None:
    """Stores what is known of instances, each in place of what was known before."""
    db.executemany(
        f"INSERT OR REPLACE INTO instances ({_INSTANCE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.uuid,
                one.state,
                text_of(one.reason),
                json.dumps(msgspec.structs.asdict(one.profile)),
                one.boot_id,
                one.domain_id,
                one.socket,
                one.expected_until,
                one.ill_action or "",
                text_of(one.ill_reason),
                one.ill_at,
            )
            for one in known
        ],
    )


def forget_instances(db: Connection, uuids: Iterable[str]) -> None:
    """Removes what is known of instances."""
    db.executemany("DELETE FROM instances WHERE uuid = ?", [(uuid,) for uuid in uuids])


def instances(db: Connection) -> tuple[KnownInstance, ...]:
    """Returns all instances that are known."""
    return records(_instance, rows(db, f"SELECT {_INSTANCE} FROM instances ORDER BY uuid"))


def _instance(row: tuple[Any, ...]) -> KnownInstance:
    uuid, state, reason, profile, boot_id, domain_id, socket = row[:7]
    until, action, ill_reason, ill_at = row[7:]
    values: dict[str, Any] = json.loads(profile)
    values["corrective_action"] = CorrectiveAction(values["corrective_action"])
    return KnownInstance(
        uuid=uuid,
        state=state,
        reason=reason,
        profile=Profile(**values),
        boot_id=boot_id,
        domain_id=domain_id,
        socket=socket,
        expected_until=until,
        ill_action=CorrectiveAction(action) if action else None,
        ill_reason=ill_reason,
        ill_at=ill_at,
    )


def put_action(db: Connection, action: ActionRecord) -> None:
    """Stores an action and its step."""
    db.execute(
        f"INSERT OR REPLACE INTO actions ({_ACTION})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            action.id,
            action.uuid,
            action.name,
            json.dumps(action.command),  # ASCII, exact for any argument
            action.force,
            text_of(action.who),
            action.step,
            action.step_deadline,
            action.announced,
            text_of(action.reason),
            action.begun_at,
            action.boot_id,
            action.domain_id,
            action.drain,
        ),
    )


def end_action(db: Connection, id_: str) -> None:
    """Removes an action that has ended."""
    db.execute("DELETE FROM actions WHERE id = ?", (id_,))


def actions(db: Connection) -> tuple[ActionRecord, ...]:
    """Returns the actions that have not ended, the oldest first."""
    found = rows(db, f"SELECT {_ACTION} FROM actions ORDER BY begun_at, id")
    return records(_action, found)


def _action(row: tuple[Any, ...]) -> ActionRecord:
    id_, uuid, name, command, force, who, step, deadline, announced, reason, begun_at = row[:11]
    boot_id, domain_id, drain = row[11:]
    return ActionRecord(
        id=id_,
        uuid=uuid,
        name=ActionName(name),
        command=tuple(json.loads(command)),
        force=bool(force),
        who=who,
        step=step,
        step_deadline=deadline,
        announced=bool(announced),
        reason=reason,
        begun_at=begun_at,
        boot_id=boot_id,
        domain_id=domain_id,
        drain=drain,
    )


def add_corrective_runs(db: Connection, runs: Iterable[CorrectiveRun], now: float) -> None:
    """Adds corrective commands, and removes those that count no longer."""
    db.executemany(
        "INSERT INTO corrective_runs (uuid, boot_id, at_boot, at) VALUES (?, ?, ?, ?)",
        [(run.uuid, run.at.boot_id, run.at.boot_s, run.at.epoch_s) for run in runs],
    )
    # Those of the future were stored before the wall clock was set back.
    changed(
        db, "DELETE FROM corrective_runs WHERE at < ? OR at > ?", now - COUNTS_S, now + COUNTS_S
    )
    changed(
        db,
        "DELETE FROM corrective_runs WHERE id <= (SELECT max(id) FROM corrective_runs) - ?",
        RUNS,
    )


def remove_corrective_runs(db: Connection, uuids: Iterable[str]) -> None:
    """Removes the last corrective command of each of these instances."""
    db.executemany(
        "DELETE FROM corrective_runs"
        " WHERE id = (SELECT max(id) FROM corrective_runs WHERE uuid = ?)",
        [(uuid,) for uuid in uuids],
    )


def corrective_runs(db: Connection) -> tuple[CorrectiveRun, ...]:
    """Returns the corrective commands that are remembered, the oldest first."""
    found = rows(db, "SELECT uuid, boot_id, at_boot, at FROM corrective_runs ORDER BY id")
    return tuple(
        CorrectiveRun(uuid, Moment(boot, at_boot, at)) for uuid, boot, at_boot, at in found
    )


def put_hold(db: Connection, hold: HoldRecord) -> None:
    """Stores a hold in place of one of its kind on its instance."""
    ends = hold.ends
    db.execute(
        f"INSERT OR REPLACE INTO holds ({_HOLD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            hold.kind,
            hold.uuid,
            text_of(hold.why),
            hold.since,
            text_of(hold.who),
            hold.number,
            hold.is_ended,
            "" if ends is None else ends.boot_id,
            None if ends is None else ends.boot_s,
            None if ends is None else ends.epoch_s,
        ),
    )


def release_hold(db: Connection, kind: str, uuid: str) -> None:
    """Removes a hold."""
    db.execute("DELETE FROM holds WHERE kind = ? AND uuid = ?", (kind, uuid))


def holds(db: Connection) -> tuple[HoldRecord, ...]:
    """Returns the holds, the oldest first."""
    return records(_hold, rows(db, f"SELECT {_HOLD} FROM holds ORDER BY since, kind, uuid"))


def _hold(row: tuple[Any, ...]) -> HoldRecord:
    kind, uuid, why, since, who, number, is_ended, boot_id, ends_boot, ends = row
    until = None if ends is None else Moment(boot_id, ends_boot, ends)
    return HoldRecord(kind, uuid, why, since, who, number, bool(is_ended), until)


def put_members(db: Connection, members: Iterable[MemberRecord]) -> None:
    """Stores members of groups, each in place of what was known before."""
    db.executemany(
        "INSERT OR REPLACE INTO members (uuid, name) VALUES (?, ?)",
        [(member.uuid, text_of(member.name)) for member in members],
    )


def forget_members(db: Connection, uuids: Iterable[str]) -> None:
    """Removes members of groups."""
    db.executemany("DELETE FROM members WHERE uuid = ?", [(uuid,) for uuid in uuids])


def members(db: Connection) -> tuple[MemberRecord, ...]:
    """Returns the members of all groups."""
    found = rows(db, "SELECT uuid, name FROM members ORDER BY uuid")
    return tuple(MemberRecord(*row) for row in found)

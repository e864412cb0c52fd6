"""A PostgreSQL server for the tests, started as an ordinary user; one schema for each test.

Where PostgreSQL is not installed what needs it is skipped, unless HBTRIO_REQUIRE_POSTGRES=1 makes
that a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import psycopg
import pytest

#: The user of the database.
USER: Final = "hbtrio"


@cache
def _programs() -> Path | None:
    """The directory of the newest release that is installed."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def skip_or_fail() -> NoReturn:
    """Ends a test that needs one where there is none."""
    text = "PostgreSQL is not installed (Debian: postgresql-15)"
    if os.environ.get("HBTRIO_REQUIRE_POSTGRES") == "1":
        pytest.fail(f"{text}, and HBTRIO_REQUIRE_POSTGRES=1 asks for it")
    pytest.skip(text)


def _as_user() -> dict[str, Any]:
    """The arguments of Popen for a user that PostgreSQL accepts: any but root."""
    if os.getuid() != 0:
        return {}
    user = next(name for name in ("postgres", "nobody") if _exists(name))
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@attrs.define
class Server:
    """A running server.

    Args:
        directory: where its socket is.
        process: its postmaster.
    """

    directory: Path
    process: subprocess.Popen[bytes]
    _numbers: count[int] = attrs.field(factory=count)
    _used: list[str] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql://{USER}@/postgres?host={self.directory}"

    def schema(self) -> str:
        """Creates an empty schema and returns the URL of it."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}&options=-csearch_path%3D{name}"

    def freeze(self) -> None:
        """Stops all its processes, as a machine that hangs; connections stay up."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Each one has a process group of its own.
        mine = self.process.pid
        os.kill(mine, number)
        for child in Path(f"/proc/{mine}/task/{mine}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    @contextmanager
    def tables(self) -> Iterator[str]:
        """Yields the URL of a schema with empty tables, or none yet; used by one test at a time.

        To create the tables for each test would take ten times as long as most tests do.
        """
        url = self._used.pop() if self._used else self.schema()
        yield url
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT format('DELETE FROM %I', tablename) FROM pg_tables"
                " WHERE schemaname = current_schema() AND tablename <> 'schema'"
                " UNION ALL SELECT format('ALTER SEQUENCE %I RESTART', sequencename)"
                " FROM pg_sequences WHERE schemaname = current_schema()"
            ).fetchall()
            connection.execute("; ".join(text for (text,) in found))
        self._used.append(url)


@contextmanager
def postgres_server(*settings: str) -> Iterator[Server]:
    """Runs a server on a socket of its own; it ends with the block, or with this process.

    Args:
        settings: more of its settings, as ``name=value``.
    """
    if (programs := _programs()) is None:
        skip_or_fail()
    user = _as_user()
    # Not in pytest's directory, into which only root can look.
    directory = Path(tempfile.mkdtemp(prefix="hbtrio-pg-"))
    try:
        if user:
            os.chown(directory, user["user"], user["group"])
        data = directory / "data"
        subprocess.run(
            [programs / "initdb", "--no-sync", "--auth=trust", f"--username={USER}",
             "--encoding=UTF8", "--locale=C.UTF-8", "-D", data],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **user,
        )  # fmt: skip
        given = [f"-c{one}" for one in ("listen_addresses=", "fsync=off", *settings)]
        with subprocess.Popen(
            ["setpriv", "--pdeathsig=QUIT", programs / "postgres", "-D", data, "-k", directory,
             *given],
            stderr=subprocess.PIPE, cwd="/", **user,
        ) as process:  # fmt: skip
            try:
                _read_until_ready(process)
                yield Server(directory, process)
            finally:
                process.send_signal(signal.SIGINT)
    finally:
        shutil.rmtree(directory)


def _read_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Reads the server's log until it can be connected to, and the rest in a thread."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if b"ready to accept connections" in line:
            break
    else:
        raise AssertionError(b"".join(said).decode())
    threading.Thread(target=process.stderr.read, daemon=True).start()


@pytest.fixture(scope="session")
def server() -> Iterator[Server | None]:
    """A server for all tests of a run; None where PostgreSQL is not installed."""
    if _programs() is None:
        yield None
        return
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres(server: Server | None) -> Server:
    """That server; where there is none, the test is skipped."""
    if server is None:
        skip_or_fail()
    return server

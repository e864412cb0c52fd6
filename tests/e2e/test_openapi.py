"""schemathesis against the agent's operator API: a real server on the loopback, its document."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hbtrio.nursery.store_records import HistoryEntry, InstanceRecord
from support.fleet_world import TOKEN, fleet_api
from support.host_world import uuid_of
from support.inline_store import EPOCH

CONFIG = """
[checks]
# A body beyond 64 KiB is refused before anybody looks at what is in it.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413]
# Which words in braces a command may hold is in the description only.
positive_data_acceptance.expected-statuses = [200, 400, 404, 409, 413]
"""


@pytest.mark.processes
async def test_the_api_is_as_its_document_says(tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    async with fleet_api(tmp_path) as api:
        await api.agent.put_instance(InstanceRecord(uuid_of(1), "compute-0", True))
        await api.agent.store.record(HistoryEntry(EPOCH, "loss", uuid_of(1), "compute-0", "why"))
        with trio.fail_after(120):
            ended = await trio.run_process(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                    *("run", f"{api.url}/openapi.json", "--phases", "coverage,fuzzing"),
                    *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "20"),
                    # Followed, it has no end.
                    *("--exclude-operation-id", "events", "--seed", "1", "--no-color"),
                ],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=tmp_path,
            )
    assert ended.returncode == 0, ended.stdout.decode()[-3000:]

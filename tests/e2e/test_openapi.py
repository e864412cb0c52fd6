"""schemathesis against the agent's operator API: a real server on the loopback, its document."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from hbtrio.store.records import HistoryEntry
from support import openapi_lines
from support.fleet_world import TOKEN, fleet_api
from support.inline_store import EPOCH
from support.scripted_host import VM, ScriptedHost

CONFIG = f"""
[checks]
# A body beyond 64 KiB is refused before anybody looks at what is in it.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413]
# Which words in braces a command may hold is in the description only.
positive_data_acceptance.expected-statuses = [200, 400, 404, 409, 413]

# An instance whose host has a link: what is asked of it succeeds.
[[operations]]
include-operation-id = ["vote", "notify", "act"]
parameters = {{ "path.uuid" = "{VM}" }}

# Followed, they have no end.
[[operations]]
include-operation-id = "events"
parameters = {{ "query.follow" = "no" }}
"""


@pytest.mark.processes
async def test_the_api_is_as_its_document_says(tmp_path: Path) -> None:
    config, counted = tmp_path / "schemathesis.toml", tmp_path / "counted"
    config.write_text(CONFIG)
    host = ScriptedHost()
    async with fleet_api(tmp_path) as api, trio.open_nursery() as nursery:
        await host.dial(api.agent.links, nursery)
        entry = HistoryEntry(EPOCH, "loss", VM, "compute-0", "why")
        await api.agent.store.record(entry)
        api.agent.history.publish(entry)
        with trio.fail_after(120):
            ended = await trio.run_process(
                [
                    *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
                    *("run", f"{api.url}/openapi.json", "--phases", "coverage,fuzzing"),
                    *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "20"),
                    *("--seed", "1", "--no-color"),
                ],
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=tmp_path,
                env=os.environ
                | {
                    "SCHEMATHESIS_HOOKS": openapi_lines.__file__,
                    openapi_lines.COUNTED: str(counted),
                },
            )
        nursery.cancel_scope.cancel()
    assert ended.returncode == 0, ended.stdout.decode()[-3000:]
    # What is right succeeds, and its lines were looked at.
    lines: Counter[str] = Counter()
    for operation, count in map(str.split, counted.read_text().splitlines()):
        lines[operation] += int(count)
    asked = Counter("vote" if command.vote else "notify" for command in host.commands)
    assert lines["vote"] == 2 * asked["vote"] > 0
    assert lines["notify"] == 2 * asked["notify"] > 0
    assert lines["act"] == 5 * len(host.acts) > 0
    assert lines["events"] > 0

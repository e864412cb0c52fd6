"""The alert rules, and whether metrics, rules and docs/metrics.md name the same things.

Where there is no promtool what needs it is skipped, unless HBTRIO_REQUIRE_PROMTOOL=1 makes that a
failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
import yaml  # comes with schemathesis
from prometheus_client.parser import text_string_to_metric_families

from hbtrio.api.fleet_metrics import agent_metrics
from hbtrio.api.host_metrics import host_metrics
from hbtrio.config.host import AgentLinkSettings, LibvirtSettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.nursery.drains import DrainPlan
from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.notify_command import NotifyCommand
from hbtrio.wire.vocabulary import ActionName
from support.agent_world import agent_world
from support.fake_processes import FakeProcesses
from support.host_world import host_world
from support.memory_store import memory_store
from support.scripted_host import ScriptedHost

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy/prometheus"
DOCS: Final = (ROOT / "docs/metrics.md").read_text()

TESTS: Final = "hbtrio.rules.test.yml"

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture(scope="session")
def promtool() -> str:
    """The path of promtool."""
    path = shutil.which("promtool")
    if path is None:
        reason = "no promtool: install Debian's prometheus"
        if os.environ.get("HBTRIO_REQUIRE_PROMTOOL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def notifier() -> Notifier:
    """One with a channel, which is not run."""
    command = NotifyCommand(list, FakeProcesses({}), 1.0)
    return Notifier(
        [command], per_minute=1, hostname="", wall_clock=lambda: datetime.now(UTC), new_id=str
    )


@pytest.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[str]:
    """The metrics of a host and of an agent that have everything."""
    with memory_store(tmp_path) as disk:
        async with host_world(
            memory=disk.memory(),
            agent=AgentLinkSettings(connect="tcp:127.0.0.1:2412"),
            libvirt=LibvirtSettings(enabled="on"),
            observe=ObserveSettings(instance_series=1),
        ) as world:
            await world.heartbeating()
            world.host.events = EventsFile(str(tmp_path / "events"))
            world.host.notifier = notifier()
            drained = DrainPlan(action=ActionName.STOP, command=("true",))
            world.host.drains.start(drained, "uid 0")
            host = (await host_metrics(world.host)).decode()
            world.host.events.close()
    async with agent_world(tmp_path) as agent:
        await agent.bound_host(host=ScriptedHost())
        (bound,) = agent.agent.fleet.hosts.values()
        drained = DrainPlan(action=ActionName.STOP, hosts=(bound.hostname,))
        agent.agent.drains.start(drained, "operator")
        telling = attrs.evolve(agent.agent, notifier=notifier())
        yield host + agent_metrics(telling, trio.current_time()).decode()


def alerts() -> Iterator[dict[str, Any]]:
    """All alert rules."""
    for group in yaml.safe_load((RULES / "hbtrio.rules.yml").read_text())["groups"]:
        yield from group["rules"]


def test_the_rules_do_what_their_tests_say(promtool: str) -> None:
    for words in (
        ["check", "rules", "hbtrio.rules.yml"],
        ["test", "rules", "hbtrio.rules.test.yml"],
    ):
        ran = subprocess.run([promtool, *words], cwd=RULES, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_scrape_configuration(promtool: str) -> None:
    words = ["check", "config", "prometheus.yml"]
    ran = subprocess.run([promtool, *words], cwd=RULES, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_is_tested_and_documented() -> None:
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    tested = yaml.safe_load((RULES / TESTS).read_text())["tests"]
    fired = {
        one["alertname"]: one["exp_alerts"][0]["exp_labels"]["severity"]
        for test in tested
        for one in test["alert_rule_test"]
        if one["exp_alerts"]
    }
    quiet = {
        one["alertname"]
        for test in tested
        for one in test["alert_rule_test"]
        if not one["exp_alerts"]
    }
    assert fired == severities
    assert quiet == set(severities)
    assert dict(re.findall(r"^\| `(Hbtrio\w+)` \| (\w+) \|", DOCS, re.M)) == severities


async def test_the_names_are_as_prometheus_has_them(promtool: str, exposed: str) -> None:
    ran = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [promtool, "check", "metrics"], input=exposed, capture_output=True, text=True
        )
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


async def test_each_metric_is_documented_with_its_labels(exposed: str) -> None:
    documented = {
        name: tuple(labels.split(",")) if labels else ()
        for name, labels in re.findall(r"^\| `(hbtrio_\w+)(?:\{(.*)\})?` \|", DOCS, re.M)
    }
    found: dict[str, set[tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(exposed):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {tuple(label for label in one.labels if label != "le") for one in family.samples}
        found.setdefault(name, set()).update(labels)
    assert set(found) == set(documented)
    for name, labels in found.items():
        assert {tuple(sorted(one)) for one in labels} <= {tuple(sorted(documented[name]))}, name


async def test_each_rule_and_panel_asks_for_a_metric_that_exists(exposed: str) -> None:
    known = set(re.findall(r"^(hbtrio_\w+)", exposed, re.M))
    known |= set(re.findall(r"^# TYPE (hbtrio_\w+)", exposed, re.M))
    files = [RULES / "hbtrio.rules.yml", ROOT / "deploy/grafana/hbtrio.json"]
    for file in files:
        asked = set(re.findall(r"\bhbtrio_(?:host|agent)_\w+", file.read_text()))
        assert asked
        assert asked <= known, file.name

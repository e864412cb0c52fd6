"""A real agent and a real host, whose certificates expire soon and are renewed while they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hbtrio.lab.daemon import Daemon
from hbtrio.lab.launcher import write_toml
from support.free_ports import free_port
from support.made_certificates import MadeAuthority, MadePair
from support.real_processes import hbtrio, logged, until

#: Two looks at the files, 10 s apart, on a machine that is very busy.
RENEWED_S = 60.0


def tls(pair: MadePair, authority: Path) -> dict[str, str]:
    certificate, key = pair.names
    return {"certificate": certificate, "key": key, "authority": str(authority)}


async def host_status(home: Path) -> dict[str, Any]:
    ran = await hbtrio("ctl", "--url", f"unix:{home}/host.sock", "status", "--json")
    found: dict[str, Any] = json.loads("".join(ran.out))["host"]
    return found


async def log_has(file: Path, text: str) -> None:
    await until(lambda: text in file.read_text(), RENEWED_S)


@pytest.mark.processes
async def test_from_a_warning_to_a_new_authority(home: Path) -> None:
    """Both ends warn, are renewed under an authority that neither knew, and link again."""
    old, new = MadeAuthority.make(home / "old", "old", 20), MadeAuthority.make(home / "new", "new")
    trusted, host, agent = home / "ca.pem", old.host("compute-0", 6), old.agent(6)
    old.write_to(trusted)
    port = free_port()
    write_toml(
        home / "agent.toml",
        {
            "name": "controller-0",
            "vim": {"url": ""},
            "link": {"listen": f"tcp:127.0.0.1:{port}", "grace_s": 1, **tls(agent, trusted)},
            "operator": {"listen": f"unix:{home}/agent.sock"},
            "store": {"file": f"{home}/agent.db"},
        },
    )
    (home / "channels").mkdir()
    write_toml(
        home / "host.toml",
        {
            "hostname": "compute-0",
            "channel_dir": f"{home}/channels",
            "control_socket": f"{home}/host.sock",
            "agent": {"connect": f"tcp:127.0.0.1:{port}", **tls(host, trusted)},
        },
    )
    logs = {name: home / f"{name}.log" for name in ("agent", "host")}
    daemons = [
        await Daemon.start(f"the {name}", [name, "--config", str(home / f"{name}.toml")], log)
        for name, log in logs.items()
    ]
    try:
        await logged(logs["agent"], "compute-0: link is up")
        await log_has(logs["agent"], f"link.certificate: {agent.certificate}: the certificate of")
        await log_has(logs["agent"], f"link.authority: {trusted}: the certificate of old expires")
        await log_has(logs["host"], f"agent.certificate: {host.certificate}: the certificate of")
        status = await host_status(home)
        assert (status["link"]["state"], status["link"]["agent"]) == ("up", "controller-0")
        assert "expires in 5 days" in status["link"]["certificate"]
        assert len(status["files"]["warnings"]) == 2

        agent.take(new.agent(365))
        host.take(new.host("compute-0", 365))
        new.write_to(trusted)
        for log in logs.values():
            await log_has(log, "renewed files are in use")

        # Only who uses the new files can link now.
        ran = await hbtrio("ctl", "--url", f"unix:{home}/agent.sock", "status")
        assert "expires" not in "\n".join(line for line in ran.out if "link." in line)
        await daemons[1].stop()
        daemons[1] = await Daemon.start(
            "the host", ["host", "--config", str(home / "host.toml")], home / "host2.log"
        )
        await logged(home / "host2.log", "agent: the link to controller-0 is up")
        status = await host_status(home)
        assert (status["link"]["certificate"], status["files"]["warnings"]) == ("", [])
    finally:
        for daemon in daemons:
            await daemon.stop()
    for log in (*logs.values(), home / "host2.log"):
        assert "Traceback" not in log.read_text()

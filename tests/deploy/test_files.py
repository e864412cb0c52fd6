"""The other files: the channel's XML, cloud-init's data, and what install.sh puts where."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
import yaml  # comes with schemathesis

from hbtrio.cli.guest import NAMED_DEVICE
from hbtrio.config.guest import DEFAULT_GUEST_CONFIG, parse_guest_config
from hbtrio.config.host import DEFAULT_HOST_CONFIG, HostConfig
from hbtrio.nursery.discovery import NamePattern
from hbtrio.wire.vocabulary import Event

CHECKOUT: Final = Path(__file__).parents[2]
DEPLOY: Final = CHECKOUT / "deploy"
SHELLS: Final = (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"])


def test_the_channel_is_where_the_host_looks_and_called_what_the_guest_opens() -> None:
    channel = ElementTree.parse(DEPLOY / "libvirt-channel.xml").getroot()
    source, target = channel.find("source"), channel.find("target")
    assert source is not None
    assert target is not None
    assert (channel.tag, channel.attrib) == ("channel", {"type": "unix"})
    assert target.attrib == {"type": "virtio", "name": Path(NAMED_DEVICE).name}
    assert source.attrib.keys() == {"mode", "path"}
    assert source.attrib["mode"] == "bind"
    directory, name = os.path.split(source.attrib["path"])
    assert directory == HostConfig().channel_dir
    patterns = map(NamePattern, HostConfig().channel_patterns)
    assert next(patterns).uuid_of(name) == "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("script", ["install.sh", "guest-client.init"])
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_any_shell_reads_the_scripts(script: str, shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]} here")
    done = subprocess.run(
        [*shell, "-n", str(DEPLOY / script)], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- cloud-init -----------------------------------------------------------------------------


def user_data() -> dict[str, Any]:
    text = (DEPLOY / "cloud-init.yaml").read_text()
    assert text.startswith("#cloud-config\n")  # else cloud-init takes it for something else
    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def written() -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in user_data()["write_files"]}


def test_cloud_init_writes_a_configuration_whose_scripts_are_there() -> None:
    config = parse_guest_config(written()[DEFAULT_GUEST_CONFIG]["content"], "cloud-init.yaml")
    event_script, health_script = config.event_notification_script, config.health_check_script
    assert event_script in written()
    assert written()[event_script]["permissions"] == "0755"
    assert health_script == str(Path(DEFAULT_GUEST_CONFIG).parent / "sample_health_script")


def test_the_event_script_of_cloud_init(tmp_path: Path) -> None:
    text = written()["/etc/guest-client/heartbeat/event_script"]["content"]
    busy = tmp_path / "busy"
    assert "/run/guest-client/busy" in text
    script = tmp_path / "event_script"
    script.write_text(text.replace("/run/guest-client/busy", str(busy)))
    for event in Event:
        for notification in ("revocable", "irrevocable"):
            assert ran(script, notification, event) == (0, "")
    busy.touch()
    for event in Event:
        assert ran(script, "revocable", event) == (1, "a backup is running\n")
        assert ran(script, "irrevocable", event) == (0, "")


def ran(script: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", str(script), *arguments], capture_output=True, text=True, timeout=20
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_what_cloud_init_runs() -> None:
    commands = user_data()["runcmd"]
    assert all(isinstance(command, str) for command in commands)
    assert "sh /run/hbtrio-media/deploy/install.sh guest" in commands
    assert commands[-1] == "systemctl enable --now hbtrio-guest"


# -- install.sh -----------------------------------------------------------------------------


def install(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(DEPLOY / "install.sh"), *arguments],
        env=os.environ | {"DESTDIR": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def files(root: Path) -> dict[str, str]:
    return {
        str(file.relative_to(root)): f"{file.stat().st_mode & 0o777:04o}"
        for file in root.rglob("*")
        if file.is_file()
    }


def test_install_for_a_guest(tmp_path: Path) -> None:
    done = install(tmp_path, "--files-only", "guest")
    assert done.stderr == ""
    assert done.stdout == "installed; then: systemctl enable --now hbtrio-guest\n"
    assert files(tmp_path) == {
        "etc/guest-client/heartbeat/guest_heartbeat.conf": "0644",
        "etc/guest-client/heartbeat/sample_event_script": "0755",
        "etc/guest-client/heartbeat/sample_health_script": "0755",
        "etc/systemd/system/hbtrio-guest.service": "0644",
        "etc/udev/rules.d/60-hbtrio-guest.rules": "0644",
    }
    config = parse_guest_config((tmp_path / DEFAULT_GUEST_CONFIG[1:]).read_text(), "conf")
    assert config.event_notification_script is not None
    assert (tmp_path / config.event_notification_script[1:]).exists()


@pytest.mark.parametrize("daemon", ["host", "agent"])
def test_install_for_host_and_agent(daemon: str, tmp_path: Path) -> None:
    done = install(tmp_path, "--files-only", daemon)
    assert done.stderr == ""
    assert done.stdout == f"installed; then: systemctl enable --now hbtrio-{daemon}\n"
    assert files(tmp_path) == {
        f"etc/hbtrio/{daemon}.toml": "0644",
        f"etc/systemd/system/hbtrio-{daemon}.service": "0644",
        "etc/sysusers.d/hbtrio.conf": "0644",
        "etc/tmpfiles.d/hbtrio.conf": "0644",
    }


def test_install_again_keeps_what_was_configured_and_renews_the_rest(tmp_path: Path) -> None:
    install(tmp_path, "--files-only", "host")
    config = tmp_path / DEFAULT_HOST_CONFIG[1:]
    unit = tmp_path / "etc/systemd/system/hbtrio-host.service"
    config.write_text('hostname = "compute-0"\n')
    unit.write_text("old\n")
    assert install(tmp_path, "--files-only", "host").returncode == 0
    assert config.read_text() == 'hostname = "compute-0"\n'
    assert unit.read_text() == (DEPLOY / unit.name).read_text()


@pytest.mark.parametrize(
    "arguments", [[], ["--files-only"], ["lab"], ["guest", "host"], ["--all", "host"]]
)
def test_install_usage(arguments: list[str], tmp_path: Path) -> None:
    done = install(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    script = DEPLOY / "install.sh"
    assert done.stderr == f"usage: {script} [--files-only] guest|host|agent\n"
    assert files(tmp_path) == {}


def test_an_older_python_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    older = tmp_path / "python"
    older.write_text("#!/bin/sh\nexit 1\n")
    older.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(DEPLOY / "install.sh"), "guest"],
        env=os.environ | {"DESTDIR": str(tmp_path / "root"), "PYTHON": str(older)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{older}: hbtrio needs Python 3.11 or newer; name one with PYTHON=\n"
    assert not (tmp_path / "root").exists()

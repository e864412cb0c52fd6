"""The other files: the channel's XML, cloud-init's data, and what install.sh puts where."""

from __future__ import annotations

import ensurepip
import os
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
import yaml  # comes with schemathesis

from hbtrio.config.guest import DEFAULT_GUEST_CONFIG, parse_guest_config
from hbtrio.config.host import DEFAULT_HOST_CONFIG, HostConfig
from hbtrio.nursery.guest.named_port import NAMED_DEVICE
from hbtrio.nursery.host.discovery import NamePattern

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
    # .ci/run installs them all.
    if shutil.which(shell[0]) is None and os.environ.get("HBTRIO_REQUIRE_VM") != "1":
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


def test_cloud_init_writes_a_configuration_whose_scripts_are_installed(tmp_path: Path) -> None:
    config = parse_guest_config(written()[DEFAULT_GUEST_CONFIG]["content"], "cloud-init.yaml")
    install(tmp_path, "--files-only", "guest")
    for script in (config.event_notification_script, config.health_check_script):
        assert script is not None
        assert files(tmp_path)[script[1:]] == "0755"


def test_what_cloud_init_runs() -> None:
    commands = user_data()["runcmd"]
    assert all(isinstance(command, str) for command in commands)
    assert "sh /run/hbtrio-media/deploy/install.sh guest" in commands
    assert commands[-1] == "systemctl enable --now hbtrio-guest"


# -- install.sh -----------------------------------------------------------------------------


def install(
    root: Path, *arguments: str, script: Path = DEPLOY / "install.sh", umask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(script), *arguments],
        env=os.environ | {"DESTDIR": str(root)},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=120,
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


def test_a_strict_umask_locks_no_daemon_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    for role in ("guest", "host", "agent"):
        assert install(root, "--files-only", role, umask=0o077).returncode == 0
    assert locked(root) == []


def locked(root: Path) -> list[str]:
    """What below is not for everybody to read, and to enter or run if it is for its owner."""
    modes = {str(path): path.stat().st_mode for path in root.rglob("*") if not path.is_symlink()}
    wanted = {path: 0o555 if mode & 0o100 else 0o444 for path, mode in modes.items()}
    return [path for path, mode in modes.items() if mode & wanted[path] != wanted[path]]


# -- a HBTRIO disk --------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A HBTRIO disk with a program of a few lines, so that it is installed without any index."""
    disk = tmp_path / "disk"
    shutil.copytree(DEPLOY, disk / "deploy")
    shutil.copytree(CHECKOUT / "config", disk / "config")
    (disk / "wheels").mkdir()
    bundled = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__path__[0], "_bundled")
    (pip,) = Path(bundled).glob("pip-*.whl")
    shutil.copy(pip, disk / "wheels")
    shutil.copy(pip, disk / "wheels" / "pip-1.0-py3-none-any.whl")
    burn(disk, "the first build")
    return disk


def burn(disk: Path, says: str) -> None:
    """Puts a build on it, always of the same version."""
    info = "hbtrio-0.1.0.dist-info"
    members = {
        "hbtrio.py": f"def main():\n    print({says!r})\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hbtrio\nVersion: 0.1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nhbtrio = hbtrio:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    wheel = disk / "wheels" / "hbtrio-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (members | {f"{info}/RECORD": record}).items():
            archive.writestr(name, text)


def says(root: Path) -> str:
    """What the installed program prints, which is at its own place only in an image."""
    venv = root / "opt" / "hbtrio"
    return subprocess.run(
        [venv / "bin" / "python", venv / "bin" / "hbtrio"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.mark.processes
def test_the_program_from_a_disk(disk: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    done = install(root, "guest", script=disk / "deploy" / "install.sh", umask=0o077)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "installed; then: systemctl enable --now hbtrio-guest\n"
    assert locked(root) == []
    assert says(root) == "the first build\n"

    # It is at home where it will be, not where it was put together.
    assert os.readlink(root / "usr/local/bin/hbtrio") == "/opt/hbtrio/bin/hbtrio"
    venv = root / "opt" / "hbtrio"
    assert (venv / "bin" / "hbtrio").read_text().startswith("#!/opt/hbtrio/bin/python")
    for file in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        assert file.is_symlink() or str(root) not in file.read_text()

    burn(disk, "the second build")
    assert install(root, "guest", script=disk / "deploy" / "install.sh").returncode == 0
    assert says(root) == "the second build\n"


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

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


SCRIPTS: Final = [
    "install.sh",
    "guest-client.init",
    *sorted(f"handlers/{file.name}" for file in (DEPLOY / "handlers").iterdir()),
]


@pytest.mark.parametrize("script", SCRIPTS)
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


#: What every role has.
SHARED: Final = {
    "usr/local/share/bash-completion/completions/hbtrio": "0644",
    "usr/local/share/fish/vendor_completions.d/hbtrio.fish": "0644",
    "usr/local/share/zsh/site-functions/_hbtrio": "0644",
} | {
    f"usr/local/share/man/man{page.suffix[1:]}/{page.name}": "0644"
    for page in (DEPLOY / "man").iterdir()
}


HANDLERS: Final = {
    f"usr/local/share/hbtrio/handlers/{file.name}": ("0644" if file.name == "common.sh" else "0755")
    for file in (DEPLOY / "handlers").iterdir()
}


def test_install_for_a_guest(tmp_path: Path) -> None:
    done = install(tmp_path, "--files-only", "guest")
    assert done.stderr == ""
    assert done.stdout == "installed; then: systemctl enable --now hbtrio-guest\n"
    assert files(tmp_path) == SHARED | HANDLERS | {
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
    more = {"etc/systemd/system/hbtrio-shutdown.service": "0644"} if daemon == "host" else {}
    assert files(tmp_path) == SHARED | more | {
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


def image(root: Path, *commands: str) -> Path:
    """An image with these commands; nothing of it runs."""
    for command in ("sh", *commands):
        (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
        (root / "usr" / "bin" / command).touch()
    (root / "bin").symlink_to("usr/bin")
    return root


def test_an_image_with_systemd_gets_units_although_systemd_does_not_run(tmp_path: Path) -> None:
    done = install(image(tmp_path, "systemctl"), "--files-only", "guest")
    assert done.stdout == "installed; then: systemctl enable --now hbtrio-guest\n"
    assert "etc/systemd/system/hbtrio-guest.service" in files(tmp_path)
    assert "etc/init.d/guest-client" not in files(tmp_path)


def test_an_image_without_systemd_gets_the_init_script(tmp_path: Path) -> None:
    done = install(image(tmp_path), "--files-only", "guest")
    assert done.stdout == "installed; then: /etc/init.d/guest-client start\n"
    assert files(tmp_path)["etc/init.d/guest-client"] == "0755"
    assert not [name for name in files(tmp_path) if "systemd" in name or "udev" in name]
    done = install(tmp_path, "--files-only", "host")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "a host or an agent needs systemd; start hbtrio host in another way\n"
    )
    assert "etc/hbtrio/host.toml" not in files(tmp_path)


def test_a_copy_of_a_wheels_files_has_no_program(tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    for part in ("deploy", "config"):
        shutil.copytree(CHECKOUT / part, copied / part)
    done = install(tmp_path / "root", "guest", script=copied / "deploy" / "install.sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"{copied}: no program here; install it with pip, then use --files-only\n"
    )
    assert not (tmp_path / "root").exists()


# -- install.sh --uninstall -----------------------------------------------------------------

KEPT: Final = {
    "guest": {
        "etc/guest-client/heartbeat/guest_heartbeat.conf": "0644",
        "etc/guest-client/heartbeat/sample_event_script": "0755",
        "etc/guest-client/heartbeat/sample_health_script": "0755",
    },
    "host": {"etc/hbtrio/host.toml": "0644"},
    "agent": {"etc/hbtrio/agent.toml": "0644"},
}


def with_program(root: Path) -> None:
    (root / "opt/hbtrio/bin").mkdir(parents=True, exist_ok=True)
    (root / "opt/hbtrio/bin/hbtrio").touch()
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/local/bin/hbtrio").symlink_to("/opt/hbtrio/bin/hbtrio")


@pytest.mark.parametrize(
    ("role", "commands"),
    [("guest", ["systemctl"]), ("guest", []), ("host", ["systemctl"]), ("agent", ["systemctl"])],
)
def test_uninstall_leaves_the_configuration(role: str, commands: list[str], tmp_path: Path) -> None:
    root = image(tmp_path, *commands)
    before = files(root)
    with_program(root)
    install(root, "--files-only", role)
    done = install(root, "--uninstall", role)
    assert (done.returncode, done.stderr) == (0, "")
    more = "" if role == "guest" else ", /var/lib/hbtrio and the user hbtrio"
    place = "/etc/guest-client/heartbeat" if role == "guest" else "/etc/hbtrio"
    assert done.stdout == f"removed; kept: {place}{more}\n"
    assert files(root) == before | KEPT[role]
    assert not (root / "usr/local/bin/hbtrio").is_symlink()
    assert not (root / "opt/hbtrio").exists()


def test_uninstall_leaves_what_another_role_needs(tmp_path: Path) -> None:
    root = image(tmp_path, "systemctl")
    with_program(root)
    for role in KEPT:
        install(root, "--files-only", role)
    install(root, "--uninstall", "host")
    install(root, "--uninstall", "guest")
    left = files(root)
    assert "etc/systemd/system/hbtrio-host.service" not in left
    assert left.keys() >= SHARED.keys() | {
        "etc/systemd/system/hbtrio-agent.service",
        "etc/sysusers.d/hbtrio.conf",
        "etc/tmpfiles.d/hbtrio.conf",
        "opt/hbtrio/bin/hbtrio",
    }
    install(root, "--files-only", "guest")
    install(root, "--uninstall", "agent")
    assert files(root).keys() >= SHARED.keys() | {"opt/hbtrio/bin/hbtrio"}
    assert "etc/sysusers.d/hbtrio.conf" not in files(root)


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
    "arguments",
    [[], ["--files-only"], ["--uninstall"], ["lab"], ["guest", "host"], ["--all", "host"]],
)
def test_install_usage(arguments: list[str], tmp_path: Path) -> None:
    done = install(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    script = DEPLOY / "install.sh"
    assert done.stderr == f"usage: {script} [--files-only|--uninstall] guest|host|agent\n"
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

"""What a guest, a host and an agent need: as declared, as imported, and as pip installs it."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Final

import grimp
import pytest

from hbtrio.cli.extras import CLUSTER, NEEDS, Need, require
from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate.trio_internals import TRIO
from support.wheel import CHECKOUT, CleanVenv, built_wheel, pip, unless_offline

#: The package that has a module, if it is not called as the module.
PACKAGE_OF: Final = {"trio_serial": "trio-serial"}

#: Installed with every hbtrio. sniffio comes with trio.
BASE: Final = {"anyio", "attrs", "msgspec", "sniffio", "trio", "trio_serial"}


def project() -> dict[str, list[str]]:
    """The requirements of each extra; those of every hbtrio are called ``base``."""
    table = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return {"base": table["dependencies"], **table["optional-dependencies"]}


def names(requirements: list[str]) -> set[str]:
    return {requirement.partition(">=")[0] for requirement in requirements}


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("hbtrio", include_external_packages=True)


def imported_by(module: str, *, with_descendants: bool = True) -> set[str]:
    """The packages that a module, those in it and all that they import ask for."""
    graph = imports()
    start = {module} | (graph.find_descendants(module) if with_descendants else set())
    every = start.union(*(graph.find_upstream_modules(name) for name in start))
    outside = {name for name in every if graph.is_module_squashed(name)}
    return outside - set(sys.stdlib_module_names)


def test_a_vm_needs_no_extra() -> None:
    assert imported_by("hbtrio.app") <= BASE
    assert imported_by("hbtrio.cli.guest") <= BASE
    assert imported_by("hbtrio.testing") <= BASE | {"pytest"}
    assert imported_by("hbtrio.testing", with_descendants=False) <= BASE  # without its fixtures
    assert imported_by("hbtrio.cli", with_descendants=False) == set()  # on the way to each command


@pytest.mark.parametrize("command", ["host", "agent", "ctl"])
def test_a_command_needs_what_it_imports(command: str) -> None:
    optional = set(CLUSTER.modules) if command == "agent" else set()
    assert imported_by(f"hbtrio.cli.{command}") - BASE == {*NEEDS[command].modules, *optional}


def test_the_lab_needs_what_it_starts() -> None:
    started = (NEEDS[command].modules for command in ("host", "agent", "ctl"))
    every = imported_by("hbtrio.cli.lab").union(*started) - BASE - set(CLUSTER.modules)
    assert set(NEEDS["lab"].modules) == every


def test_only_check_config_imports_more_than_it_needs_to_start() -> None:
    cli = CHECKOUT / "src" / "hbtrio" / "cli"
    commands = {path.stem for path in cli.glob("[!_]*.py")} | {"ctl"}
    others = commands - NEEDS.keys() - {"extras", "api_endpoint", "notify"}
    assert {name for name in others if imported_by(f"hbtrio.cli.{name}") - BASE} == {"check_config"}


@pytest.mark.parametrize("extra", ["host", "agent"])
def test_an_extra_brings_what_its_commands_need_and_nothing_else(extra: str) -> None:
    needed = {*NEEDS[extra].modules, *NEEDS["ctl"].modules}
    assert names(project()[extra]) == {PACKAGE_OF.get(name, name) for name in needed}


def test_a_cluster_is_agents_with_the_client_of_their_database() -> None:
    assert [line.partition(">=")[0] for line in project()["cluster"]] == [
        "hbtrio[agent]",
        "psycopg[binary]",
    ]
    assert Need("cluster", ("psycopg",)) == CLUSTER
    assert "hbtrio[cluster]" in project()["test"]


def test_an_agent_imports_it_only_for_such_a_database() -> None:
    code = (
        "import sys, hbtrio.cli.agent; print([name for name in sys.modules if 'psycopg' in name])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_every_hbtrio_has_the_base() -> None:
    assert names(project()["base"]) == {PACKAGE_OF.get(name, name) for name in BASE - {"sniffio"}}


def test_extras_agree_on_versions() -> None:
    listed = project()
    shared = names(listed["host"]) & names(listed["agent"])
    for name in shared:
        (bounds,) = {
            line for extra in ("host", "agent") for line in listed[extra] if names([line]) == {name}
        }
        assert bounds
    assert listed["all"] == ["hbtrio[host,agent]"]
    assert "hbtrio[all]" in listed["test"]


def test_the_simulator_has_the_trio_that_it_was_written_for() -> None:
    assert project()["simulate"] == ["hbtrio[all]", f"trio=={TRIO}"]
    assert f"trio=={TRIO}" in (CHECKOUT / "constraints.txt").read_text().splitlines()
    assert "hbtrio[simulate]" in project()["test"]


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    require(Need("host", ("trio", "attrs")))
    with pytest.raises(UserError) as caught:
        require(Need("host", ("no_such_package_a", "trio", "no_such_package_b")))
    assert str(caught.value) == (
        "not installed: no_such_package_a, no_such_package_b; "
        f"run: {sys.executable} -m pip install 'hbtrio[host]'"
    )
    assert caught.value.status is ExitStatus.MISSING_PACKAGE


# -- from a wheel, in clean environments -------------------------------------------------------

#: An application of plain threads, under the SDK of a guest's environment.
APPLICATION: Final = """
import subprocess, sys
from hbtrio.app import Application
from hbtrio.app.sync import in_background
with in_background(Application("db", heartbeat_s=1.0, socket=sys.argv[1])) as background:
    background.wait_registered(60)
    print("registered", flush=True)
    words = [sys.executable, "-m", "hbtrio", "apps", "--app-socket", sys.argv[1]]
    print(subprocess.check_output(words, text=True).splitlines()[0])
"""

#: The scripted guest for users' tests, without pytest.
SCRIPTED_GUEST: Final = """
from hbtrio.app import Application
from hbtrio.app.sync import in_background
from hbtrio.testing import BackgroundGuest
with BackgroundGuest() as guest, in_background(Application("db", socket=guest.socket)):
    print(guest.wait_registered("db", timeout_s=60).vote("stop", window_s=60).result)
"""


@pytest.mark.processes
def test_a_guest_and_the_sdk_with_the_base_alone(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    venv = CleanVenv(tmp_path / "venv")
    venv.install(str(built_wheel(tmp_path_factory)))
    assert venv.packages() == {
        "anyio", "attrs", "hbtrio", "idna", "msgspec", "outcome", "sniffio", "sortedcontainers",
        "trio", "trio-serial", "typing-extensions",
    } - ({"typing-extensions"} if sys.version_info >= (3, 13) else set())  # fmt: skip
    config = CHECKOUT / "config"

    guest_conf = config / "guest_heartbeat.conf"
    assert venv.run("hbtrio", "check-config", guest_conf) == (
        0, f"{guest_conf}: correct (guest)\n", "",
    )  # fmt: skip
    run_pip = f"run: {venv.bin}/python -m pip install"
    status, out, said = venv.run("hbtrio", "check-config", config / "host.toml")
    assert (status, out) == (9, "")
    assert said == f"hbtrio check-config: not installed: cattrs; {run_pip} 'hbtrio[host]'\n"
    for command, need in NEEDS.items():
        missing = ", ".join(need.modules)
        status, out, said = venv.run("hbtrio", command)
        assert (status, out) == (9, "")
        assert (
            said
            == f"hbtrio {command}: not installed: {missing}; {run_pip} 'hbtrio[{need.extra}]'\n"
        )

    guest_is_heard(venv, tmp_path)
    ran = venv.run("python", "-c", SCRIPTED_GUEST, seconds=120)
    assert ran == (0, "accept\n", "")


def guest_is_heard(venv: CleanVenv, directory: Path) -> None:
    """A guest greets its host, and an application registers at it."""
    channel, applications = directory / "channel", directory / "apps"
    (directory / "conf").write_text("HEALTH_CHECK_INTERVAL=0\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(channel))
        listener.listen()
        listener.settimeout(60)
        arguments = ["--device", channel, "--app-socket", applications]
        guest = subprocess.Popen(
            [venv.bin / "hbtrio", "guest", "--config", directory / "conf", *arguments],
            stderr=subprocess.DEVNULL,
        )
        try:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(60)
                assert any(b'"init"' in line for line in iter(lines.readline, b""))
                ran = venv.run("python", "-c", APPLICATION, applications, seconds=120)
                assert ran == (0, "registered\n1 application registered\n", "")
        finally:
            guest.terminate()
            assert guest.wait(60) == 0


@pytest.mark.processes
def test_a_host_needs_no_agent_and_an_agent_no_host(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    wheel = built_wheel(tmp_path_factory)
    config = CHECKOUT / "config"
    for extra, other in (("host", "agent"), ("agent", "host")):
        venv = CleanVenv(tmp_path / extra)
        venv.install(f"{wheel}[{extra}]")
        for command in (extra, "ctl"):
            status, out, _ = venv.run("hbtrio", command, "--help")
            assert (status, out.partition(" [")[0]) == (0, f"usage: hbtrio {command}")
        file = config / f"{extra}.toml"
        assert venv.run("hbtrio", "check-config", file)[0] == 0
        # What the tables say is missing, and nothing else, is what the other one needs.
        has = {*NEEDS[extra].modules, *NEEDS["ctl"].modules}
        missing = set(NEEDS[other].modules) - has
        absent = {PACKAGE_OF.get(name, name).replace("_", "-") for name in missing}
        assert not absent & venv.packages()
        assert (venv.run("hbtrio", other, "--config", "/nowhere")[0] == 9) is bool(missing)


@pytest.mark.processes
@pytest.mark.parametrize("fastapi", ["fastapi==0.110.0", "fastapi"])
def test_applications_may_use_fastapi(
    fastapi: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    venv = CleanVenv(tmp_path / "venv")
    wheel = built_wheel(tmp_path_factory)
    unless_offline(
        pip("install", "--quiet", "--dry-run", wheel, fastapi, python=venv.bin / "python")
    )

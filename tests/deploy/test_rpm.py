"""The RPM packages: what the spec says, and what is in a package that rpmbuild makes of it here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import hbtrio
from support.debian import output
from support.wheel import CHECKOUT, INSTALL_S, unless_offline

RPM: Final = CHECKOUT / "deploy" / "rpm"
SPEC: Final = RPM / "hbtrio.spec"
UNITS: Final = {
    "guest": ["hbtrio-guest.service"],
    "host": ["hbtrio-host.service", "hbtrio-agent.service"],
}

#: What systemd-rpm-macros has; Debian's rpm has none of it.
MACROS: Final = """\
%_unitdir /usr/lib/systemd/system
%_udevrulesdir /usr/lib/udev/rules.d
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
%systemd_post() post-units %{*}
%systemd_preun() preun-units %{*}
%systemd_postun_with_restart() postun-units %{*}
"""

#: What rpmlint holds against a spec that is right: the source is made by build.sh, and no rpm of
#: the last years wants a BuildRoot.
EXPECTED: Final = ("no-buildroot-tag", "invalid-url Source0")


def tool(name: str) -> str:
    """A tool's name; skips the test where it is missing. ``.ci/run`` installs both of them."""
    if shutil.which(name) is None and os.environ.get("HBTRIO_REQUIRE_VM") != "1":
        pytest.skip(f"there is no {name} here")
    return name


@pytest.fixture
def macros(tmp_path: Path) -> Path:
    file = tmp_path / "macros"
    file.write_text(MACROS)
    return file


@pytest.mark.parametrize("role", UNITS)
def test_what_rpm_reads(role: str, macros: Path) -> None:
    spec = output(tool("rpmspec"), "-P", "--define", f"role {role}", "--load", macros, SPEC)
    # What is left are the sections and what stands before the names of files.
    assert re.findall(r"%[({]|[^\n]%(?!attr)\w", spec) == []
    assert f"\nName:           hbtrio-{role}\n" in spec
    for when in ("post", "preun", "postun"):
        assert f"\n{when}-units {' '.join(UNITS[role])}\n" in spec


def test_its_version_is_the_program_s() -> None:
    assert re.findall(r"^Version: +(.*)$", SPEC.read_text(), re.M) == [hbtrio.__version__]


def test_rpmlint_finds_no_fault() -> None:
    said = output(tool("rpmlint"), SPEC)
    faults = re.findall(r"^\S+ [WE]: .*$", said, re.M)
    assert [fault for fault in faults if not any(text in fault for text in EXPECTED)] == []
    assert "1 specfiles checked; 0 errors" in said


@pytest.mark.processes
def test_a_package(macros: Path, tmp_path: Path) -> None:
    tool("rpmbuild")
    done = subprocess.run(
        ["sh", str(RPM / "build.sh"), "guest", str(tmp_path), "--nodeps", "--load", str(macros),
         "--define", f"package_python {sys.executable}"],
        env=os.environ | {"PIP_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )  # fmt: skip
    unless_offline(done)
    (package,) = tmp_path.glob("*/hbtrio-guest-*.rpm")
    configuration = output("rpm", "-qpc", package).splitlines()
    assert "/etc/guest-client/heartbeat/guest_heartbeat.conf" in configuration
    version = ".".join(map(str, sys.version_info[:2]))
    asked = output("rpm", "-qpR", package).splitlines()
    assert f"python(abi) = {version}" in asked
    assert not [line for line in asked if line.startswith("python3")]
    provided = output("rpm", "-qp", "--provides", package).splitlines()
    assert {line.partition(" ")[0].partition("(")[0] for line in provided} == {
        "config", "hbtrio-guest",
    }  # fmt: skip
    output("sh", "-c", 'cd "$1" && rpm2cpio "$2" | cpio -id --quiet', "sh", tmp_path, package)
    program = tmp_path / "opt/hbtrio-guest/bin"
    said = output(program / "python", "-I", program / "hbtrio", "--version")
    assert said == f"hbtrio {hbtrio.__version__}\n"

"""The wheel of this checkout, and clean environments that it is installed into."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parents[2]

#: Installing may take a while on a busy machine, and must not hang for good.
INSTALL_S: Final = 300.0


def pip(*arguments: str | Path, python: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs this environment's pip, for that of ``python`` if it is given."""
    target = [] if python is None else ["--python", str(python)]
    return subprocess.run(
        [sys.executable, "-m", "pip", *target, "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
    )


def built_once(
    factory: pytest.TempPathFactory,
    name: str,
    build: Callable[[Path], subprocess.CompletedProcess[str]],
) -> Path:
    """The directory that ``build`` fills, once for all workers of a run.

    Skips the test where no index is reached.
    """
    directory = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    place = directory / name
    with open(directory / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            unless_offline(build(place))
    return place


def built_wheel(factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""

    def build(place: Path) -> subprocess.CompletedProcess[str]:
        return pip("wheel", "--quiet", "--no-deps", "--wheel-dir", place, CHECKOUT)

    (wheel,) = built_once(factory, "wheel", build).glob("hbtrio-*.whl")
    return wheel


def unless_offline(done: subprocess.CompletedProcess[str]) -> None:
    """Fails if pip did; skips if it reached no index, unless .ci/run asks for one."""
    if done.returncode and os.environ.get("HBTRIO_REQUIRE_INDEX") != "1":
        pytest.skip(f"pip reaches no index: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr


class CleanVenv:
    """An environment with nothing of this one's.

    Args:
        directory: where to make it.
    """

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(directory)],
            check=True,
            timeout=INSTALL_S,
        )

    def install(self, *requirements: str) -> None:
        """Installs the requirements, at the versions of constraints.txt."""
        constraints = CHECKOUT / "constraints.txt"
        unless_offline(
            pip(
                "install", "--quiet", "--constraint", constraints, *requirements,
                python=self.bin / "python",
            )
        )  # fmt: skip

    def packages(self) -> set[str]:
        """The names of the packages in it, normalized."""
        listed = pip("list", "--format=freeze", python=self.bin / "python").stdout.split()
        return {line.partition("==")[0].lower().replace("_", "-") for line in listed}

    def run(self, *command: str | Path, seconds: float = 60) -> tuple[int, str, str]:
        """Runs one of its commands in an empty environment; exit status and both outputs."""
        done = subprocess.run(
            [self.bin / command[0], *command[1:]],
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return done.returncode, done.stdout, done.stderr

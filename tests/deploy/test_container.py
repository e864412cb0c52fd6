"""The container of the agent: what its file names, and a build of it by ``make test-container``."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from hbtrio.cli import Parser, add_command
from support.debian import made_debian
from support.wheel import CHECKOUT

FILE: Final = CHECKOUT / "deploy" / "agent.Containerfile"

Buildah = Callable[..., str]


def steps() -> list[tuple[str, str]]:
    """The instructions of the file, each with what follows it."""
    lines = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.M).replace("\\\n", "")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines.splitlines())]


def test_it_copies_what_is_there() -> None:
    copied = {
        name
        for word, rest in steps()
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    }
    assert {"src", "pyproject.toml", "constraints.txt"} <= copied
    assert [name for name in copied if not (CHECKOUT / name).exists()] == []
    # What it copies is not kept out of the build by .dockerignore, and nothing else is let in.
    let_in = {
        line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert {name.partition("/")[0] for name in copied} == let_in


def test_it_copies_all_that_the_wheel_is_built_from() -> None:
    forced = re.findall(
        r'^"([\w.]+)" = "hbtrio/files/', (CHECKOUT / "pyproject.toml").read_text(), re.M
    )
    copied = " ".join(rest for word, rest in steps() if word == "COPY").split()
    assert forced
    assert set(forced) <= set(copied)


def test_it_starts_an_agent_that_is_not_root() -> None:
    last = dict(steps())
    _, name, *words = json.loads(last["ENTRYPOINT"])
    parser = Parser(prog="hbtrio agent")
    add_command(name, parser)
    parser.parse_args(words)
    assert name == "agent"
    assert last["USER"] == "2410:2410"
    assert any("useradd --uid 2410 " in rest for word, rest in steps() if word == "RUN")


# -- built --------------------------------------------------------------------------------------


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    """buildah with a store of its own, and in it an image of Debian made here."""

    def run(*words: str | Path) -> str:
        store = ["--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run")]
        done = subprocess.run(
            ["buildah", *store, "--storage-driver", "vfs", *map(str, words)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    with made_debian(tmp_path / "debian"):
        pass
    container = run("from", "scratch").strip()
    run("copy", "--quiet", container, tmp_path / "debian", "/")
    run("commit", "--quiet", container, "localhost/debian")
    yield run
    run("rm", "--all")
    run("rmi", "--all", "--force")


@pytest.mark.processes
@pytest.mark.skipif(
    os.environ.get("HBTRIO_CONTAINER") != "1", reason="run by make test-container, as root"
)
def test_it_is_built_and_runs(buildah: Buildah, tmp_path: Path) -> None:
    # For an index with a certificate that this machine trusts, and the image does not.
    settings = tmp_path / "pip"
    settings.mkdir()
    trusted = ssl.get_default_verify_paths().cafile
    assert trusted
    (settings / "ca.crt").write_bytes(Path(trusted).read_bytes())
    (settings / "pip.conf").write_text("[global]\ncert = /etc/xdg/pip/ca.crt\n")
    buildah(
        "bud", "--isolation", "chroot", "--build-arg", "BASE=localhost/debian",
        "--volume", f"{settings}:/etc/xdg/pip:ro", "--tag", "localhost/hbtrio-agent",
        "--file", FILE, ".",
    )  # fmt: skip
    config = json.loads(buildah("inspect", "--type", "image", "localhost/hbtrio-agent"))["OCIv1"]
    started = shlex.join(config["config"]["Entrypoint"])
    container = buildah("from", "localhost/hbtrio-agent").strip()
    script = f"""
        {started} & agent=$!
        for attempt in $(seq 100); do
            hbtrio ctl --url unix:/run/hbtrio/agent.sock status 2>/dev/null && break
            sleep 0.2
        done
        kill $agent
        wait $agent
        echo "ended with $?, as $(id -un)"
    """
    said = buildah("run", "--isolation", "chroot", container, "--", "sh", "-c", script)
    assert "0 of 0 instances heartbeating" in said
    assert "ended with 0, as hbtrio" in said

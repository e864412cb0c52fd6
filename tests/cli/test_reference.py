"""Manual pages and completions: those that the code writes, and such that tools read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import shtab

from hbtrio.cli import COMMANDS
from hbtrio.cli.completion import whole_parser
from hbtrio.cli.manual import pages
from hbtrio.cli.reference import commands_page, with_event_table
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import EVENT_TABLE
from support.wheel import CHECKOUT

DEPLOY: Final = CHECKOUT / "deploy"
SHELLS: Final = ("bash", "zsh", "fish")


def written() -> dict[str, str]:
    return pages((CHECKOUT / "docs" / "exit-statuses.md").read_text())


def run(*command: str, text: str = "") -> str:
    """What a tool prints, both outputs; it has to succeed. ``.ci/run`` installs all of them."""
    if shutil.which(command[0]) is None and os.environ.get("HBTRIO_REQUIRE_VM") != "1":
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_pages_are_those_that_the_code_writes() -> None:
    there = {path.name: path.read_text() for path in (DEPLOY / "man").iterdir()}
    assert there == written(), "run `make docs`"


def test_the_documentation_has_what_the_code_writes() -> None:
    docs = CHECKOUT / "docs"
    assert (docs / "commands.md").read_text() == commands_page(), "run `make docs`"
    concepts = (docs / "concepts.md").read_text()
    assert concepts == with_event_table(concepts), "run `make docs`"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completions_are_those_that_the_code_writes(shell: str) -> None:
    there = (DEPLOY / "completion" / f"hbtrio.{shell}").read_text()
    assert there.strip() == shtab.complete(whole_parser(), shell).strip(), "run `make docs`"


def test_each_command_has_a_page_and_each_status_a_line() -> None:
    made = written()
    sections = re.findall(r"^\.BR hbtrio\\-(.*) \((.)\)$", made["hbtrio.1"], re.M)
    names = {f"hbtrio-{name}.{number}".replace("\\-", "-") for name, number in sections}
    assert names | {"hbtrio.1"} == set(made)
    assert len(names) == len(COMMANDS)
    listed = re.findall(r"^\.B (\d+)$", made["hbtrio.1"], re.M)
    assert {int(status) for status in listed} == {*ExitStatus, 130}


def test_a_page_has_every_option_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    page = written()["hbtrio-ctl.1"].replace("\\-", "-").replace("\\", "")
    for option in ("--take-over", "--token-file", "--follow", "--before"):
        assert f"fB{option}fR" in page
    assert "live_migrate_begin" in page
    assert "%(" not in page


@pytest.mark.parametrize("name", sorted(written()))
def test_mandoc_finds_no_fault(name: str) -> None:
    dated = written()[name].replace(' "" "hbtrio', ' "January 1, 2026" "hbtrio')  # it wants a date
    assert run("mandoc", "-Tlint", "-Wwarning", text=dated) == ""


#: What is typed, and what the shell offers.
OFFERED: Final = [
    ("hbtrio c", {"ctl", "check-config"}),
    ("hbtrio ctl vo", {"vote"}),
    ("hbtrio ctl notify web re", {name for name in EVENT_TABLE if name.startswith("re")}),
    ("hbtrio guest --c", {"--config"}),
    ("hbtrio guest --log s", {"stderr", "syslog"}),
    (f"hbtrio check-config {DEPLOY}/hbtrio-h", {f"{DEPLOY}/hbtrio-host.service"}),
]

_IN_BASH: Final = """
source "$1"
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_hbtrio hbtrio "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("typed", "offered"), OFFERED)
def test_bash_completes(typed: str, offered: set[str]) -> None:
    script = str(DEPLOY / "completion" / "hbtrio.bash")
    said = run("bash", "-c", _IN_BASH, "bash", script, *typed.split(" "))
    assert set(said.split()) == {str(word) for word in offered}


@pytest.mark.parametrize(("typed", "offered"), OFFERED)
def test_fish_completes(typed: str, offered: set[str], tmp_path: Path) -> None:
    script = DEPLOY / "completion" / "hbtrio.fish"
    said = run("env", f"HOME={tmp_path}", "fish", "-c", f"source {script}; complete -C '{typed}'")
    assert {line.partition("\t")[0] for line in said.splitlines()} == {str(w) for w in offered}


def test_zsh_reads_its_completion(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "completion" / "hbtrio.zsh", tmp_path / "_hbtrio")
    load = f"fpath=({tmp_path}); autoload -Uz _hbtrio; autoload +X _hbtrio; whence -v _hbtrio"
    assert run("zsh", "-f", "-c", load).startswith("_hbtrio is a shell function")


def test_make_help_names_every_target() -> None:
    text = (CHECKOUT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    said = run("make", "--no-print-directory", "-C", str(CHECKOUT), "help")
    assert {line.split()[0] for line in said.splitlines()} == set(phony.split())

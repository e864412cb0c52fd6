"""When `hbtrio ctl` shows its output in a pager, in which, and what a pager can't spoil."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hbtrio.cli.ctl.pager import paged, pager_of
from hbtrio.cli.ctl.screen import Screen

ROWS = 10


@pytest.fixture(autouse=True)
def _ten_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", str(ROWS))
    monkeypatch.setenv("COLUMNS", "80")


class Paged:
    """An output, and a pager that keeps what it was given.

    Args:
        folder: where the pager and what it keeps are.
        script: what the pager does first.
        terminal: whether the output is a terminal.
    """

    def __init__(self, folder: Path, script: str = "", *, terminal: bool = True) -> None:
        self.direct = io.StringIO()
        self._kept = folder / "kept"
        program = folder / "pager"
        program.write_text(
            f"#!/bin/sh\n{script}\n"
            'printf \'["%s", "%s", "%s"]\\n\' "$LESS" "$LESSSECURE" "$1" > "$0.environment"\n'
            f"cat > {self._kept}\n"
        )
        program.chmod(0o755)
        self.said = folder / "pager.environment"
        self.environment = {"PAGER": f"'{program}' -x", "PATH": "/usr/bin:/bin"}
        self.screen = Screen(self.direct, terminal=terminal, colour=False, columns=lambda: 80)

    def write(self, lines: int) -> None:
        with paged(self.screen, self.environment):
            for number in range(lines):
                self.screen.line(f"line {number}")
            assert self.direct.getvalue() == ""

    @property
    def kept(self) -> str | None:
        return self._kept.read_text() if self._kept.exists() else None


def text_of(lines: int) -> str:
    return "".join(f"line {number}\n" for number in range(lines))


def test_what_is_longer_than_the_terminal_is_paged(tmp_path: Path) -> None:
    output = Paged(tmp_path)
    output.write(ROWS)
    assert (output.direct.getvalue(), output.kept) == ("", text_of(ROWS))
    assert json.loads(output.said.read_text()) == ["FRX", "1", "-x"]


def test_the_users_less_options_stand_and_the_shell_stays_shut(tmp_path: Path) -> None:
    output = Paged(tmp_path)
    output.environment |= {"LESS": "S", "LESSSECURE": ""}
    output.write(ROWS)
    assert json.loads(output.said.read_text()) == ["S", "1", "-x"]


def test_what_fits_is_not_paged(tmp_path: Path) -> None:
    output = Paged(tmp_path)
    output.write(ROWS - 1)
    assert (output.direct.getvalue(), output.kept) == (text_of(ROWS - 1), None)


def test_a_pipe_is_not_paged(tmp_path: Path) -> None:
    output = Paged(tmp_path, terminal=False)
    output.write(1000)
    assert (output.direct.getvalue(), output.kept) == (text_of(1000), None)


def test_without_a_pager_all_is_written(tmp_path: Path) -> None:
    output = Paged(tmp_path)
    output.environment["PAGER"] = str(tmp_path / "gone")
    output.write(1000)
    assert output.direct.getvalue() == text_of(1000)


def test_a_pager_that_can_not_be_started(tmp_path: Path) -> None:
    output = Paged(tmp_path)
    (tmp_path / "pager").write_text("#!/no/such/interpreter\n")
    output.write(1000)
    assert output.direct.getvalue() == text_of(1000)


def test_a_pager_may_end_before_it_has_read_all(tmp_path: Path) -> None:
    output = Paged(tmp_path, "exit 3")
    output.write(100_000)
    assert (output.direct.getvalue(), output.kept) == ("", None)


def test_an_interruption_is_the_pagers(tmp_path: Path) -> None:
    output = Paged(tmp_path, "kill -INT $PPID")
    output.write(100_000)
    assert output.kept == text_of(100_000)


def test_a_command_that_fails_leaves_what_it_wrote(tmp_path: Path) -> None:
    output = Paged(tmp_path)

    def fail() -> None:
        with paged(output.screen, output.environment):
            for number in range(ROWS):
                output.screen.line(f"line {number}")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert (output.direct.getvalue(), output.kept) == (text_of(ROWS), None)
    output.screen.line("written directly")
    assert output.direct.getvalue().endswith("written directly\n")


@pytest.mark.parametrize(
    ("pager", "words"),
    [
        ("sh", ("sh",)),
        ("sh -c 'a b'", ("sh", "-c", "a b")),
        ("", ()),
        (" ", ()),
        ("cat", ()),
        ("sh '", ()),
        ("no-such-pager", ()),
    ],
)
def test_which_pager(pager: str, words: tuple[str, ...]) -> None:
    assert pager_of({"PAGER": pager}) == words


def test_less_is_the_pager_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pager_of({}) == ()
    (tmp_path / "less").touch(mode=0o755)
    assert pager_of({}) == ("less",)

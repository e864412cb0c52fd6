"""A runner that ignores signals, as below ``nohup``, runs the same tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.signal_actions import spare_children


@pytest.fixture(params=[signal.SIGINT, signal.SIGHUP])
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


def is_ignored_in_a_child(number: signal.Signals) -> bool:
    code = f"import signal, sys; sys.exit(signal.getsignal({number:d}) is signal.SIG_IGN)"
    return subprocess.run([sys.executable, "-c", code]).returncode == 1


def test_children_do_not_inherit_that_a_signal_is_ignored(ignored: signal.Signals) -> None:
    assert is_ignored_in_a_child(ignored)
    spare_children()
    assert not is_ignored_in_a_child(ignored)
    signal.raise_signal(ignored)  # and here it is still ignored


def test_a_handler_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert before is not signal.SIG_IGN
    spare_children()
    assert signal.getsignal(signal.SIGINT) is before

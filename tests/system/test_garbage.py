"""Garbage collection is off while a daemon ends, and only then."""

from __future__ import annotations

import gc

import pytest

from hbtrio.system.garbage import collected_until_told


def test_it_is_off_from_then_until_the_end() -> None:
    with collected_until_told() as stop_collecting:
        assert gc.isenabled()
        stop_collecting()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_again_after_an_exception() -> None:
    def end_badly() -> None:
        with collected_until_told() as stop_collecting:
            stop_collecting()
            raise KeyError

    with pytest.raises(KeyError):
        end_badly()
    assert gc.isenabled()

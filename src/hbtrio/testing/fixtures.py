"""Fixtures for pytest.

In the conftest.py at the top of your tests::

    pytest_plugins = ["hbtrio.testing.fixtures"]

They are not loaded by themselves: an entry point would import hbtrio into every run of pytest in
the same environment, whoever's tests it runs. Of hbtrio only this module needs pytest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hbtrio.testing.background import BackgroundGuest
from hbtrio.testing.guest import ScriptedGuest, socket_directory
from hbtrio.wire.app_socket import APP_SOCKET_VARIABLE


@pytest.fixture
def hbtrio_guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[BackgroundGuest]:
    """A scripted guest in the background, for tests without an event loop.

    ``HBTRIO_APP_SOCKET`` names its socket, for the application in the test and for processes that
    the test starts.
    """
    with BackgroundGuest() as guest:
        monkeypatch.setenv(APP_SOCKET_VARIABLE, guest.socket)
        yield guest


@pytest.fixture
def hbtrio_async_guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGuest]:
    """A scripted guest for the test to start: ``async with hbtrio_async_guest as guest``.

    The fixture does not start it, so that it works with every plugin that runs coroutines: it
    belongs to the test's event loop. ``HBTRIO_APP_SOCKET`` names its socket already.
    """
    with socket_directory() as directory:
        path = os.path.join(directory, "api")
        monkeypatch.setenv(APP_SOCKET_VARIABLE, path)
        yield ScriptedGuest(path)

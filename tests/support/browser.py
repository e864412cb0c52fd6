"""Debian's headless Chromium, driven by Playwright in a thread of its own beside trio.

Where there is no Chromium what needs it is skipped, unless HBTRIO_REQUIRE_BROWSER=1 makes that a
failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import axe_playwright_python
import pytest
import trio
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.real_processes import SOON_S

_T = TypeVar("_T")

#: How long Playwright waits for what a test expects, in milliseconds.
_EXPECT_MS: Final = SOON_S * 1000


class Tab:
    """A page of the browser; what it says on its console is kept.

    Args:
        page: the page; only :meth:`do` may use it.
        thread: the thread it belongs to.
    """

    def __init__(self, page: Page, thread: ThreadPoolExecutor) -> None:
        self._page = page
        self._thread = thread
        #: Warnings and errors of the console, and uncaught exceptions.
        self.complaints: list[str] = []
        page.set_default_timeout(_EXPECT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def do(self, what: Callable[[Page], _T]) -> _T:
        """Runs ``what`` with the page in its thread."""
        return await _in(self._thread, what, self._page)

    def _heard(self, message: Any) -> None:
        if message.type in ("warning", "error"):
            self.complaints.append(message.text)


class BrowserThread:
    """A running browser."""

    def __init__(self, browser: Browser, thread: ThreadPoolExecutor) -> None:
        self._browser = browser
        self._thread = thread

    async def tab(self, url: str = "", **context: Any) -> Tab:
        """A tab with a context of its own, at this address.

        Args:
            url: the address; "" stays at an empty page.
            context: options of Playwright's ``new_context``.
        """

        def opened() -> Tab:
            tab = Tab(self._browser.new_context(**context).new_page(), self._thread)
            if url:
                tab._page.goto(url)
            return tab

        return await _in(self._thread, opened)


@asynccontextmanager
async def open_browser() -> AsyncIterator[BrowserThread]:
    """A browser; it has ended when the context is left."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("HBTRIO_REQUIRE_BROWSER") == "1":
            pytest.fail("chromium is not installed, and HBTRIO_REQUIRE_BROWSER=1 asks for it")
        pytest.skip("chromium is not installed")
    expect.set_options(timeout=_EXPECT_MS)
    with ThreadPoolExecutor(1) as thread:
        playwright = await _in(thread, lambda: sync_playwright().start())
        try:
            # Nobody else's pages are opened: the sandbox, which root can't have, guards nothing.
            arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
            browser = await _in(
                thread,
                lambda: playwright.chromium.launch(executable_path=path, args=arguments),
            )
            try:
                yield BrowserThread(browser, thread)
            finally:
                with trio.CancelScope(shield=True):
                    await _in(thread, browser.close)
        finally:
            with trio.CancelScope(shield=True):
                await _in(thread, playwright.stop)


def axe_faults(page: Page) -> list[str]:
    """What axe-core finds on a page, which must have been opened with ``bypass_csp``.

    axe makes elements of text, which the policy of the status page forbids.
    """
    assert axe_playwright_python.__file__ is not None
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


async def _in(thread: ThreadPoolExecutor, what: Callable[..., _T], *arguments: Any) -> _T:
    return await trio.to_thread.run_sync(lambda: thread.submit(what, *arguments).result())

"""The status page in a browser whose requests fail, or are not answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from support.browser import open_browser
from support.fleet_world import fleet_api

pytestmark = pytest.mark.processes

STATUS = "**/v1/status"


async def test_a_status_that_failed_is_asked_for_again(tmp_path: Path) -> None:
    async with open_browser() as browser, fleet_api(tmp_path) as api:
        tab = await browser.tab()

        def opens(page: Page) -> None:
            failures = iter(range(3))

            def handle(route: Route) -> None:
                if next(failures, None) is None:
                    route.continue_()
                else:
                    route.fulfill(status=503, json={"status": "fail", "reason": "busy"})

            page.route(STATUS, handle)
            page.goto(api.url)
            expect(page.locator("#shown")).to_have_text("0 of 0 shown")

        await tab.do(opens)
        assert all("503" in line for line in tab.complaints), tab.complaints


async def test_a_status_that_is_not_answered_is_given_up(tmp_path: Path) -> None:
    async with open_browser() as browser, fleet_api(tmp_path) as api:
        tab = await browser.tab()

        def opens(page: Page) -> None:
            waiting: list[Route] = []

            def handle(route: Route) -> None:
                if waiting:
                    route.continue_()
                else:
                    waiting.append(route)  # and never answered

            page.clock.install()
            page.route(STATUS, handle)
            page.goto(api.url)
            expect(page.locator("#connection")).to_have_text("live")
            page.clock.fast_forward(19_000)
            expect(page.locator("#shown")).to_have_text("")
            page.clock.fast_forward(2_000)
            page.clock.fast_forward(4_000)
            expect(page.locator("#shown")).to_have_text("0 of 0 shown")

        await tab.do(opens)
        assert tab.complaints == []

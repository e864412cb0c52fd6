"""The status page in a browser where nothing is shown without the token."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from support.browser import open_browser
from support.fleet_world import TOKEN, fleet_api

pytestmark = pytest.mark.processes


async def test_the_token_is_typed_and_kept_in_the_tab_alone(tmp_path: Path) -> None:
    async with open_browser() as browser, fleet_api(tmp_path, local=False) as api:
        tab = await browser.tab(f"http://127.0.0.1:{api.port}/")

        def types(page: Page) -> None:
            field = page.get_by_label("Operator token")
            expect(page.locator("#connection")).to_have_text("needs the token")
            field.fill("wrong")
            field.press("Enter")
            expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
            field.fill(TOKEN)
            field.press("Enter")
            expect(page.locator("#connection")).to_have_text("live")
            expect(field).to_be_hidden()
            expect(page.locator("#shown")).to_contain_text("shown")
            assert TOKEN not in page.url
            assert page.context.cookies() == []
            assert page.evaluate("localStorage.length") == 0

        await tab.do(types)
        assert [line for line in tab.complaints if "401" not in line] == []

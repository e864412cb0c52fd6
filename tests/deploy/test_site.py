"""The documentation site: built without a warning, and asking no other host for anything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Page

from support.browser import open_browser
from support.wheel import CHECKOUT

pytestmark = pytest.mark.processes

PAGES: Final = sorted((CHECKOUT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=CHECKOUT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
    assert "".join(lines).strip() == ""
    return place


def test_it_has_every_page_and_finds_it(site: Path) -> None:
    home = (site / "index.html").read_text()
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for page in PAGES:
        name = f"{page.stem}.html"
        assert (site / name).exists()
        assert f'href="{name}"' in home, "not in the navigation"
        assert name in found, "not in the search"
    assert not (site / "site").exists()  # its own code is no part of it


def test_lists_are_lists_and_links_lead_to_pages(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.findall(r'href="[^":]+\.md[#"]', text), page.name
        assert not re.findall(r"<p>[^<]*\n- ", text), page.name
    assert (
        'href="files/examples/event_script.py"' in (site / "python-applications.html").read_text()
    )


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The site at an address of the loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_it_asks_no_other_host(site: Path) -> None:
    asked: list[str] = []

    def look(page: Page) -> None:
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "state-machines.html", "page.html"):
            page.goto(f"{address}/{name}", wait_until="networkidle")
        # Its worker and its index are fetched once somebody begins to search.
        page.goto(f"{address}/index.html?q=guard", wait_until="networkidle")

    async with open_browser() as browser:
        with served(site) as address:
            tab = await browser.tab()
            await tab.do(look)
    assert len(asked) > 10
    assert {url for url in asked if not url.startswith((address, "data:"))} == set()
    assert tab.complaints == []

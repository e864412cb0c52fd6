"""An agent's status page in a browser: an operator releases a host's alarms, and forgets it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from playwright.sync_api import Page, Request, expect

from hbtrio.api.agent import agent_api
from hbtrio.http.server import serve_http
from support.agent_world import AgentWorld, agent_world
from support.browser import Tab, axe_faults, open_browser
from support.fleet_world import TOKEN
from support.scripted_host import HOSTNAME, INSTANCE, ScriptedHost

pytestmark = pytest.mark.processes

VMS = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(3)]

#: How long a host without a link counts as there, in seconds.
GRACE_S = 1.0


@attrs.frozen
class Seen:
    """An agent of one host, and its page in a browser."""

    world: AgentWorld
    host: ScriptedHost
    tab: Tab


@asynccontextmanager
async def open_page(folder: Path, **options: Any) -> AsyncIterator[Seen]:
    async with open_browser() as browser, agent_world(folder, grace_s=GRACE_S) as world:
        host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in VMS))
        await world.bound_host(host=host)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        crashes: list[BaseException] = []

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            app = agent_api(world.agent, world.agent.actions, token=lambda: TOKEN)
            await serve_http(
                app,
                [listener],
                classes=app.classes,
                on_crash=crashes.append,
                task_status=task_status,
            )

        await world.nursery.start(serve)
        yield Seen(world, host, await browser.tab(f"http://127.0.0.1:{port}/", **options))
        assert crashes == []


def alarms(world: AgentWorld) -> list[str]:
    return sorted(body["uuid"] for _, body in world.vim.got if body["event-type"] == "alarm")


@pytest.mark.parametrize(
    ("label", "outcome", "heard"),
    [
        ("Send alarms", "3 alarms sent, 0 withdrawn", VMS),
        ("Withdraw alarms", "0 alarms sent, 3 withdrawn", []),
    ],
)
async def test_held_alarms_are_released_once_that_is_confirmed(
    tmp_path: Path, label: str, outcome: str, heard: list[str]
) -> None:
    async with open_page(tmp_path) as on:
        for uuid in VMS:
            await on.host.report_lost(uuid)
        requests: list[Request] = []

        def asks(page: Page) -> None:
            page.on("request", lambda request: requests.append(request))
            held = page.get_by_role("listitem").filter(has_text="alarms are held back")
            held.get_by_role("button", name=f"{label}: {HOSTNAME}").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text(f"alarms of {HOSTNAME} that are held back?")
            expect(dialog.get_by_label("Operator token")).to_be_focused()
            page.keyboard.press("Escape")
            expect(dialog).to_be_hidden()

        await on.tab.do(asks)
        assert on.world.agent.mass_failure_guard.hold(HOSTNAME) is not None

        def agrees(page: Page) -> None:
            page.get_by_role("button", name=f"{label}: {HOSTNAME}").click()
            dialog = page.get_by_role("dialog")
            dialog.get_by_role("button", name=label).click()
            expect(dialog.get_by_role("alert")).to_have_text("the token is missing or wrong")
            dialog.get_by_label("Operator token").fill(TOKEN)
            dialog.get_by_role("button", name=label).click()
            expect(dialog.get_by_role("status")).to_have_text(f"{HOSTNAME}: {outcome}")
            dialog.get_by_role("button", name="Close").click()
            expect(page.get_by_role("region", name="Warnings")).to_be_hidden()
            assert page.context.cookies() == []

        await on.tab.do(agrees)
        with trio.fail_after(5):
            await on.world.vim.until(lambda: alarms(on.world) == heard)
        assert not any(TOKEN in request.url for request in requests)
        posted = [request.headers for request in requests if request.method == "POST"]
        assert all(" agent-boot" in headers["hbtrio-begin-by"] for headers in posted)
        assert len(posted) == 2
        assert [line for line in on.tab.complaints if "401" not in line] == []


async def test_a_host_that_is_no_more_is_forgotten_once_that_is_confirmed(tmp_path: Path) -> None:
    async with open_page(tmp_path) as on:

        def starts(page: Page) -> None:
            expect(page.locator("#shown")).to_have_text("3 of 3 shown")
            assert page.get_by_role("button", name="Forget host").count() == 0

        await on.tab.do(starts)
        await on.host.cut()

        def forgets(page: Page) -> None:
            page.get_by_role("button", name=f"Forget host: {HOSTNAME}").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text(f"Forget {HOSTNAME} and its instances")
            dialog.get_by_label("Operator token").fill(TOKEN)
            dialog.get_by_role("button", name="Forget host").click()
            text = f"{HOSTNAME} is forgotten, with 3 instances"
            expect(dialog.get_by_role("status")).to_have_text(text)
            expect(dialog.get_by_role("button", name="Close")).to_be_focused()
            page.keyboard.press("Enter")
            expect(dialog).to_be_hidden()
            expect(page.locator("#shown")).to_have_text("0 of 0 shown")

        await on.tab.do(forgets)
        assert on.world.agent.fleet.instances == {}
        assert on.tab.complaints == []


async def test_axe_finds_nothing_in_warnings_and_questions(tmp_path: Path) -> None:
    async with open_page(tmp_path, bypass_csp=True) as on:
        for uuid in VMS:
            await on.host.report_lost(uuid)

        def faults(page: Page) -> list[str]:
            button = page.get_by_role("button", name=f"Send alarms: {HOSTNAME}")
            expect(button).to_be_visible()
            found = axe_faults(page)
            button.click()
            found += axe_faults(page)
            page.emulate_media(color_scheme="dark")
            return found + axe_faults(page)

        assert await on.tab.do(faults) == []


async def test_an_instance_on_hold_comes_first_with_who_and_why(tmp_path: Path) -> None:
    async with open_page(tmp_path) as seen:
        await seen.world.agent.holds.hold(VMS[2], 3600, "disk swap", "operator Kim")

        def shown(page: Page) -> None:
            warnings = page.locator("#alerts li")
            expect(warnings.first).to_contain_text("1 instance on hold: alarms stay here")
            expect(page.locator("body")).to_contain_text("by operator Kim: disk swap")

        await seen.tab.do(shown)

"""The status page in a real browser, at a real host and a real agent with a real guest."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from playwright.sync_api import CDPSession, Page, expect

from hbtrio.lab.daemon import Daemon
from hbtrio.lab.fake_vim import fake_vim
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.launcher import until_it_serves, write_toml
from hbtrio.lab.scene import Scene, event, open_scene
from support.agent_world import request_bytes
from support.browser import BrowserThread, Tab, axe_faults, open_browser
from support.free_ports import free_port
from support.guest_farm import open_guest_farm
from support.real_processes import SOON_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

HOST: Final = {"uuid": "11111111-2222-3333-4444-555555555555", "hostname": "compute-0"}
TOKEN: Final = "0123456789-operators-only"

#: From an event to the screen, in milliseconds.
SEEN_MS: Final = 1000

#: What the browser itself says of requests that failed while a daemon was away.
AWAY: Final = "Failed to load resource"

ANY_POINTS: Final = re.compile(r"\d")
TWO_POINTS: Final = re.compile(r"\d \d")

#: What the details say once the host is gone.
NO_LINK: Final = "no link"


@attrs.define(eq=False)
class Watched:
    """A host and an agent with their pages, and a browser."""

    scene: Scene
    browser: BrowserThread
    _ports: tuple[int, int]
    _vim_url: str
    _agent: Daemon | None

    @property
    def host_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}/"

    @property
    def agent_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}/"

    async def kill_agent(self) -> None:
        if self._agent is not None:
            await self._agent.kill()

    async def start_agent(self) -> None:
        """Starts it again, with what it has stored."""
        self._agent = await start_agent(self.scene.directory, self._ports[1], self._vim_url)


@asynccontextmanager
async def watched(*, agent: bool = False, **settings: Any) -> AsyncIterator[Watched]:
    """A host that runs no corrective commands, its page, and an agent if it is wanted.

    ``settings`` are further tables of the host's configuration.
    """
    ports = free_port(), free_port()
    async with (
        open_browser() as browser,
        open_scene() as scene,
        fake_vim() as vim,
        trio.open_nursery() as nursery,
    ):
        directory = scene.directory
        state = directory / "state"
        state.mkdir()
        scene.settings |= {
            "hostname": "compute-0",
            "corrective-commands": {},
            "state_dir": str(state),
            "observe": {"listen": f"tcp:127.0.0.1:{ports[0]}"},
            **settings,
        }
        daemon = None
        if agent:
            link = {"connect": f"unix:{directory}/link", "host_uuid": HOST["uuid"]}
            scene.settings["agent"] = link
            vim.hosts[HOST["uuid"]] = {"hostname": HOST["hostname"], "state": "enabled"}
            vim.instances[HOST["uuid"]] = []
            daemon = await start_agent(directory, ports[1], vim.url)
            nursery.start_soon(daemon.watch)
            await ask_as_vim(directory, f"/v1/hosts/{HOST['uuid']}", HOST)
        await scene.start_host()
        watched = Watched(scene, browser, ports, vim.url, daemon)
        try:
            yield watched
        finally:
            with trio.CancelScope(shield=True):
                await watched.kill_agent()


async def ask_as_vim(directory: Path, path: str, body: dict[str, Any]) -> None:
    with trio.fail_after(SOON_S):
        async with await trio.open_unix_socket(f"{directory}/vim") as stream:
            await stream.send_all(request_bytes("POST", path, body))
            answer = b"".join([bytes(data) async for data in stream])
    assert b'"pass"' in answer, answer


async def registered(scene: Scene, name: str, application: str = "") -> LabGuest:
    """An instance that the agent knows, with an application in it if that is wanted."""
    guest = await heartbeating(scene, name, application)
    about = {"uuid": guest.uuid, "hostname": HOST["hostname"], "services": ["heartbeat"]}
    await ask_as_vim(scene.directory, f"/v1/instances/{guest.uuid}", about)
    return guest


async def start_agent(directory: Path, port: int, vim_url: str) -> Daemon:
    token = directory / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    settings = {
        "name": "controller-0",
        "vim": {"listen": f"unix:{directory}/vim", "url": vim_url, "audit_s": 3600},
        "link": {"listen": f"unix:{directory}/link"},
        "operator": {"listen": f"tcp:127.0.0.1:{port}", "token_file": str(token)},
        "store": {"file": str(directory / "agent.db")},
    }
    write_toml(directory / "agent.toml", settings)
    arguments = ["agent", "--config", str(directory / "agent.toml")]
    daemon = await Daemon.start("the agent", arguments, directory / "agent.log")
    await until_it_serves(daemon, directory / "vim")  # of its sockets the last
    return daemon


async def heartbeating(scene: Scene, name: str, application: str = "") -> LabGuest:
    guest = await scene.add_guest(name)
    if application:
        guest.add_application(application)
    guest.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=9)
    await guest.start()
    await scene.events.wait_for(event("heartbeating", guest), within_s=SOON_S)
    return guest


async def see(tab: Tab, guest: LabGuest, label: str, within_ms: float = SOON_S * 1000) -> None:
    def check(page: Page) -> None:
        found = page.locator(f"#cell-{guest.uuid}")
        expect(found).to_have_attribute("aria-label", label, timeout=within_ms)

    await tab.do(check)


# -- at a host ------------------------------------------------------------------------------


async def test_a_loss_is_on_screen_within_a_second_and_read_out() -> None:
    group = {"members": ["*"], "max_unavailable": 1}
    async with watched(groups={"all": group}) as all_of:
        scene = all_of.scene
        web, db = await heartbeating(scene, "web"), await heartbeating(scene, "db")
        tab = await all_of.browser.tab(all_of.host_url)
        for guest in (web, db):
            await see(tab, guest, f"{guest.name}: heartbeating")
        assert db.daemon is not None
        db.daemon.freeze()
        await scene.events.wait_for(event("loss", db), within_s=SOON_S)
        await see(tab, db, "db: lost", SEEN_MS)

        def looks(page: Page) -> None:
            expect(page.locator("#news")).to_have_text("db is lost")
            first = page.locator("#rows tr").first
            expect(first.locator("td").first).to_have_text("lost")
            expect(first.locator("th")).to_have_text("db")
            expect(page.locator("#events li").first).to_contain_text("db")
            words = f"{db.uuid} is lost, at most 1 of 2 may be unavailable"
            expect(page.get_by_text(f"Group all: {words}")).to_be_visible(timeout=SOON_S * 1000)
            page.get_by_role("button", name="1 lost").click()
            expect(page.locator("#rows tr")).to_have_count(1)
            expect(page.locator(f"#cell-{web.uuid}")).to_be_hidden()

        await tab.do(looks)
        since = len(scene.events.since())
        db.daemon.thaw()
        await scene.events.wait_for(event("heartbeating", db), within_s=SOON_S, since=since)
        await see(tab, db, "db: heartbeating", SEEN_MS)
        assert tab.complaints == []


#: Asks for more time, and rejects.
EXTENDS = """\
#!/bin/sh
echo EXTEND=30 >"/dev/fd/$HBTRIO_EXTEND_FD"
sleep 5
echo "orders: 3 orders are open"
exit 1
"""


async def test_the_details_count_a_window_down_and_only_show() -> None:
    windows = {"max_extension_s": {"vote": 20}}
    async with watched(windows=windows) as all_of, trio.open_nursery() as nursery:
        scene = all_of.scene
        db = await heartbeating(scene, "db")
        write_script(db.event_script, EXTENDS)
        tab = await all_of.browser.tab(all_of.host_url)
        await see(tab, db, "db: heartbeating")

        def opens(page: Page) -> None:
            # By the keyboard alone.
            page.get_by_role("listbox", name="compute-0").focus()
            page.keyboard.press("End")
            page.keyboard.press("Enter")
            expect(page.locator("#detail-title")).to_be_focused()
            expect(page.locator("#detail")).to_contain_text(db.uuid)
            expect(page.locator(".sparkline polyline")).to_have_attribute("points", ANY_POINTS)

        await tab.do(opens)
        vote = f"/v1/instances/{db.uuid}/vote"
        nursery.start_soon(scene.post, vote, {"event": "stop"})

        def counts(page: Page) -> None:
            expect(page.locator(".windows meter")).to_be_visible()
            extended = "vote stop, extended by 20 s"
            expect(page.locator("#windows li")).to_contain_text(extended)
            expect(page.locator(".windows .countdown")).to_contain_text(extended)
            expect(page.locator("#windows li a")).to_have_text("db")

        await tab.do(counts)
        await see(tab, db, "db: heartbeating, a window is open")
        await scene.events.wait_for(event("vote", db), within_s=SOON_S)

        def verdict(page: Page) -> None:
            history = page.locator("#detail .events")
            expect(history).to_contain_text("vote stop reject", timeout=SEEN_MS)
            expect(history).to_contain_text("3 orders are open")
            assert page.locator("form:visible").count() == 0
            expect(page.locator("#windows")).to_be_hidden()
            page.keyboard.press("Escape")
            expect(page.locator("#detail")).to_be_hidden()
            recent = page.locator("#events li:visible")
            expect(recent).to_have_count(3)
            page.get_by_label("votes and notices only").check()
            expect(recent).to_have_count(1)
            expect(recent).to_contain_text("vote stop reject")

        await tab.do(verdict)
        assert tab.complaints == []


async def test_a_drain_has_a_line_that_names_who_is_in_its_way() -> None:
    actions = {"live-migrate": ["true"]}
    async with watched(actions=actions) as all_of, trio.open_nursery() as nursery:
        scene = all_of.scene
        db = await heartbeating(scene, "db")
        db.will("revocable", "live_migrate_begin", status=1, says="a primary")
        tab = await all_of.browser.tab(all_of.host_url, bypass_csp=True)
        await see(tab, db, "db: heartbeating")
        nursery.start_soon(scene.post, "/v1/drains", {"action": "live-migrate"})

        def looks(page: Page) -> list[str]:
            summary = page.locator("#drains summary")
            expect(summary).to_contain_text(
                "Drain of compute-0: live-migrate, 0 of 1 ended: 1 rejected"
            )
            summary.click()
            expect(page.locator("#drains li li")).to_have_text(
                "db on compute-0: rejected (a primary)"
            )
            return axe_faults(page)

        assert await tab.do(looks) == []
        assert tab.complaints == []
        nursery.cancel_scope.cancel()


async def test_a_planned_action_is_in_the_list_of_what_is_to_come_and_in_the_detail() -> None:
    actions = {"live-migrate": ["true"]}
    async with watched(actions=actions) as all_of, trio.open_nursery() as nursery:
        scene = all_of.scene
        db = await heartbeating(scene, "db")
        db.will("revocable", "live_migrate_begin", status=1, says="a primary")
        tab = await all_of.browser.tab(all_of.host_url)
        await see(tab, db, "db: heartbeating")
        body = {"action": "live-migrate", "retry_for_s": 600}
        nursery.start_soon(scene.post, f"/v1/instances/{db.uuid}/act", body)

        def looks(page: Page) -> None:
            line = page.locator("#drains li")
            expect(line).to_contain_text("db: live-migrate planned by operator")
            expect(line).to_contain_text("given up at")
            expect(line).to_contain_text("rejected: a primary")

        await tab.do(looks)
        assert tab.complaints == []
        nursery.cancel_scope.cancel()


async def test_the_page_survives_a_restart_of_its_host() -> None:
    async with watched() as all_of:
        scene = all_of.scene
        db = await heartbeating(scene, "db")
        tab = await all_of.browser.tab(all_of.host_url)
        await see(tab, db, "db: heartbeating")
        assert scene.host is not None
        await scene.host.kill()
        lost = "reconnecting"
        await tab.do(lambda page: expect(page.locator("#connection")).to_have_text(lost))
        web = await scene.add_guest("web")
        await web.start()
        await scene.start_host()
        await tab.do(lambda page: expect(page.locator("#connection")).to_have_text("live"))
        for guest in (db, web):
            await see(tab, guest, f"{guest.name}: heartbeating")
        assert all(AWAY in line for line in tab.complaints), tab.complaints


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_axe_finds_nothing(width: int, scheme: str) -> None:
    async with watched(agent=True) as all_of:
        db = await registered(all_of.scene, "db", "orders")
        await registered(all_of.scene, "web")
        for url in (all_of.host_url, all_of.agent_url):
            options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            tab = await all_of.browser.tab(url, bypass_csp=True, **options)
            await see(tab, db, "db: heartbeating")
            for hash_ in ("", db.uuid):

                def faults(page: Page, hash_: str = hash_) -> list[str]:
                    page.evaluate("hash => { location.hash = hash; }", hash_)
                    expect(page.locator("#detail")).to_be_visible(visible=bool(hash_))
                    application = page.get_by_text("heartbeat every 1 s")
                    expect(application).to_be_visible(visible=bool(hash_))
                    return axe_faults(page)

                assert await tab.do(faults) == []


async def test_2000_instances_are_all_shown_without_a_complaint() -> None:
    """What that costs is printed, for docs/page.md: a busy machine proves nothing."""
    count = 2000
    async with watched() as all_of, open_guest_farm(all_of.scene.channel_dir) as farm:
        await farm.listen(count)
        status = all_of.scene.status

        async def all_beat() -> bool:
            found: int = (await status())["host"]["heartbeating"]
            return found == count

        with trio.fail_after(60):
            while not await all_beat():  # noqa: ASYNC110 - another process sets no event
                await trio.sleep(0.2)
        tab = await all_of.browser.tab()
        text = f"{count} of {count} shown"

        def paints(page: Page) -> dict[str, float]:
            page.goto(all_of.host_url, wait_until="commit")
            found: dict[str, float] = page.evaluate(
                """async text => {
                    const drawn = () => document.getElementById("shown")?.textContent === text;
                    while (!drawn()) await new Promise(requestAnimationFrame);
                    await new Promise(requestAnimationFrame);
                    const all = performance.now();
                    const [first] = performance.getEntriesByName("first-contentful-paint");
                    return { first: first.startTime, all };
                }""",
                text,
            )
            return found

        times = await tab.do(paints)
        print(", ".join(f"{name} painted in {ms:.0f} ms" for name, ms in times.items()))
        assert 0 < times["first"] <= times["all"]

        def measured(page: Page) -> CDPSession:
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            return session

        def used_s(_: Page) -> float:
            """How long tasks of the page's thread have run, in seconds."""
            metrics = session.send("Performance.getMetrics")["metrics"]
            found: float = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
            return found

        session = await tab.do(measured)
        await trio.sleep(3)  # what follows the first paint
        before, began = await tab.do(used_s), trio.current_time()
        await trio.sleep(12)  # a status of all is asked for every ten seconds
        assert await tab.do(used_s) > before
        share = (await tab.do(used_s) - before) / (trio.current_time() - began)
        print(f"{share:.2%} of a processor")
        assert tab.complaints == []


# -- at an agent ----------------------------------------------------------------------------


async def test_at_an_agent_an_operator_votes_with_the_token() -> None:
    async with watched(agent=True) as all_of:
        scene = all_of.scene
        db = await registered(scene, "db")
        db.will("revocable", "stop", status=1, says="3 orders are open")
        tab = await all_of.browser.tab(f"{all_of.agent_url}#{db.uuid}")
        await see(tab, db, "db: heartbeating")

        def without(page: Page) -> None:
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_role("log")).to_contain_text("the token is missing or wrong")
            expect(page.get_by_label("Operator token").last).to_be_focused()

        def votes(page: Page) -> list[str]:
            urls: list[str] = []
            page.on("request", lambda request: urls.append(request.url))
            page.get_by_label("Operator token").last.fill(TOKEN)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_role("log")).to_contain_text("vote stop reject")
            expect(page.get_by_role("log")).to_contain_text("3 orders are open")
            expect(page.locator("#detail .events")).to_contain_text("vote stop reject")
            assert page.context.cookies() == []
            return [*urls, page.url]

        await tab.do(without)
        assert not any(TOKEN in url for url in await tab.do(votes))
        assert [line for line in tab.complaints if "401" not in line] == []


async def test_at_an_agent_the_details_have_what_the_host_sees() -> None:
    async with watched(agent=True) as all_of:
        scene = all_of.scene
        db = await registered(scene, "db", "orders")
        orders = db.applications["orders"]
        orders.will("revocable", "stop", status=1, says="3 orders are open", after_s=3)
        tab = await all_of.browser.tab(f"{all_of.agent_url}#{db.uuid}")
        await see(tab, db, "db: heartbeating")

        def votes(page: Page) -> None:
            line = page.locator(".sparkline polyline")
            expect(line).to_have_attribute("points", TWO_POINTS)
            expect(page.locator("#detail")).to_contain_text("beats, 0 missed")
            application = page.locator(".voters li").filter(has_text="orders")
            expect(application).to_contain_text("healthy since")
            expect(application).to_contain_text("heartbeat every 1 s")
            page.get_by_label("Operator token").last.fill(TOKEN)
            page.get_by_role("button", name="Send").click()
            expect(page.locator(".windows meter")).to_be_visible()
            expect(page.get_by_role("log")).to_contain_text("orders: 3 orders are open")
            expect(application).to_contain_text("reject: 3 orders are open")
            expect(page.locator(".windows meter")).to_be_hidden()

        await tab.do(votes)
        assert scene.host is not None
        await scene.host.kill()
        await tab.do(lambda page: expect(page.locator("#detail")).to_contain_text(NO_LINK))
        assert tab.complaints == []


async def test_the_page_survives_a_restart_of_its_agent() -> None:
    async with watched(agent=True) as all_of:
        scene = all_of.scene
        db, web = await registered(scene, "db"), await registered(scene, "web")
        tab = await all_of.browser.tab(f"{all_of.agent_url}#{db.uuid}")
        for guest in (db, web):
            await see(tab, guest, f"{guest.name}: heartbeating")
        await all_of.kill_agent()
        lost = "reconnecting"
        await tab.do(lambda page: expect(page.locator("#connection")).to_have_text(lost))
        # What the page shows is what was so; it says that, too.
        await see(tab, db, "db: heartbeating")
        assert db.daemon is not None
        db.daemon.freeze()
        # The VIM has not turned on the reports about it.
        await scene.events.wait_for(event("stopped", db), within_s=SOON_S)
        await all_of.start_agent()
        await tab.do(lambda page: expect(page.locator("#connection")).to_have_text("live"))
        await see(tab, db, "db: lost")
        await see(tab, web, "web: heartbeating")

        def looks(page: Page) -> None:
            expect(page.locator("#detail .now")).to_contain_text("no answer for")
            expect(page.locator("#detail .events")).to_contain_text("stopped")
            expect(page.locator("#title")).to_have_text("controller-0")

        await tab.do(looks)
        db.daemon.thaw()
        await see(tab, db, "db: heartbeating")
        assert all(AWAY in line for line in tab.complaints), tab.complaints


async def test_an_action_is_asked_for_twice() -> None:
    async with watched(agent=True) as all_of:
        scene = all_of.scene
        db = await registered(scene, "db")
        tab = await all_of.browser.tab(f"{all_of.agent_url}#{db.uuid}")
        await see(tab, db, "db: heartbeating")

        def acts(page: Page) -> None:
            page.get_by_label("What to do").select_option("act")
            page.get_by_label("Event or action").select_option("stop")
            page.get_by_label("Operator token").last.fill(TOKEN)
            page.get_by_role("button", name="Send").click()
            expect(page.get_by_text("Really stop db?")).to_be_visible()
            assert page.get_by_role("log").inner_text() == ""
            page.get_by_role("button", name="Yes, do it").click()
            expect(page.get_by_role("log")).to_contain_text("end done")

        await tab.do(acts)


async def test_a_page_of_another_origin_can_do_nothing() -> None:
    async with watched(agent=True) as all_of:
        db = await registered(all_of.scene, "db")
        # The host's page is of another origin than the agent's: another port.
        tab = await all_of.browser.tab(all_of.host_url, bypass_csp=True)

        def tries(page: Page) -> list[str]:
            found: list[str] = page.evaluate(
                """async ([agent, uuid, token]) => {
                    const vote = `${agent}v1/instances/${uuid}/vote`;
                    const body = JSON.stringify({ event: "stop" });
                    const all = [
                        () => fetch(`${agent}v1/status`),
                        () => fetch(vote, { method: "POST", body }),
                        () => fetch(vote, { method: "POST", body,
                                            headers: { authorization: `Bearer ${token}` } }),
                        () => fetch(`${agent}v1/hosts/compute-0/forget`, { method: "POST" }),
                    ];
                    const read = [];
                    for (const one of all) {
                        try { read.push(await (await one()).text()); } catch { read.push(""); }
                    }
                    return read;
                }""",
                [all_of.agent_url, db.uuid, TOKEN],
            )
            return found

        assert await tab.do(tries) == ["", "", "", ""]
        assert all_of.scene.events.since() == [
            line for line in all_of.scene.events.since() if line["kind"] != "vote"
        ]

        def framed(page: Page) -> list[str]:
            page.evaluate(
                """agent => {
                    const frame = document.createElement("iframe");
                    frame.src = agent;
                    document.body.append(frame);
                    return new Promise(resume => frame.addEventListener("load", resume));
                }""",
                all_of.agent_url,
            )
            return [frame.url for frame in page.frames[1:]]

        assert not any(url.startswith("http") for url in await tab.do(framed))

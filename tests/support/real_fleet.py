"""A controller and a host as real processes, the VIM's part played by the test.

::

    fake VIM <--HTTP-- agent <--LinkProxy-- host --bridge-- guests

What the VIM asks is a :class:`Question`; what became of it is read at the fake VIM and, while the
agent runs, out of its store.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import attrs
import trio

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import Daemon, log_tail
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.launcher import until_it_serves, write_toml
from hbtrio.lab.scene import Scene, open_scene
from hbtrio.lab.vim_server import Mood
from support.agent_world import request_bytes
from support.leaks import open_files
from support.link_proxy import LinkProxy
from support.real_processes import SOON_S, until

HOSTNAME = "compute-0"
HOST_UUID = "11111111-2222-3333-4444-555555555555"
PASS = {"status": "pass"}

#: Rejects and fails, with a reason of its own; not before it may.
_HANDLER = """\
#!/bin/sh
cd {directory} || exit 1
echo "handler {name} $1 $2 $$" 1<>{fifo}
while [ -e hold ]; do sleep 0.05; done
[ -e think ] && sleep "$(cat think)"
echo "{name} says no"
exit 1
"""

_NEWS = "SELECT 1 FROM outbox WHERE kind <> 'action' AND done_at IS NULL"

_ROWS = """\
SELECT rounds.replied, rounds.result, rounds.reason,
       coalesce(outbox.state, ''), coalesce(outbox.fault, ''), coalesce(outbox.attempts, 0),
       coalesce(outbox.body, '')
FROM rounds LEFT JOIN outbox ON outbox.command_id = rounds.command_id
WHERE rounds.uuid = ? ORDER BY rounds.rowid
"""


@attrs.frozen
class Row:
    """A round in the agent's store, and its verdict in the outbox."""

    replied: bool = False
    result: str = ""
    reason: str = ""
    #: "" without a verdict.
    state: str = ""
    fault: str = ""
    attempts: int = 0
    #: The response and its reason, or None.
    verdict: tuple[str, str] | None = None


@attrs.define(eq=False)
class Question:
    """A vote or notice that the VIM asks for.

    Args:
        vm: who is asked.
        verb: vote or notify.
        since: how many verdicts of the instance the VIM had got before.
        row: which of the instance's rounds it is, if it becomes one.
        seconds: the timer that the VIM is told; None as long as there is no reply.
        refusal: why nobody could be asked.
        over: set when there is a reply, or when none can come.
    """

    vm: LabGuest
    verb: str
    since: int
    row: int = 0
    seconds: int | None = None
    refusal: str = ""
    over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def event(self) -> str:
        """What it is about; no such notice has the host expect the VM's silence."""
        return "suspend" if self.verb == "vote" else "resume"

    @property
    def own(self) -> tuple[str, str]:
        """The verdict that the guest's own answer makes."""
        response = "reject" if self.verb == "vote" else "proceed"
        return response, f"{self.vm.name} says no"

    @property
    def own_result(self) -> str:
        """How that is reported: a notice can't be rejected."""
        return "reject" if self.verb == "vote" else "error"

    def verdict(self, reason: str) -> tuple[str, str]:
        """The verdict where the guest has no say, for this reason."""
        return ("allow" if self.verb == "vote" else "proceed"), reason


class Fleet:
    """See :func:`open_fleet`."""

    def __init__(
        self, scene: Scene, vim: FakeVim, nursery: trio.Nursery, audit_s: int = 3600
    ) -> None:
        directory = scene.directory
        self.scene = scene
        self.vim = vim
        self.link = LinkProxy(directory / "link", directory / "agent.link")
        self.vms: list[LabGuest] = []
        #: The running agent, or None.
        self.agent: Daemon | None = None
        self.agent_log = directory / "agent.log"
        self._db = directory / "agent.db"
        self._nursery = nursery
        scene.settings |= {
            "hostname": HOSTNAME,
            "corrective-commands": {},
            "agent": {"connect": f"unix:{self.link.path}", "host_uuid": HOST_UUID},
        }
        self._config = directory / "agent.toml"
        self._operator = directory / "agent.sock"
        self._api = directory / "vim.sock"
        write_toml(
            self._config,
            {
                "name": "controller-0",
                "vim": {"listen": f"unix:{self._api}", "url": vim.url, "audit_s": audit_s},
                "link": {"listen": f"unix:{directory}/agent.link"},
                "operator": {"listen": f"unix:{self._operator}"},
                "store": {"file": str(self._db)},
            },
        )
        vim.hosts[HOST_UUID] = {"hostname": HOSTNAME, "state": "enabled"}
        vim.instances[HOST_UUID] = []

    # -- processes --------------------------------------------------------------------------

    async def start_agent(self) -> None:
        """Starts the agent, after :meth:`kill_agent` again; returns when it serves."""
        agent = await self.launch_agent()
        await until_it_serves(agent, self._api)  # of its sockets the last
        self.link.up()

    async def launch_agent(self) -> Daemon:
        """Starts the agent's process; it may be killed before it serves."""
        arguments = ["agent", "--config", str(self._config)]
        self.agent = await Daemon.start("the agent", arguments, self.agent_log)
        self._nursery.start_soon(self.agent.watch)
        return self.agent

    async def kill_agent(self) -> None:
        """``kill -9``."""
        assert self.agent is not None
        await self.agent.kill()
        await self.link.down()

    async def kill_host(self) -> None:
        """``kill -9``."""
        assert self.scene.host is not None
        await self.scene.host.kill()
        await self.link.ended()

    async def boot(self, name: str, window_s: int) -> None:
        """Starts a VM."""
        vm = await self.scene.add_guest(name)
        fifo = self.scene.directory / "script_lines"
        write_script(vm.event_script, _HANDLER.format(directory=vm.directory, name=name, fifo=fifo))
        # A guest adds a second to what it is told.
        windows = {"VOTE": window_s - 1, "RESUME_NOTICE": window_s - 1}
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, **windows)
        await vm.start()
        self.vms.append(vm)

    async def introduce(self) -> None:
        """The VIM tells of the host and its VMs, and wants to hear of their losses."""
        about = {"uuid": HOST_UUID, "hostname": HOSTNAME}
        assert await self.request("POST", f"/v1/hosts/{HOST_UUID}", about) == PASS
        assert await self.request("PUT", f"/v1/hosts/{HOST_UUID}/enable", about) == PASS
        for vm in self.vms:
            path, about = f"/v1/instances/{vm.uuid}", {"uuid": vm.uuid, "hostname": HOSTNAME}
            assert await self.request("POST", path, about | {"services": ["heartbeat"]}) == PASS
            service = {"service": "heartbeat", "state": "enabled"}
            answer = await self.request("PATCH", path, about | {"services": [service]})
            assert answer["services"][0]["state"] == "enabled"

    async def ready(self) -> None:
        """Returns once the agent knows, over a link that stands, that all VMs are heartbeating."""
        await self.link.to_agent.until_passed("snapshot_end")
        for vm in self.vms:
            await self.link.to_agent.until_passed("instance", uuid=vm.uuid, heartbeating=True)
        await self.link.received()
        # The VIM shows that it is up, and hears the news, before its mood may change again.
        assert (await self.request("GET", f"/v1/hosts/{HOST_UUID}"))["state"] == "enabled"
        await until(lambda: self.read(_NEWS) == [])

    def open_files(self) -> dict[int, Counter[str]]:
        """What each process that runs has open, by its pid."""
        daemons = [self.agent, self.scene.host, *(vm.daemon for vm in self.vms)]
        return {
            daemon.pid: open_files(daemon.pid)
            for daemon in daemons
            if daemon is not None and daemon.status is None
        }

    async def nothing_left(self, before: dict[int, Counter[str]]) -> None:
        """Returns once the processes that run since then have no more open than they had."""
        # The first script or command starts the reaper, which watches a pipe.
        allowed = {pid: files + Counter(["pipe"]) for pid, files in before.items()}
        more: dict[int, Counter[str]] = {}
        with trio.move_on_after(SOON_S):
            while more := {  # noqa: ASYNC110 - other processes set no event
                pid: files - allowed[pid]
                for pid, files in self.open_files().items()
                if pid in allowed and files - allowed[pid]
            }:
                await trio.sleep(0.05)
        assert more == {}

    # -- what the VIM asks ------------------------------------------------------------------

    async def request(self, method: str, path: str, body: Any = b"") -> Any:
        """One request of the VIM: the answer's body, None if there was none."""
        try:
            stream = await trio.open_unix_socket(str(self._api))
        except OSError:
            return None
        answer = b""
        async with stream:
            try:
                await stream.send_all(request_bytes(method, path, body))
                async for data in stream:
                    answer += data
            except trio.BrokenResourceError:
                pass  # what came before counts
        _, _, text = answer.partition(b"\r\n\r\n")
        return json.loads(text) if text else None

    def begin(self, vm: LabGuest, verb: str) -> Question:
        """Begins to ask."""
        question = Question(vm, verb, len(self.verdicts(vm)), len(self.rows(vm)))
        self._nursery.start_soon(self.ask, question)
        return question

    async def ask(self, question: Question) -> None:
        """Asks, and notes the reply."""
        about = {"uuid": question.vm.uuid, "hostname": HOSTNAME, "action": question.event}
        path = f"/v1/instances/{question.vm.uuid}/{question.verb}"
        answer = await self.request("POST", path, about)
        if answer is not None and answer.get("status") == "fail":
            question.refusal = answer["reason"]
        elif answer is not None:
            question.seconds = int(answer.pop("timeout"))
            assert answer == about
        question.over.set()

    # -- what became of it ------------------------------------------------------------------

    def verdicts(self, vm: LabGuest, since: int = 0) -> list[tuple[str, str]]:
        """The verdicts that the VIM has got of an instance: each response and its reason."""
        return [_verdict(body) for body in self.vim.patches("action") if body["uuid"] == vm.uuid][
            since:
        ]

    def rows(self, vm: LabGuest) -> list[Row]:
        """The instance's rounds as the agent knows them, the oldest first."""
        return [
            Row(bool(replied), *rest, verdict=_verdict(json.loads(body)) if body else None)
            for replied, *rest, body in self.read(_ROWS, vm.uuid)
        ]

    def read(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Reads the agent's store; only while the agent runs, who has made all of its files."""
        with closing(sqlite3.connect(f"file:{self._db}?mode=ro", uri=True)) as db:
            return db.execute(text, values).fetchall()

    def operator(self) -> CtlClient:
        """A client of the agent's operator API, for use in ``async with``."""
        return CtlClient(Address.parse(f"unix:{self._operator}"))

    async def crashes(self) -> int:
        """Programming errors of the agent that runs."""
        async with self.operator() as client:
            status = await client.status(dict[str, Any])
        crashes: int = status["agent"]["crashes"]
        return crashes

    def logs(self) -> str:
        """The ends of all daemons' logs."""
        return "\n".join([log_tail("the agent", self.agent_log), self.scene.logs()])

    def calm(self) -> None:
        """The VIM and the link do again as they should."""
        self.vim.mood = Mood.USUAL
        self.vim.come_up()
        self.link.to_agent.release()
        self.link.to_host.release()


def _verdict(body: dict[str, Any]) -> tuple[str, str]:
    data = body["event-data"]
    return data["guest-response"], data["reason"]


@asynccontextmanager
async def open_fleet(
    *names: str, window_s: int, audit_s: int = 3600, actions: dict[str, list[str]] | None = None
) -> AsyncIterator[Fleet]:
    """An agent and a host, ready, with VMs; at the end all processes are ended.

    Those that have run from the beginning to the end must not have more files open then.

    Args:
        names: what the VMs are called.
        window_s: how long their votes and notices may take.
        audit_s: how often the agent audits the VIM.
        actions: the host's commands.
    """
    async with open_scene() as scene, fake_vim() as vim, trio.open_nursery() as nursery:
        fleet = Fleet(scene, vim, nursery, audit_s)
        if actions is not None:
            scene.settings["actions"] = actions
        try:
            await nursery.start(fleet.link.run)
            async with trio.open_nursery() as starters:
                starters.start_soon(fleet.start_agent)
                starters.start_soon(scene.start_host)
                for name in names:
                    await fleet.boot(name, window_s)
            await fleet.introduce()
            await fleet.ready()
            before = fleet.open_files()
            yield fleet
            await fleet.nothing_left(before)
        finally:
            with trio.CancelScope(shield=True):
                if fleet.agent is not None:
                    await fleet.agent.stop()
        nursery.cancel_scope.cancel()

"""The lab's VIM: its timers, its inventory, its audits and repairs; on the fake clock."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.errors import UserError
from hbtrio.lab.fake_vim import FakeVim
from hbtrio.lab.received import Received
from hbtrio.lab.vim import ACCEPT_S, AUDIT_S, LabVim, service_words
from hbtrio.lab.vim_request import VimReply
from hbtrio.lab.vim_round import Verdict

pytestmark = pytest.mark.usefixtures("autojump_clock")

VM, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@attrs.define
class Agent:
    """An agent that does as it is told; and what else belongs to a VIM."""

    timeout: str = "8"
    #: Takes effect in place of what it would do.
    fault: UserError | None = None
    status: int = 200
    unknown: set[str] = attrs.field(factory=set)
    #: What the VIM asked: method, path, body.
    asked: list[tuple[str, str, Any]] = attrs.field(factory=list)
    said: list[str] = attrs.field(factory=list)
    repaired: list[tuple[str, str]] = attrs.field(factory=list)
    #: Called between a reply and the end of its connection.
    closing: Callable[[], None] = lambda: None

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> VimReply:
        await trio.lowlevel.checkpoint()
        self.asked.append((method, path, body))
        if self.fault is not None:
            raise self.fault
        status = 404 if method == "GET" and path[-36:] in self.unknown else self.status
        members = {"timeout": self.timeout} if status == 200 else {"reason": "no such thing"}
        reply = VimReply(status, members)
        if on_reply is not None:
            on_reply(reply)
            self.closing()
        return reply

    async def repair(self, uuid: str, action: str) -> None:
        await trio.lowlevel.checkpoint()
        self.repaired.append((uuid, action))


@asynccontextmanager
async def a_vim(agent: Agent) -> AsyncIterator[LabVim]:
    """A VIM with two hosts and an instance on the first, which it has told of."""
    vim = LabVim(FakeVim(), agent.call, agent.said.append, agent.repair)
    async with trio.open_nursery() as nursery:
        await nursery.start(vim.run)
        vim.add_host("h-0", "compute-0")
        vim.add_host("h-1", "compute-1")
        await vim.add_instance(VM, "web", "compute-0")
        agent.asked.clear()
        yield vim
        nursery.cancel_scope.cancel()


def patch(kind: str, data: dict[str, Any], uuid: str = VM) -> Received:
    body = {"uuid": uuid, "hostname": "compute-0", "event-type": kind, "event-data": data}
    return Received(0, b"", "PATCH", "/", {}, json.dumps(body).encode())


def verdict(event: str, response: str, reason: str = "", uuid: str = VM) -> Received:
    data = {"action": event, "guest-response": response, "reason": reason}
    return patch("action", data, uuid)


def services(state: str) -> list[dict[str, str]]:
    return [{"service": "heartbeat", "state": state}]


# -- votes and notices ----------------------------------------------------------------------


async def test_a_verdict_ends_the_wait_at_once() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        asked = await vim.ask(VM, "stop", vote=True)
        assert vim.waiting == [asked]
        vim.hear(verdict("stop", "reject", "busy"))
        assert await vim.verdict(asked) == Verdict("reject", "busy")
        assert trio.current_time() == pytest.approx(asked.deadline - 8)
        assert (vim.asked, vim.answered, vim.unasked, vim.waiting) == (1, 1, 0, [])
        body = {"uuid": VM, "hostname": "compute-0", "action": "stop"}
        assert agent.asked == [("POST", f"/v1/instances/{VM}/vote", body)]
        assert agent.said == ["asks web: vote stop", "receives web: stop: reject: busy"]


@pytest.mark.parametrize(
    ("vote", "timeout", "bound_s"),
    [(True, "8", 8), (False, "8", 8), (True, "600", ACCEPT_S), (False, "600", 600)],
)
async def test_without_a_verdict_it_goes_on_when_its_timer_ends(
    vote: bool, timeout: str, bound_s: float
) -> None:
    agent = Agent(timeout=timeout)
    async with a_vim(agent) as vim:
        began_at = trio.current_time()
        wait = vim.vote if vote else vim.notify
        assert await wait(VM, "reboot") == Verdict("", "the timer has ended")
        assert trio.current_time() - began_at == pytest.approx(bound_s)
        assert (vim.asked, vim.answered, vim.waiting) == (1, 0, [])
        assert "continues without the verdict of web on reboot" in agent.said
        # What comes now would complete its next step.
        vim.hear(verdict("reboot", "allow"))
        assert (vim.answered, vim.unasked) == (0, 1)
        assert agent.said[-1] == "receives, unrequested: web: reboot: allow"


async def test_a_timeout_of_0_is_no_wait() -> None:
    agent = Agent(timeout="0")
    async with a_vim(agent) as vim:
        began_at = trio.current_time()
        assert await vim.vote(VM, "stop") == Verdict("", "the instance does not take part")
        assert (trio.current_time(), vim.asked, vim.waiting) == (began_at, 0, [])


async def test_a_verdict_may_come_before_the_agent_has_closed() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        agent.closing = lambda: vim.hear(verdict("stop", "allow"))
        assert await vim.vote(VM, "stop") == Verdict("allow")
        assert (vim.asked, vim.answered, vim.unasked) == (1, 1, 0)


@pytest.mark.parametrize(("event", "uuid"), [("stop", OTHER), ("reboot", VM)])
async def test_a_verdict_on_something_else_ends_nothing(event: str, uuid: str) -> None:
    async with a_vim(Agent()) as vim:
        asked = await vim.ask(VM, "stop", vote=True)
        vim.hear(verdict(event, "allow", uuid=uuid))
        assert (vim.unasked, vim.waiting) == (1, [asked])
        vim.hear(verdict("stop", "allow"))
        vim.hear(verdict("stop", "allow"))
        assert (vim.answered, vim.unasked, vim.waiting) == (1, 2, [])


async def test_what_the_agent_refuses_is_told() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        agent.status = 503
        with pytest.raises(UserError) as caught:
            await vim.vote(VM, "stop")
        assert str(caught.value) == (f"the agent: POST /v1/instances/{VM}/vote: 503: no such thing")
        assert (vim.asked, vim.waiting) == (0, [])


# -- inventory ------------------------------------------------------------------------------


async def test_an_instance_is_told_of_and_audited_where_it_is() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        await vim.add_instance(OTHER, "db", "compute-0")
        await vim.enable(VM, "compute-1")
        path = f"/v1/instances/{OTHER}"
        told = {"uuid": OTHER, "hostname": "compute-0"}
        assert agent.asked == [
            ("POST", path, told | {"services": ["heartbeat"]}),
            ("PATCH", path, told | {"services": services("enabled")}),
            (
                "PATCH",
                f"/v1/instances/{VM}",
                {"uuid": VM, "hostname": "compute-1", "services": services("enabled")},
            ),
        ]
        assert vim.server.hosts == {
            "h-0": {"hostname": "compute-0", "state": "enabled"},
            "h-1": {"hostname": "compute-1", "state": "enabled"},
        }
        assert vim.server.instances == {
            "h-0": [{"uuid": OTHER, "hostname": "compute-0", "services": services("enabled")}],
            "h-1": [{"uuid": VM, "hostname": "compute-1", "services": services("enabled")}],
        }


async def test_one_that_is_acted_upon_is_disabled_before_and_enabled_after() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        await vim.disable(VM)
        assert vim.server.instances["h-0"][0]["services"] == services("disabled")
        await vim.enable(VM)
        assert vim.server.instances["h-0"][0]["services"] == services("enabled")
        told = {"uuid": VM, "hostname": "compute-0"}
        path = f"/v1/instances/{VM}"
        assert agent.asked == [
            ("PATCH", path, told | {"services": services("disabled")}),
            ("PATCH", path, told | {"services": services("enabled")}),
        ]
        assert agent.said == ["disables web", "enables web on compute-0"]


async def test_every_instance_is_asked_about_and_told_of_again_if_forgotten() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        await vim.add_instance(OTHER, "db", "compute-1")
        agent.asked.clear()
        agent.unknown.add(OTHER)
        await trio.sleep(AUDIT_S + 1)
        assert [(method, path[-36:]) for method, path, _ in agent.asked] == [
            ("GET", VM),
            ("GET", OTHER),
            ("POST", OTHER),
            ("PATCH", OTHER),
        ]
        agent.fault = UserError("the agent: connection refused")
        await trio.sleep(AUDIT_S)
        assert agent.said[-1] == "can't audit: the agent: connection refused"


async def test_while_it_is_down_it_asks_for_nothing_and_then_at_once() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        vim.go_down()
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", vim.server.port)
        await trio.sleep(2.5 * AUDIT_S)
        assert agent.asked == []
        await vim.come_up()
        assert agent.asked == [("GET", f"/v1/instances/{VM}", None)]
        assert agent.said == ["goes down", "is up again", "has audited its instances"]


# -- what it hears --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "repairs", "steps"),
    [
        ("reboot", 1, ["disables web", "reboots web", "enables web on compute-0"]),
        ("stop", 1, ["disables web", "stops web"]),
        ("log", 0, []),
    ],
)
async def test_an_alarm_is_repaired_as_the_guest_wants(
    action: str, repairs: int, steps: list[str]
) -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        alarm = {"service": "heartbeat", "state": "failed", "repair-action": action}
        vim.hear(patch("alarm", {"services": [alarm]}))
        await wait_all_tasks_blocked()
        assert agent.repaired == [(VM, action)] * repairs
        alarmed = f"receives web on compute-0: failed, repair-action {action}"
        assert agent.said == [alarmed, *steps]
        assert [body["event-type"] for body in vim.received.since()] == ["alarm"]


async def test_a_repair_is_left_out_while_the_agent_can_t_be_reached() -> None:
    agent = Agent()
    async with a_vim(agent) as vim:
        agent.fault = UserError("the agent: connection refused")
        alarm = {"service": "heartbeat", "state": "failed", "repair-action": "reboot"}
        vim.hear(patch("alarm", {"services": [alarm]}))
        await wait_all_tasks_blocked()
        assert agent.repaired == []
        assert agent.said[-1] == "can't repair web: the agent: connection refused"


async def test_what_is_no_patch_is_not_told() -> None:
    async with a_vim(Agent()) as vim:
        vim.hear(Received(0, b"", "GET", "/", {}, b'{"uuid": "h-0"}'))
        vim.hear(Received(0, b"", "PATCH", "/", {}, b"["))
        assert vim.received.since() == []


def test_services_in_words() -> None:
    service = {"state": "enabled", "status": "enabled", "restart-timeout": "21"}
    assert service_words(service) == "heartbeating, restart-timeout 21 s"
    assert service_words(service | {"status": "disabled"}) == "not heartbeating"

"""Who may look at a host and who may act on it, through its control socket."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hbtrio.api.control import RECORDED, ControlAccess, ControlAdmission, Right
from hbtrio.config.host import ControlSettings
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import PEER_EXTENSION
from hbtrio.net.peer_credentials import PeerCredentials, peer_credentials
from support.api_replies import refusal
from support.control_socket import served
from support.host_world import host_world

OWN, LOOK, ACT, OTHER = 100, 201, 202, 203


def peer(uid: int = 1000, gid: int = OTHER, *groups: int) -> PeerCredentials:
    return PeerCredentials(1, uid, gid, groups)


def access(*, look: bool = False, act: bool = False) -> ControlAccess:
    return ControlAccess(
        own_uid=OWN,
        look=frozenset({LOOK} if look else ()),
        act=frozenset({ACT} if act else ()),
    )


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("uid", [0, OWN])
def test_root_and_the_daemons_user_always_act(uid: int, look: bool, act: bool) -> None:
    assert access(look=look, act=act).right_of(peer(uid)) is Right.ACT


@pytest.mark.parametrize(
    ("look", "act", "of_act", "of_look", "others"),
    [
        (False, False, Right.ACT, Right.ACT, Right.ACT),
        (False, True, Right.ACT, Right.LOOK, Right.LOOK),
        (True, True, Right.ACT, Right.LOOK, Right.NOTHING),
        (True, False, Right.NOTHING, Right.LOOK, Right.NOTHING),
    ],
)
def test_what_groups_may(
    look: bool, act: bool, of_act: Right, of_look: Right, others: Right
) -> None:
    """As docs/security.md has it."""
    checked = access(look=look, act=act)
    for group, right in ((ACT, of_act), (LOOK, of_look), (OTHER, others)):
        assert checked.right_of(peer(1000, group)) is right
        assert checked.right_of(peer(1000, OTHER, 7, group, 8)) is right


def test_acting_includes_looking() -> None:
    assert access(look=True, act=True).right_of(peer(1000, LOOK, ACT)) is Right.ACT


def test_groups_are_looked_up() -> None:
    found = ControlAccess.of(ControlSettings(look=("daemon",), act=("root", "bin")), "host.toml")
    assert (found.own_uid, found.look) == (os.geteuid(), frozenset({1}))
    assert found.act == {0, 2}
    with pytest.raises(UserError) as refused:
        ControlAccess.of(ControlSettings(act=("root", "no-such-group")), "host.toml")
    assert str(refused.value) == (
        "host.toml: control.act: no group named no-such-group on this machine"
    )
    assert refused.value.status is ExitStatus.USAGE


async def test_the_kernel_names_supplementary_groups() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        found = peer_credentials(trio.SocketStream(ours))
    assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
    assert set(found.groups) == set(os.getgroups())


@pytest.mark.parametrize("count", [0, 1, 256, 257])
async def test_as_many_groups_as_python_reads(count: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can set its groups")
    before = os.getgroups()
    os.setgroups(range(5000, 5000 + count))
    try:
        first, second = socket.socketpair()
    finally:
        os.setgroups(before)
    with trio.socket.from_stdlib_socket(first) as ours, second:
        found = peer_credentials(trio.SocketStream(ours))
    # With more, only the primary group counts.
    assert len(found.groups) == (count if count <= 256 else 0)


async def test_so_many_refusals_are_recorded_in_a_minute(autojump_clock: MockClock) -> None:
    """And only of what would have changed something."""
    recorded: list[tuple[str, ...]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody is admitted")

    async def send(message: Any) -> None:
        pass

    def refused(*refusal: str) -> None:
        recorded.append(refusal)

    admission = ControlAdmission(app, access(look=True, act=True), refused)

    async def ask(method: str, path: str) -> None:
        extensions = {PEER_EXTENSION: peer(1000, OTHER)}
        scope = {"type": "http", "method": method, "path": path, "extensions": extensions}
        await admission(scope, send, send)

    for path in (
        "/v1/instances/x/act",
        "/v1/brake/release",
        "/v1/instances/\x1b[2J/act",
        "/v1/x\n",
    ):
        await ask("GET", path)
        await ask("POST", path)
    who = "operator uid 1000"
    assert recorded == [("x", "act", who, MAY_NOTHING), ("", "release", who, MAY_NOTHING)]
    for _ in range(2 * RECORDED):
        await ask("POST", "/v1/instances/x/act")
    assert len(recorded) == RECORDED
    await trio.sleep(60)
    await ask("POST", "/v1/instances/x/act")
    assert len(recorded) == RECORDED + 1


# -- over HTTP ------------------------------------------------------------------------------

LOOKS = ["/v1/status", "/v1/events?follow=no", "/v1/instances/x"]
ACTS = ["/v1/instances/x/vote", "/v1/instances/x/notify", "/v1/instances/x/act", "/v1/other"]

MAY_LOOK = "uid 1000 may look but not act: it is in no group of control.act of host.toml"
MAY_NOTHING = "uid 1000 is in no group of [control] of host.toml"


@pytest.mark.parametrize(
    ("whom", "looking", "acting"),
    [
        (peer(1000, ACT), None, None),
        (peer(1000, LOOK), None, MAY_LOOK),
        (peer(1000, OTHER), MAY_NOTHING, MAY_NOTHING),
    ],
)
async def test_refusals(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    whom: PeerCredentials,
    looking: str | None,
    acting: str | None,
) -> None:
    real = ControlAdmission.__call__

    async def as_whom(self: ControlAdmission, scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][PEER_EXTENSION] = whom
        await real(self, scope, receive, send)

    monkeypatch.setattr(ControlAdmission, "__call__", as_whom)
    async with (
        host_world() as world,
        served(world.host, access=access(look=True, act=True)) as api,
        api.client() as http,
    ):
        for method, paths, why in (("GET", LOOKS, looking), ("POST", ACTS, acting)):
            for path in paths:
                answer = await http.request(method, path, json={"event": "stop"})
                if why is None:
                    assert answer.status_code in (200, 400, 404)
                    continue
                assert refusal(answer) == (403, why)
                assert caplog.messages[-1] == (
                    f"operator {why}; refused: {method} {path.partition('?')[0]}"
                )
                assert caplog.records[-1].levelno == logging.WARNING

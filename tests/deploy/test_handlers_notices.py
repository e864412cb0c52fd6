"""The handlers of deploy/handlers that prepare: file systems that freeze, nodes that drain.

Each may be ended at any moment, and none may leave anything frozen or cordoned.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hbtrio.wire.vocabulary import EVENT_TABLE
from support.handlers import SOON_S, UNDER_BOTH, Bench, bench, end, until, watchdogs

__all__ = ["bench"]

pytestmark = pytest.mark.processes

FREEZES: Final = ("pause", "suspend")
THAWS: Final = ("unpause", "resume")


@UNDER_BOTH
@pytest.mark.parametrize("handler", ["fsfreeze", "kubernetes-node"])
def test_they_agree_to_every_event(handler: str, bench: Bench) -> None:
    for event in EVENT_TABLE:
        assert bench.vote(handler, event).accepted
    assert bench.run(handler).status == bench.run(handler, "irrevocable").status == 2


# -- fsfreeze -------------------------------------------------------------------------------------

#: A file system is frozen while its file exists; freezing it twice is a fault, as is thawing.
FSFREEZE: Final = """
frozen="{place}/frozen$(echo "$2" | tr / -)"
case $1 in
--freeze) [ ! -e "{place}/hangs" ] || sleep 1000
    [ ! -e "{place}/fails$(echo "$2" | tr / -)" ] || {{ echo "fsfreeze: $2: busy" >&2; exit 1; }}
    [ ! -e "$frozen" ] && : >"$frozen" ;;
--unfreeze) rm "$frozen" ;;
esac
"""


@pytest.fixture
def mounts(bench: Bench) -> Bench:
    """A bench with two file systems, and a watchdog that is patient."""
    bench.tool("fsfreeze", FSFREEZE.format(place=bench.place))
    bench.settings(FREEZE="/srv/a /srv/b", FREEZE_MAX_S=1000, FREEZE_S=2, RETRY_S=1)
    return bench


def frozen(bench: Bench) -> list[str]:
    return sorted(path.name for path in bench.place.glob("frozen-*"))


BOTH: Final = ["frozen-srv-a", "frozen-srv-b"]


@UNDER_BOTH
@pytest.mark.parametrize(("begin", "over"), [*zip(FREEZES, THAWS, strict=True)])
def test_it_freezes_before_and_thaws_after(begin: str, over: str, mounts: Bench) -> None:
    assert mounts.notify("fsfreeze", begin).accepted
    assert frozen(mounts) == BOTH
    assert len(watchdogs(mounts.place)) == 1
    assert mounts.notify("fsfreeze", over).accepted
    assert frozen(mounts) == []


def test_other_events_freeze_nothing(mounts: Bench) -> None:
    for event in EVENT_TABLE:
        if event not in FREEZES:
            assert mounts.notify("fsfreeze", event).accepted
    assert mounts.calls == []


def test_what_somebody_else_has_frozen_stays_so(mounts: Bench) -> None:
    (mounts.place / "frozen-srv-a").touch()
    assert mounts.notify("fsfreeze", "unpause").accepted
    assert frozen(mounts) == ["frozen-srv-a"]


@UNDER_BOTH
def test_without_a_setting_nothing_is_frozen_and_the_notice_says_so(bench: Bench) -> None:
    bench.tool("fsfreeze", "exit 1")
    answered = bench.notify("fsfreeze", "pause")
    conf = bench.place / "handlers.conf"
    reason = f"nothing is frozen: FREEZE in {conf} names no mount points"
    assert (answered.status, answered.reason) == (1, reason)
    assert bench.notify("fsfreeze", "unpause").accepted
    assert (bench.calls, watchdogs(bench.place)) == ([], [])


@pytest.mark.parametrize("mount", ["/", "/var", "/var/log", "/run"])
def test_what_the_watchdog_needs_is_never_frozen(mount: str, mounts: Bench) -> None:
    mounts.settings(FREEZE=f"/srv/a {mount}")
    answered = mounts.notify("fsfreeze", "pause")
    assert (answered.status, answered.reason.split()[0]) == (1, mount)
    assert mounts.calls == []


@UNDER_BOTH
def test_the_watchdog_thaws_when_no_end_comes(mounts: Bench) -> None:
    mounts.settings(FREEZE_MAX_S=1)
    assert mounts.notify("fsfreeze", "pause").accepted
    until(lambda: not frozen(mounts))


def test_the_watchdog_outlives_handler_and_guest(mounts: Bench) -> None:
    """The guest ends a handler's whole session, and what is left of it at its own end."""
    mounts.settings(FREEZE_MAX_S=2, FREEZE_S=30)
    (mounts.place / "hangs").touch()
    process = mounts.start("fsfreeze", "irrevocable", "pause")
    until(lambda: "fsfreeze --freeze /srv/a" in mounts.calls)
    (mounts.place / "frozen-srv-a").touch()  # it has come to its end after all
    end(process, signal.SIGKILL)
    assert len(watchdogs(mounts.place)) >= 1
    until(lambda: not frozen(mounts))


def test_under_systemd_the_watchdog_is_a_unit_of_its_own(mounts: Bench) -> None:
    """A process of the guest's unit would be killed with it."""
    mounts.tool("setsid", "exit 1")
    mounts.tool(
        "systemd-run",
        """
while case $1 in --setenv=*) export "${1#--setenv=}" ;; --*) ;; *) false ;; esac; do shift; done
"$@" </dev/null >/dev/null 2>&1 &""",
    )
    mounts.settings(SYSTEMD_RUN_DIR=str(mounts.place), FREEZE_MAX_S=1)
    assert mounts.notify("fsfreeze", "pause").accepted
    (call,) = (call for call in mounts.calls if call.startswith("systemd-run"))
    assert call.startswith("systemd-run --quiet --collect --setenv=")
    assert re.search(r" --unit=hbtrio-fsfreeze-\d+ /bin/sh \S+/fsfreeze watchdog 1 ", call)
    until(lambda: not frozen(mounts))


def test_without_a_watchdog_nothing_is_frozen(mounts: Bench) -> None:
    mounts.tool("setsid", "exit 1")
    answered = mounts.notify("fsfreeze", "pause")
    assert (answered.status, answered.reason) == (
        1,
        "nothing is frozen: the watchdog did not start",
    )
    assert [call for call in mounts.calls if call.startswith("fsfreeze")] == []


def test_one_that_fails_thaws_all(mounts: Bench) -> None:
    (mounts.place / "fails-srv-b").touch()
    answered = mounts.notify("fsfreeze", "pause")
    assert (answered.status, answered.reason) == (
        1,
        "/srv/b was not frozen, so nothing is: fsfreeze: /srv/b: busy",
    )
    assert frozen(mounts) == []


def test_one_that_hangs_is_given_up(mounts: Bench) -> None:
    mounts.settings(FREEZE_S=1)
    (mounts.place / "hangs").touch()
    answered = mounts.notify("fsfreeze", "pause")
    assert (answered.status, answered.reason) == (
        1,
        "/srv/a was not frozen, so nothing is: no end within 1 s",
    )


@UNDER_BOTH
def test_a_handler_that_is_ended_thaws(mounts: Bench) -> None:
    (mounts.place / "hangs").touch()
    mounts.settings(FREEZE_S=30)
    process = mounts.start("fsfreeze", "irrevocable", "pause")
    until(lambda: "fsfreeze --freeze /srv/a" in mounts.calls)
    end(process, signal.SIGTERM)
    assert "fsfreeze --unfreeze /srv/b" in mounts.calls


def test_a_watchdog_leaves_a_later_freeze_alone(mounts: Bench) -> None:
    mounts.settings(FREEZE_MAX_S=2)
    assert mounts.notify("fsfreeze", "pause").accepted
    (first,) = watchdogs(mounts.place)
    assert mounts.notify("fsfreeze", "unpause").accepted
    mounts.settings(FREEZE_MAX_S=1000)
    assert mounts.notify("fsfreeze", "pause").accepted
    until(lambda: first not in watchdogs(mounts.place))
    assert frozen(mounts) == BOTH


@pytest.fixture
def loop_mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, if that is permitted here."""
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield mount
    subprocess.run(["fsfreeze", "--unfreeze", mount], check=False, capture_output=True)
    subprocess.run(["umount", mount], check=True)


def test_a_real_file_system_stands_still_until_it_is_thawed(loop_mount: Path, bench: Bench) -> None:
    bench.settings(FREEZE=str(loop_mount), FREEZE_MAX_S=1000)
    assert bench.notify("fsfreeze", "pause").accepted
    with subprocess.Popen(["touch", loop_mount / "written"]) as writer:
        # It waits in the kernel for the thaw.
        until(lambda: "D (disk sleep)" in Path(f"/proc/{writer.pid}/status").read_text())
        assert bench.notify("fsfreeze", "unpause").accepted
        assert writer.wait(SOON_S) == 0


# -- Kubernetes -----------------------------------------------------------------------------------

#: A cluster of one node, with faults.
KUBECTL: Final = """
[ ! -e "{place}/away-$1" ] || {{ echo "error: no route to host" >&2; exit 1; }}
[ ! -e "{place}/hangs-$1" ] || sleep 1000
[ ! -e "{place}/warns-$1" ] || echo "Warning: v1 is deprecated" >&2
[ ! -e "{place}/mute-$1" ] || exit 3
[ ! -e "{place}/forbidden-$1" ] || {{
    echo "Error from server (Forbidden): nodes is forbidden" >&2
    exit 1
}}
case $1 in
get) [ ! -e "{place}/cordoned" ] || printf true ;;
cordon) : >"{place}/cordoned" ;;
uncordon) rm -f "{place}/cordoned" ;;
drain) if [ -e "{place}/budget" ]; then
        echo "evicting pod default/web" >&2
        echo "error when evicting pods/\\"db-0\\": it would violate its budget" >&2
        exit 1
    fi ;;
esac
[ ! -e "{place}/late-$1" ] || sleep 1000
"""

GOES_DOWN: Final = ("stop", "reboot", "pause", "suspend", "resize_begin", "cold_migrate_begin")
RETURNS: Final = ("resume", "unpause", "resize_end", "cold_migrate_end")


@pytest.fixture
def node(bench: Bench) -> Bench:
    bench.tool("kubectl", KUBECTL.format(place=bench.place))
    bench.settings(NODE="web-1", DRAIN_S=1, KUBECTL_S=2, CORDON_MAX_S=1000, RETRY_S=1)
    return bench


def cordoned(bench: Bench) -> bool:
    return (bench.place / "cordoned").exists()


def set_fault(bench: Bench, name: str) -> Path:
    path = bench.place / name
    path.touch()
    return path


@pytest.mark.parametrize("event", GOES_DOWN)
def test_a_node_is_drained_before_and_back_after_an_end_or_a_cancellation(
    event: str, node: Bench
) -> None:
    assert node.notify("kubernetes-node", event).accepted
    assert cordoned(node)
    assert node.calls[-2:] == [
        "kubectl cordon web-1",
        "kubectl drain web-1 --timeout=1s --ignore-daemonsets --delete-emptydir-data",
    ]
    assert node.notify("kubernetes-node", RETURNS[GOES_DOWN.index(event) % 4]).accepted
    assert not cordoned(node)


def test_migrating_live_does_not_concern_it(node: Bench) -> None:
    for event in EVENT_TABLE:
        if event not in GOES_DOWN:
            assert node.notify("kubernetes-node", event).accepted
    assert node.calls == []


@UNDER_BOTH
def test_without_kubectl_the_cause_is_told(bench: Bench) -> None:
    bench.settings(NODE="web-1")
    for name in ("dash", "busybox", "dirname", "readlink", "uname", "cat"):
        (bench.tools / name).symlink_to(shutil.which(name) or "")
    answered = bench.run("kubernetes-node", "irrevocable", "stop", PATH=str(bench.tools))
    assert answered.reason == "web-1 was not drained: there is no kubectl in PATH"


def test_what_an_operator_has_cordoned_stays_so(node: Bench) -> None:
    set_fault(node, "cordoned")
    assert node.notify("kubernetes-node", "stop").accepted
    assert node.calls[-1].startswith("kubectl drain")
    assert node.notify("kubernetes-node", "resume").accepted
    assert cordoned(node)


@UNDER_BOTH
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "budget",
            'error when evicting pods/"db-0": it would violate its budget',
        ),
        ("hangs-drain", "no end within 1 s"),
        ("away-drain", "error: no route to host"),
    ],
)
def test_a_drain_that_fails_is_told_and_the_node_comes_back(
    fault: str, reason: str, node: Bench
) -> None:
    set_fault(node, fault)
    answered = node.notify("kubernetes-node", "stop")
    assert (answered.status, answered.reason) == (
        1,
        f"web-1 is cordoned, its drain is incomplete: {reason}",
    )
    assert node.notify("kubernetes-node", "resume").accepted
    assert not cordoned(node)


@UNDER_BOTH
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("away-get", "error: no route to host"),
        ("hangs-get", "no end within 1 s"),
        ("forbidden-get", "Error from server (Forbidden): nodes is forbidden"),
        ("mute-get", "kubectl ended with status 3"),
    ],
)
def test_an_api_that_does_not_answer_leaves_the_node_as_it_is(
    fault: str, reason: str, node: Bench
) -> None:
    node.settings(KUBECTL_S=1 if fault == "hangs-get" else 30)
    set_fault(node, fault)
    answered = node.notify("kubernetes-node", "stop")
    assert answered.reason == f"web-1 was not drained: kubectl get node: {reason}"
    assert (answered.status, cordoned(node), watchdogs(node.place)) == (1, False, [])


@UNDER_BOTH
def test_warnings_of_kubectl_are_no_faults(node: Bench) -> None:
    for command in ("get", "cordon", "drain", "uncordon"):
        set_fault(node, f"warns-{command}")
    assert node.notify("kubernetes-node", "stop").accepted
    assert cordoned(node)
    assert node.notify("kubernetes-node", "resume").accepted
    assert not cordoned(node)


def test_warnings_before_an_error_are_not_taken_for_it(node: Bench) -> None:
    for fault in ("warns-drain", "forbidden-drain"):
        set_fault(node, fault)
    answered = node.notify("kubernetes-node", "stop")
    assert answered.reason == (
        "web-1 is cordoned, its drain is incomplete: "
        "Error from server (Forbidden): nodes is forbidden"
    )


@UNDER_BOTH
def test_a_cordon_that_its_time_ends_is_undone(node: Bench) -> None:
    """It may have been carried out all the same."""
    set_fault(node, "late-cordon")
    answered = node.notify("kubernetes-node", "stop")
    reason = "web-1 was not cordoned, and so not drained: no end within 2 s"
    assert (answered.status, answered.reason) == (1, reason)
    assert cordoned(node)
    assert node.notify("kubernetes-node", "resume").accepted
    assert not cordoned(node)


@UNDER_BOTH
def test_the_watchdog_uncordons_when_no_end_comes_as_soon_as_the_api_answers(node: Bench) -> None:
    node.settings(CORDON_MAX_S=1)
    away = set_fault(node, "away-uncordon")
    assert node.notify("kubernetes-node", "stop").accepted
    until(lambda: node.calls.count("kubectl uncordon web-1") >= 2)
    assert cordoned(node)
    away.unlink()
    until(lambda: not cordoned(node))
    until(lambda: not watchdogs(node.place))


def test_an_end_that_fails_is_told_and_left_to_the_watchdog(node: Bench) -> None:
    assert node.notify("kubernetes-node", "stop").accepted
    away = set_fault(node, "away-uncordon")
    answered = node.notify("kubernetes-node", "resume")
    assert (answered.status, cordoned(node)) == (1, True)
    away.unlink()
    assert node.notify("kubernetes-node", "resume").accepted
    assert not cordoned(node)


def test_a_handler_that_is_killed_in_the_drain_leaves_a_node_that_comes_back(node: Bench) -> None:
    node.settings(DRAIN_S=100)
    set_fault(node, "hangs-drain")
    process = node.start("kubernetes-node", "irrevocable", "reboot")
    until(lambda: any(call.startswith("kubectl drain") for call in node.calls))
    end(process, signal.SIGKILL)
    assert cordoned(node)
    assert node.notify("kubernetes-node", "resume").accepted
    assert not cordoned(node)


@UNDER_BOTH
def test_after_a_boot_the_node_is_uncordoned_and_not_before(node: Bench) -> None:
    assert node.run("kubernetes-node", "after-boot").accepted
    assert node.notify("kubernetes-node", "reboot").accepted
    assert node.run("kubernetes-node", "after-boot").accepted
    assert cordoned(node)
    (mark,) = (node.place / "state").iterdir()
    mark.write_text("web-1 another-boot 7\n")
    shutil.rmtree(node.run_dir)
    assert node.run("kubernetes-node", "after-boot").accepted
    assert not cordoned(node)

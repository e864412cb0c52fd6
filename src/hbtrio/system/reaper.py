"""The reaper: a helper process that ends the scripts of a daemon that was killed.

The daemon ends its scripts itself, as long as it can. After ``kill -9``, an out-of-memory kill or a
crash of the interpreter it cannot: the script of a vote would go on, and act, in a VM where nobody
waits for its answer. So the daemon starts this file as a process of its own and holds the only
write end of the pipe that is the reaper's standard input. Over it go two kinds of lines::

    +4711      the script that leads session 4711 has started
    -4711      it has ended, or has been ended

End of file means that the daemon is gone, however it went: what is still registered gets TERM and,
0.5 s later, KILL. After an orderly shutdown nothing is registered and the reaper just exits.

Why not something simpler: a parent-death signal (``PR_SET_PDEATHSIG``) reaches the script but not
its children, and is tied to the thread that forked; systemd cleans a control group, but neither a
sysv script nor a terminal nor most containers do.

The daemon starts the reaper with HUP, INT, QUIT and TERM blocked and in a session of its own: an
operator's Ctrl-C and systemd's TERM to the whole control group would otherwise end it just before
it is needed. Yet it never lingers: it is gone half a second after the daemon.

This file runs as ``python -I -S reaper.py`` beside a daemon in a small VM, so it imports next to
nothing: ``signal`` would bring in ``enum`` and cost another 0.8 MB, ``collections.abc`` likewise.
"""

import os
import time

_TERM = 15
_KILL = 9

#: How long scripts have between TERM and KILL once the daemon is gone, in seconds. Shorter than the
#: daemon's own grace: whoever restarts the daemon should not find the old scripts.
_GRACE_S = 0.5
_POLL_S = 0.02


def live_groups(sessions: set[int]) -> set[int]:
    """Find the process groups in which some process of these sessions still lives.

    A script leads a session, and its process group has the same number. But it may hold more groups
    than that one: ``timeout(1)`` and a shell after ``set -m`` move what they run into new ones,
    which a signal to the script's own group does not reach. Zombies do not count as living. What
    called ``setsid`` has left on purpose and is not found.

    Where ``/proc`` cannot be read, the sessions' own groups are assumed to live.
    """
    try:
        names = os.listdir("/proc")
    except OSError:
        return set(sessions)
    groups = set()
    for name in names:
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it ended while we looked
        try:
            stat = os.read(fd, 1024)
        except OSError:
            continue
        finally:
            os.close(fd)
        # The name in parentheses may itself hold blanks and parentheses: proc(5).
        state, _parent, group, session, *_ = stat.rpartition(b")")[2].split(None, 4)
        if state not in (b"Z", b"X") and int(session) in sessions:
            groups.add(int(group))
    return groups


def signal_groups(groups: set[int], number: int) -> None:
    """Send a signal to each group, never mind those that have ended or are not ours to signal."""
    for group in groups:
        if group > 1:  # killpg(0) would be our own group, killpg(1) every process there is
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                continue


def _end(sessions: set[int]) -> None:
    # Only groups just seen alive are signalled. With the daemon dead nobody keeps a session's
    # number from being used again, but for that all of the session must end and the pid counter go
    # once around between one look and the next, 20 ms later.
    groups = live_groups(sessions)
    signal_groups(groups, _TERM)
    deadline = time.monotonic() + _GRACE_S
    while groups and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        groups = live_groups(sessions)
    signal_groups(groups, _KILL)


def _main() -> None:
    with open("/proc/self/comm", "w") as comm:
        comm.write("hbtrio-reaper")  # what ps and top show; 15 bytes at most
    sessions: set[int] = set()
    begun = b""
    while chunk := os.read(0, 4096):
        *lines, begun = (begun + chunk).split(b"\n")
        for line in lines:
            session = int(line[1:])
            if line.startswith(b"+"):
                sessions.add(session)
            else:
                sessions.discard(session)
    if sessions:
        _end(sessions)


if __name__ == "__main__":
    _main()

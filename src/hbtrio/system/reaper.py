"""The reaper: a helper process that ends the scripts of a daemon that was killed.

A daemon ends its own scripts, but not after ``kill -9``, an out-of-memory kill or a crash of the
interpreter. The script of a vote would then go on and act although nothing waits for its result. So
the daemon starts this file as a process and holds the only write end of the pipe that is the
reaper's standard input. The pipe carries four kinds of lines::

    ?1f2e.7    a script is about to start, with HBTRIO_COMMAND=1f2e.7 in its environment
    +4711      the script that leads session 4711 has started
    !1f2e.7    it was registered, or did not start
    -4711      the script has ended, or was ended

End of file means that the daemon is gone: the registered sessions get TERM and, 0.5 s later, KILL.
After an orderly shutdown no session is registered and the reaper exits. A daemon that was killed
before it could register a script is why scripts are announced: the reaper looks for those by their
environment.

Simpler ways don't suffice: a parent-death signal (``PR_SET_PDEATHSIG``) reaches the script but not
its children, and is tied to the thread that forked. systemd cleans a control group, but a sysv
script, a terminal and most containers don't.

The daemon starts the reaper in its own session with HUP, INT, QUIT and TERM blocked. Otherwise an
operator's Ctrl-C or systemd's TERM to the control group would end the reaper just before it is
needed. The reaper exits at the latest half a second after the daemon.

This file runs as ``python -I -S reaper.py`` beside a daemon in a small VM, so it imports very
little: ``signal`` imports ``enum`` and costs another 0.8 MB, ``collections.abc`` likewise.
"""

import os
import time

_TERM = 15
_KILL = 9

#: The time between TERM and KILL once the daemon is gone, in seconds. Shorter than the daemon's own
#: grace, so that a restarted daemon doesn't meet the old scripts.
_GRACE_S = 0.5
_POLL_S = 0.02

#: In a script's environment: what it was announced as.
COMMAND_VARIABLE = "HBTRIO_COMMAND"
#: More than Linux allows for one entry; those after that are not looked at.
_ENVIRONMENT_BYTES = 256 * 1024


def live_groups(sessions: set[int]) -> set[int]:
    """Return the process groups with a live process in one of these sessions.

    A script leads a session and the process group of the same number. The session may have more
    groups: ``timeout(1)`` and a shell after ``set -m`` put their commands into new groups, which a
    signal to the script's group doesn't reach. Zombies don't count. A process that called
    ``setsid`` has left the session on purpose and is not found.

    If ``/proc`` can't be read, the function returns the sessions' own groups.
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
            continue  # the process has ended meanwhile
        try:
            stat = os.read(fd, 1024)
        except OSError:
            continue
        finally:
            os.close(fd)
        # The name in parentheses may contain blanks and parentheses, see proc(5).
        state, _parent, group, session, *_ = stat.rpartition(b")")[2].split(None, 4)
        if state not in (b"Z", b"X") and int(session) in sessions:
            groups.add(int(group))
    return groups


def signal_groups(groups: set[int], number: int) -> None:
    """Send a signal to each group; ignores groups that have ended or can't be signalled."""
    for group in groups:
        if group > 1:  # killpg(0) is the caller's group, killpg(1) every process
            try:
                os.killpg(group, number)
            except (ProcessLookupError, PermissionError):
                continue


def announced_sessions(names: set[bytes]) -> set[int]:
    """Return the sessions led by scripts that were announced by one of these names.

    A script that runs as another user can't be seen.
    """
    entries = {COMMAND_VARIABLE.encode() + b"=" + name for name in names}
    sessions = set()
    for pid in os.listdir("/proc") if names else ():
        if not pid.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # it has ended, or is another user's
        try:
            if not entries.isdisjoint(os.read(fd, _ENVIRONMENT_BYTES).split(b"\0")):
                sessions.add(os.getsid(int(pid)))
        except OSError:
            continue
        finally:
            os.close(fd)
    return sessions


def _end(sessions: set[int], announced: set[bytes]) -> None:
    # Signal only groups that were just seen alive. With the daemon dead, a session's number may be
    # reused, but only if the whole session ends and the pid counter wraps within 20 ms.
    told: set[int] = set()
    deadline = time.monotonic() + _GRACE_S
    while True:
        # Until its exec is done, a script has the daemon's environment.
        groups = live_groups(sessions | announced_sessions(announced))
        if time.monotonic() >= deadline or not (groups or announced):
            break
        signal_groups(groups - told, _TERM)
        told |= groups
        time.sleep(_POLL_S)
    signal_groups(groups, _KILL)


def _main() -> None:
    with open("/proc/self/comm", "w") as comm:
        comm.write("hbtrio-reaper")  # the name in ps and top; 15 bytes at most
    sessions: set[int] = set()
    announced: set[bytes] = set()
    begun = b""
    while chunk := os.read(0, 4096):
        *lines, begun = (begun + chunk).split(b"\n")
        for line in lines:
            kind, name = line[:1], line[1:]
            if kind == b"?":
                announced.add(name)
            elif kind == b"!":
                announced.discard(name)
            elif kind == b"+":
                sessions.add(int(name))
            else:
                sessions.discard(int(name))
    if sessions or announced:
        _end(sessions, announced)


if __name__ == "__main__":
    _main()

"""Which command needs which packages beyond those of a guest, and the fault if one is missing.

A VM gets only what the guest and the SDK need; ``pip install 'hbtrio[host]'`` and ``[agent]`` add
the rest. The table is read before a command is imported: a daemon must not find out only hours
later, at its first import of one of them.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from hbtrio.errors import ExitStatus, UserError


class Need(NamedTuple):
    """What a command needs.

    Args:
        extra: the extra of hbtrio that brings all of it.
        modules: the packages, by the names under which they are imported.
    """

    extra: str
    modules: tuple[str, ...]


_HOST: Final = ("cattrs", "h11", "httpx", "inotify_simple", "prometheus_client", "starlette")
_AGENT: Final = ("cattrs", "h11", "httpx", "prometheus_client", "starlette")
_CTL: Final = ("httpx", "rich")

#: What an agent with a database on PostgreSQL needs beyond an agent's packages.
CLUSTER: Final = Need("cluster", ("psycopg",))

#: The commands that need an extra. ``check-config`` asks for its own, by the kind of the file.
NEEDS: Final[dict[str, Need]] = {
    "host": Need("host", _HOST),
    "agent": Need("agent", _AGENT),
    "ctl": Need("host", _CTL),
    "lab": Need("all", tuple(sorted({*_HOST, *_AGENT, *_CTL}))),
    "simulate": Need("simulate", tuple(sorted({*_HOST, *_AGENT, *_CTL}))),
}


def require(need: Need) -> None:
    """Checks that the packages are installed, without importing them.

    Raises:
        UserError: one or more are missing, with the command that installs them (status
            MISSING_PACKAGE).
    """
    # Here, because the guest reads the table only.
    import importlib.util
    import shlex

    missing = [name for name in need.modules if importlib.util.find_spec(name) is None]
    if missing:
        pip = f"{shlex.quote(sys.executable)} -m pip install 'hbtrio[{need.extra}]'"
        raise UserError(
            f"not installed: {', '.join(missing)}; run: {pip}", ExitStatus.MISSING_PACKAGE
        )

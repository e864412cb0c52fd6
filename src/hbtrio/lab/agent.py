"""The agent of a lab: one process, which may be killed and started again on what it has stored."""

from __future__ import annotations

from pathlib import Path

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import Daemon
from hbtrio.lab.fake_vim import loopback_socket
from hbtrio.lab.launcher import Launcher, until_it_serves, write_toml


class LabAgent:
    """An agent; use it within ``with``, which keeps its port.

    Args:
        directory: where its sockets, configuration, log and store are.
        launcher: starts it.
    """

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        self.log = directory / "agent.log"
        #: The running daemon, or None.
        self.daemon: Daemon | None = None
        self._directory = directory
        self._launcher = launcher
        self._control_socket = directory / "agent.sock"
        # Its port stays its own, also while it is not running.
        self._place = loopback_socket()
        #: Where it serves the VIM, on the loopback.
        self.vim_port: int = self._place.getsockname()[1]

    def __enter__(self) -> LabAgent:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the port away."""
        self._place.close()

    @property
    def link(self) -> str:
        """Where hosts dial in."""
        return f"unix:{self._directory / 'agent.link'}"

    @property
    def url(self) -> str:
        """What ``hbtrio ctl --url`` wants."""
        return f"unix:{self._control_socket}"

    def client(self) -> CtlClient:
        """A client of its operator API, for use in ``async with``."""
        return CtlClient(Address.parse(self.url))

    async def start(self, vim_url: str) -> None:
        """Starts it, also after :meth:`kill`; returns when it serves.

        Args:
            vim_url: where the VIM is.

        Raises:
            UserError: it did not serve in time.
        """
        config = self._directory / "agent.toml"
        settings = {
            "name": "agent",
            "vim": {"listen": f"tcp:127.0.0.1:{self.vim_port}", "url": vim_url, "audit_s": 2},
            "link": {"listen": self.link},
            "operator": {"listen": self.url},
            "store": {"file": str(self._directory / "agent.db")},
        }
        write_toml(config, settings)
        arguments = ["agent", "--config", str(config)]
        self.daemon = await self._launcher.launch("the agent", arguments, self.log)
        await until_it_serves(self.daemon, self._control_socket)

    async def kill(self) -> None:
        """``kill -9``."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            await daemon.kill()

    async def stop(self) -> None:
        """SIGTERM."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            await daemon.stop()

"""Runs a lab's agent, which can be killed and restarted with its store."""

from __future__ import annotations

from pathlib import Path

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import RunsDaemon
from hbtrio.lab.fake_vim import loopback_socket
from hbtrio.lab.launcher import Launcher, until_it_serves, write_toml


class LabAgent(RunsDaemon):
    """An agent; the ``with`` block reserves its port.

    Args:
        directory: the directory of its sockets, configuration, log and store.
        launcher: starts the process.
    """

    def __init__(self, directory: Path, launcher: Launcher) -> None:
        self.log = directory / "agent.log"
        self._directory = directory
        self._launcher = launcher
        self._control_socket = directory / "agent.sock"
        # Reserves the port while the agent is not running.
        self._place = loopback_socket()
        #: The port of its VIM API, on the loopback.
        self.vim_port: int = self._place.getsockname()[1]

    def __enter__(self) -> LabAgent:
        """Starts nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the port."""
        self._place.close()

    @property
    def link(self) -> str:
        """The endpoint that hosts connect to."""
        return f"unix:{self._directory / 'agent.link'}"

    @property
    def url(self) -> str:
        """The URL for ``hbtrio ctl --url``."""
        return f"unix:{self._control_socket}"

    def client(self) -> CtlClient:
        """Returns a client of its operator API, for use in ``async with``."""
        return CtlClient(Address.parse(self.url))

    async def start(self, vim_url: str) -> None:
        """Starts the agent, also after :meth:`kill`, and waits until it serves.

        Args:
            vim_url: the URL of the VIM.

        Raises:
            UserError: the agent did not serve in time.
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

"""Runs a lab's agent, which can be killed and restarted with its store."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import RunsDaemon
from hbtrio.lab.fake_vim import loopback_socket
from hbtrio.lab.launcher import Launcher, until_it_serves, write_toml


class LabAgent(RunsDaemon):
    """An agent; the ``with`` block reserves its ports.

    Operators reach it over TCP on the loopback, as browsers do; changes need its token.

    Args:
        directory: the directory of its sockets, configuration, log and store.
        launcher: starts the process.
        audit_s: how often it audits the VIM, in seconds.
    """

    def __init__(self, directory: Path, launcher: Launcher, audit_s: float = 2) -> None:
        self._audit_s = audit_s
        self.log = directory / "agent.log"
        #: ``[groups]`` of agent.toml; change it before :meth:`start`.
        self.groups: dict[str, dict[str, Any]] = {}
        self._directory = directory
        self._launcher = launcher
        #: The file with the operator's token.
        self.token_file = directory / "token"
        self._token = secrets.token_urlsafe(24)
        # Reserve the ports while the agent is not running.
        self._places = (loopback_socket(), loopback_socket())
        #: The port of its VIM API, on the loopback.
        self.vim_port: int = self._places[0].getsockname()[1]
        self._operator_port: int = self._places[1].getsockname()[1]

    def __enter__(self) -> LabAgent:
        """Starts nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the ports."""
        for place in self._places:
            place.close()

    @property
    def link(self) -> str:
        """The endpoint that hosts connect to."""
        return f"unix:{self._directory / 'agent.link'}"

    @property
    def url(self) -> str:
        """The URL for ``hbtrio ctl --url``, and for a browser."""
        return f"http://127.0.0.1:{self._operator_port}"

    def client(self) -> CtlClient:
        """Returns a client of its operator API, for use in ``async with``."""
        return CtlClient(Address.parse(self.url), self._token)

    async def start(self, vim_url: str) -> None:
        """Starts the agent, also after :meth:`kill`, and waits until it serves.

        Args:
            vim_url: the URL of the VIM.

        Raises:
            UserError: the agent did not serve in time.
        """
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self._token)
        config = self._directory / "agent.toml"
        settings: dict[str, Any] = {
            "name": "agent",
            "vim": {"listen": f"tcp:127.0.0.1:{self.vim_port}", "url": vim_url},
            "link": {"listen": self.link},
            "operator": {
                "listen": f"tcp:127.0.0.1:{self._operator_port}",
                "token_file": str(self.token_file),
            },
            "store": {"file": str(self._directory / "agent.db")},
            "groups": self.groups,
        }
        settings["vim"]["audit_s"] = self._audit_s
        write_toml(config, settings)
        arguments = ["agent", "--config", str(config)]
        self.daemon = await self._launcher.launch("the agent", arguments, self.log)
        await until_it_serves(self.daemon, self._operator_port)

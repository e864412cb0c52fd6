"""``agent.toml``: the configuration of the agent on the controller.

Every key has a default, so an empty file is a working configuration for one controller with its VIM
on the loopback, as deployed.
"""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

from hbtrio.config.host import (
    ENDPOINT,
    ENDPOINT_WORDS,
    LOCAL_ENDPOINT,
    LOCAL_ENDPOINT_WORDS,
    BrakeSettings,
    LogLevel,
    LogTarget,
)
from hbtrio.config.settings import choice, number, path, table, word
from hbtrio.config.toml import load_toml

#: Where the packages put it.
DEFAULT_AGENT_CONFIG: Final = "/etc/hbtrio/agent.toml"

# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults


@attrs.frozen(kw_only=True)
class VimSettings:
    """The cloud's orchestrator."""

    #: Where the VIM's requests are served; they bear no proof of who sends them.
    listen: str = word("tcp:127.0.0.1:2410", LOCAL_ENDPOINT, LOCAL_ENDPOINT_WORDS)
    #: Where it is told; empty: there is no VIM.
    url: str = word("http://127.0.0.1:30002", r"(https?://[^\s/]+)?", "an http URL, or empty")
    audit_s: float = number(10.0, 1, 3600, "s")


@attrs.frozen(kw_only=True)
class LinkSettings:
    """Where hosts dial in."""

    listen: str = word("unix:/run/hbtrio/agent.link", ENDPOINT, ENDPOINT_WORDS)
    #: A host without a link for this long is reported as such; its VMs are not lost for it.
    grace_s: float = number(30.0, 1, 3600, "s")
    #: Mutual TLS: all three or none.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))

    def __attrs_post_init__(self) -> None:
        """Refuse half a TLS configuration, and hosts that nobody could tell from strangers."""
        tls = (self.certificate, self.key, self.authority)
        if any(tls) and not all(tls):
            raise ValueError("certificate, key and authority go together")
        if not any(tls) and not re.fullmatch(LOCAL_ENDPOINT, self.listen):
            raise ValueError("listen: certificate, key and authority are needed for this address")


@attrs.frozen(kw_only=True)
class OperatorSettings:
    """Where `hbtrio ctl` connects."""

    listen: str = word("unix:/run/hbtrio/agent.sock", LOCAL_ENDPOINT, LOCAL_ENDPOINT_WORDS)
    mode: str = word("0660", "0?[0-7]{3}", "three octal digits in quotes")
    #: A file with the bearer token that requests over TCP need to change something. A unix socket
    #: has its mode for that. Without a file, nothing can be changed over TCP.
    token_file: str = path("", instead=("",))


@attrs.frozen(kw_only=True)
class StoreSettings:
    """What survives."""

    file: str = path("/var/lib/hbtrio/agent.db")
    history_days: float = number(30.0, 0.01, 3650, "days")


@attrs.frozen(kw_only=True)
class AgentConfig:
    """The agent's settings.

    Raises:
        ValueError: a value is out of its range.
    """

    name: str = word("", r"[A-Za-z0-9._-]{0,253}", "a host name, or empty")
    log: LogTarget = choice("stderr", LogTarget)
    log_level: LogLevel = choice("info", LogLevel)
    vim: VimSettings = table(VimSettings)
    link: LinkSettings = table(LinkSettings)
    operator: OperatorSettings = table(OperatorSettings)
    store: StoreSettings = table(StoreSettings)
    brake: BrakeSettings = table(BrakeSettings)


def load_agent_config(
    path: str | os.PathLike[str] = DEFAULT_AGENT_CONFIG, *, missing_ok: bool = False
) -> AgentConfig:
    """Read the agent's configuration.

    Args and Raises: those of :func:`hbtrio.config.toml.load_toml`.
    """
    return load_toml(path, AgentConfig, missing_ok=missing_ok)

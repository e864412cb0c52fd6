"""``agent.toml``: the configuration of the agent on the controller.

Every key has a default, so an empty file is a working configuration for one controller whose VIM
listens on the loopback, as deployed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import attrs

from hbtrio.config.endpoints import clash, is_local, listen_at, tls_of_an_api
from hbtrio.config.groups import GroupSettings, group_tables
from hbtrio.config.host import BrakeSettings, LogFormat, LogLevel, LogTarget
from hbtrio.config.notify import NotifySettings
from hbtrio.config.rules import Rule, Ruled
from hbtrio.config.settings import choice, number, path, table, word
from hbtrio.config.source import Fault, shown
from hbtrio.wire.database_url import URL, has_password, without_options

#: Where the packages install the file.
DEFAULT_AGENT_CONFIG: Final = "/etc/hbtrio/agent.toml"

_TLS: Final = ("certificate", "key", "authority")

# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults


@attrs.frozen(kw_only=True)
class VimSettings(Ruled):
    """The VIM, the cloud's orchestrator."""

    #: Where the agent listens for the VIM's requests.
    listen: str = listen_at("tcp:127.0.0.1:2410")
    #: TLS: certificate and key, or neither. With authority the VIM needs a client certificate.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))
    #: A file with the token that the VIM's requests over TCP must carry. Without this file the
    #: requests are not authenticated, as deployed.
    token_file: str = path("", instead=("",))
    #: Where the agent sends its requests; empty: there is no VIM.
    url: str = word("http://127.0.0.1:30002", r"(https?://[^\s/]+)?", "an http URL, or empty")
    #: The CA certificates for an https URL; empty: the system's trust store.
    url_authority: str = path("", instead=("",))
    audit_s: float = number(10.0, 1, 3600, "s")
    #: States and alarms that are sent to it at once, at most; see hbtrio.policy.vim_pace.
    at_once: int = number(32, 6, 60, "requests")

    def _not_open_to_all(self) -> Iterator[str]:
        if not is_local(self.listen) and not self.token_file:
            yield Fault("listen: token_file is needed for this address", "listen")

    def _authority_of_a_certificate(self) -> Iterator[str]:
        if self.url_authority and not self.url.startswith("https:"):
            yield Fault("url_authority is for an https url", "url_authority")

    rules: ClassVar = (tls_of_an_api, _not_open_to_all, _authority_of_a_certificate)


@attrs.frozen(kw_only=True)
class LinkSettings(Ruled):
    """The endpoint that hosts connect to."""

    listen: str = listen_at("unix:/run/hbtrio/agent.link")
    #: A host without a link for this long is reported; its VMs don't count as lost.
    grace_s: float = number(30.0, 1, 3600, "s")
    #: Mutual TLS: all three or none.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))

    def _whole_tls(self) -> Iterator[str]:
        tls = (self.certificate, self.key, self.authority)
        if any(tls) and not all(tls):
            yield Fault("certificate, key and authority go together", *_TLS)
        elif any(tls) and self.listen.startswith("unix:"):
            # Hosts don't use TLS on a unix socket.
            fault = "certificate, key and authority are for tcp, not for a unix socket"
            yield Fault(fault, *_TLS)
        elif not any(tls) and not is_local(self.listen):
            # Without TLS anyone could connect as a host.
            fault = "listen: certificate, key and authority are needed for this address"
            yield Fault(fault, "listen")

    rules: ClassVar = (_whole_tls,)


@attrs.frozen(kw_only=True)
class OperatorSettings(Ruled):
    """The endpoint of the operator API, which `hbtrio ctl` uses."""

    listen: str = listen_at("unix:/run/hbtrio/agent.sock")
    mode: str = word("0660", "0?[0-7]{3}", "three octal digits in quotes")
    #: TLS: certificate and key, or neither. With authority a client certificate replaces the token.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))
    #: A file with the bearer token. Over TCP, requests that change something need the token; beyond
    #: the loopback all requests do. The mode of a unix socket protects it instead.
    token_file: str = path("", instead=("",))

    def _not_open_to_all(self) -> Iterator[str]:
        if not (is_local(self.listen) or self.token_file or self.authority):
            yield Fault("listen: token_file or authority is needed for this address", "listen")

    rules: ClassVar = (tls_of_an_api, _not_open_to_all)


@attrs.frozen(kw_only=True)
class StoreSettings(Ruled):
    """The agent's database."""

    file: str = path("/var/lib/hbtrio/agent.db")
    #: Replaces the file.
    url: str = word("", f"({URL})?", "a postgresql URL, or empty")
    history_days: float = number(30.0, 0.01, 3650, "days")

    @property
    def place(self) -> str:
        """The database, as messages name it."""
        return without_options(self.url) if self.url else self.file

    def _no_password(self) -> Iterator[str]:
        if has_password(self.url):
            yield Fault("url: no password here; passfile=PATH names a file with it", "url")

    rules: ClassVar = (_no_password,)


def _apart(one: str, other: str) -> Rule:
    """Returns the rule that two tables don't listen at one address; ignores [vim] without a VIM."""

    def rule(config: Any) -> Iterator[str]:
        if "vim" in (one, other) and not config.vim.url:
            return
        first, second = getattr(config, one).listen, getattr(config, other).listen
        if clash(first, second):
            where = f"{one}.listen and {other}.listen"
            fault = f"{where} can't both be served: {shown(first)}, {shown(second)}"
            yield Fault(fault, (one, "listen"), (other, "listen"))

    return rule


@attrs.frozen(kw_only=True)
class AgentConfig(Ruled):
    """The agent's settings.

    Raises:
        ValueError: a value is out of range, or two values contradict each other.
    """

    name: str = word("", r"[A-Za-z0-9._-]{0,253}", "a host name, or empty")
    log: LogTarget = choice("stderr", LogTarget)
    log_format: LogFormat = choice("text", LogFormat)
    log_level: LogLevel = choice("info", LogLevel)
    vim: VimSettings = table(VimSettings)
    link: LinkSettings = table(LinkSettings)
    operator: OperatorSettings = table(OperatorSettings)
    store: StoreSettings = table(StoreSettings)
    brake: BrakeSettings = table(BrakeSettings)
    groups: Mapping[str, GroupSettings] = group_tables()
    notify: NotifySettings = table(NotifySettings)

    rules: ClassVar = (_apart("vim", "link"), _apart("vim", "operator"), _apart("link", "operator"))

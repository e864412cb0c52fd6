"""``[notify]`` of host.toml and agent.toml: who is told of what needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import attrs

from hbtrio.config.rules import Ruled
from hbtrio.config.settings import command, number, path, word
from hbtrio.config.source import Fault


@attrs.frozen(kw_only=True)
class NotifySettings(Ruled):
    """A command, a webhook, both or neither."""

    #: Run for each alert; empty: none.
    command: tuple[str, ...] = command(
        "kind", "severity", "hostname", "uuid", "name", "reason", "state", "time", "json"
    )
    #: Each alert is posted there as JSON; empty: nowhere.
    webhook: str = word("", r"(https?://[^\s/]+(/\S*)?)?", "an http URL, or empty")
    #: A file with the secret that signs the requests.
    secret_file: str = path("", instead=("",))
    #: The CA certificates for an https URL; empty: the system's trust store.
    authority: str = path("", instead=("",))
    timeout_s: float = number(10.0, 0.1, 300, "s")
    per_minute: int = number(20, 1, 1000, "alerts")

    def _of_a_webhook(self) -> Iterator[str]:
        if self.secret_file and not self.webhook:
            yield Fault("secret_file is for a webhook", "secret_file")
        if self.authority and not self.webhook.startswith("https:"):
            yield Fault("authority is for an https webhook", "authority")

    rules: ClassVar = (_of_a_webhook,)

    @property
    def is_on(self) -> bool:
        """Whether anybody is told."""
        return bool(self.command or self.webhook)

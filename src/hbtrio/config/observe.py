"""``[observe]`` of host.toml: where a host shows its state and metrics to those who only look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import attrs

from hbtrio.config.endpoints import is_local, may_listen_at, tls_of_an_api
from hbtrio.config.rules import Ruled
from hbtrio.config.settings import number, path
from hbtrio.config.source import Fault


@attrs.frozen(kw_only=True)
class ObserveSettings(Ruled):
    """The endpoint that only shows: metrics, status, events and history.

    On the loopback all users of the machine may read it; elsewhere TLS is needed, and a token or a
    client certificate with each request.
    """

    #: Empty: there is none.
    listen: str = may_listen_at()
    #: TLS: certificate and key, or neither. With authority a client certificate replaces the token.
    certificate: str = path("", instead=("",))
    key: str = path("", instead=("",))
    authority: str = path("", instead=("",))
    #: A file with the bearer token.
    token_file: str = path("", instead=("",))
    #: For how many instances the metrics have series of their own.
    instance_series: int = number(0, 0, 10_000, "VMs")

    def _whole_tls(self) -> Iterator[str]:
        if self.listen:
            yield from tls_of_an_api(self)

    def _not_open_to_all(self) -> Iterator[str]:
        if self.listen and not (is_local(self.listen) or self.token_file or self.authority):
            yield Fault("listen: token_file or authority is needed for this address", "listen")

    rules: ClassVar = (_whole_tls, _not_open_to_all)

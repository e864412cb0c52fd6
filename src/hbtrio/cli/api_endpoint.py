"""Where a daemon serves one of its APIs, and what is needed to get in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from hbtrio.config.agent import LinkSettings, OperatorSettings, VimSettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.tls_files import TlsFiles, server_files, token_files
from hbtrio.nursery.file_watch import FileWatch


@attrs.frozen
class ApiEndpoint:
    """The endpoint, token and TLS of an API.

    Args:
        endpoint: where it is served.
        token: returns the token; None if there is none.
        tls: its certificates; None without TLS.
    """

    endpoint: Endpoint
    token: Callable[[], str] | None
    tls: TlsFiles | None

    @classmethod
    def of(
        cls,
        file: str,
        table: str,
        settings: VimSettings | OperatorSettings | ObserveSettings,
        watch: FileWatch,
        *,
        optional: bool = False,
    ) -> ApiEndpoint:
        """Reads its files.

        Args:
            file: the configuration file.
            table: its table in it.
            settings: what it says.
            watch: uses the files when they are renewed.
            optional: a client certificate is asked for and not insisted on.

        Raises:
            UserError: one can't be used.
        """
        where = f"{file}: {table}"
        token, tls = None, None
        if settings.token_file:
            token_file = token_files(settings.token_file, f"{where}.token_file")
            watch.add(f"{where}.token_file", token_file)
            token = partial(getattr, token_file, "value")
        if settings.certificate:
            tls = tls_of(where, table, settings, optional=optional)
            watch.add_tls(where, tls)
        return cls(Endpoint.parse(settings.listen), token, tls)


def tls_of(
    where: str,
    table: str,
    files: VimSettings | OperatorSettings | LinkSettings | ObserveSettings,
    *,
    optional: bool = False,
) -> TlsFiles:
    """Reads the certificates that a table names.

    Args:
        where: the configuration file and the table, for faults.
        table: the table.
        files: what it says.
        optional: a client certificate is asked for and not insisted on.

    Raises:
        UserError: one can't be used.
    """
    return server_files(
        where,
        files.certificate,
        files.key,
        files.authority,
        keys=f"{table}.",
        optional=optional,
    )

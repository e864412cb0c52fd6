"""Reads the tokens and certificates of a daemon's APIs."""

from __future__ import annotations

from functools import partial

from hbtrio.config.agent import LinkSettings, OperatorSettings, VimSettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.tls_files import TlsFiles, server_files, token_files
from hbtrio.nursery.file_watch import FileWatch


def api_endpoint(
    file: str,
    table: str,
    settings: VimSettings | OperatorSettings | ObserveSettings,
    watch: FileWatch,
    *,
    optional: bool = False,
) -> ApiEndpoint:
    """Reads the files of an API.

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
    endpoint, listen = Endpoint.parse(settings.listen), Endpoint.listen
    if isinstance(settings, OperatorSettings):
        return ApiEndpoint(
            str(endpoint), partial(listen, endpoint, int(settings.mode, 8)), token, tls
        )
    return ApiEndpoint(str(endpoint), partial(listen, endpoint), token, tls)


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

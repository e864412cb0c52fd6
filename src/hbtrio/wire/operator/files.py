"""The certificates and tokens that a daemon uses, in its status."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hbtrio.wire.operator.words import Body, Time


class CertificateLine(Body, frozen=True, kw_only=True):
    """A certificate of a daemon's configuration: of a chain or authority, what expires first."""

    where: Annotated[str, Meta(description="The key that names its file, as link.certificate.")]
    path: str
    owner: Annotated[str, Meta(description="Its common name, or empty.")] = ""
    expires: Time


class FilesLine(Body, frozen=True, kw_only=True):
    """The certificates and tokens that a daemon uses."""

    certificates: tuple[CertificateLine, ...] = ()
    warnings: Annotated[
        tuple[str, ...], Meta(description="What has expired, or expires within 30 days.")
    ] = ()
    faults: Annotated[
        tuple[str, ...],
        Meta(description="Why renewed files can't be used; the previous ones stay in use."),
    ] = ()

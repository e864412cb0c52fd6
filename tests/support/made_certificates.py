"""Certificates made while a test runs, since they expire soon: with openssl, in a directory."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

_CONFIG = """\
[ca]
default_ca = this
[this]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
policy = any
default_md = sha256
unique_subject = no
[any]
commonName = supplied
"""

_FOR_AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
_FOR_PEER = "basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n"


def in_days(days: float) -> datetime:
    """The moment that many days from now; whole seconds, as certificates have them."""
    return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


@attrs.frozen
class MadePair:
    """A certificate and its key, in files that a renewal replaces."""

    certificate: Path
    key: Path

    @property
    def names(self) -> tuple[str, str]:
        return str(self.certificate), str(self.key)

    def take(self, other: MadePair) -> None:
        """Renews the whole pair: each file is replaced by a rename, as certmonger does it."""
        self.take_certificate(other)
        _replace(other.key, self.key)

    def take_certificate(self, other: MadePair) -> None:
        """Renews the certificate and leaves the key: a renewal that is half done."""
        _replace(other.certificate, self.certificate)


def _replace(source: Path, target: Path) -> None:
    fresh = target.with_name(f"{target.name}.fresh")
    shutil.copy(source, fresh)
    fresh.rename(target)


@attrs.frozen
class MadeAuthority:
    """An authority that signs certificates."""

    folder: Path
    pair: MadePair

    @classmethod
    def make(cls, folder: Path, name: str = "authority", days: float = 3650) -> MadeAuthority:
        """Makes one in a directory, which must be empty or missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.conf").write_text(_CONFIG.format(folder=folder))
        (folder / "index").touch()
        authority = cls(folder, MadePair(folder / f"{name}.pem", folder / f"{name}.key"))
        authority._sign(authority.pair, name, in_days(days), _FOR_AUTHORITY, "-selfsign")
        return authority

    @property
    def file(self) -> str:
        return str(self.pair.certificate)

    def write_to(self, file: Path) -> None:
        """Makes it the one that this file trusts."""
        shutil.copy(self.pair.certificate, file)

    def issue(
        self, file: str, owner: str, expires: datetime, names: str = "IP:127.0.0.1"
    ) -> MadePair:
        """Issues a certificate in files of this name."""
        pair = MadePair(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        self._sign(pair, owner, expires, _FOR_PEER.format(names=names))
        return pair

    def host(self, name: str, days: float, file: str = "") -> MadePair:
        """Issues the certificate of a host."""
        return self.issue(file or name, name, in_days(days), f"DNS:{name}")

    def agent(self, days: float, file: str = "agent") -> MadePair:
        """Issues the certificate of an agent on the loopback."""
        return self.issue(file, "controller-0", in_days(days))

    def _sign(self, pair: MadePair, owner: str, expires: datetime, kind: str, *how: str) -> None:
        request, extensions = self.folder / "request", self.folder / "extensions"
        extensions.write_text(kind)
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        _openssl(
            *("req", "-new", *curve, "-subj", f"/CN={owner}"),
            *("-keyout", str(pair.key), "-out", str(request)),
        )
        keys = ("-keyfile", str(self.pair.key))
        issuer = how or ("-cert", str(self.pair.certificate))
        _openssl(
            *("ca", "-batch", "-notext", "-config", str(self.folder / "ca.conf")),
            *("-startdate", "20200101000000Z", "-enddate", f"{expires:%Y%m%d%H%M%SZ}"),
            *("-in", str(request), "-extfile", str(extensions)),
            *("-out", str(pair.certificate), *keys, *issuer),
        )

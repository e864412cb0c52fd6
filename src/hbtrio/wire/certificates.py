"""Reads from certificates in PEM whose they are and when they expire.

Python's ssl decodes the certificates of peers and authorities, but not those that a process shows
itself. Nothing is verified here: that is OpenSSL's task, which loads the same files.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import attrs

#: Certificates read from one file, at most: several times those of a system's trust store.
MOST: Final = 1000

_BEGIN: Final = re.compile("-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_END: Final = "-----END"

# Tags of DER (X.690).
_INTEGER: Final = 0x02
_OID: Final = 0x06
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_VERSION: Final = 0xA0

#: The object identifier 2.5.4.3, commonName.
_COMMON_NAME: Final = b"\x55\x04\x03"


@attrs.frozen
class Certificate:
    """A certificate's owner, "" if it has no common name, and the moment when it expires."""

    owner: str
    expires: datetime


def certificates_in(pem: str) -> list[Certificate]:
    """Returns the certificates in a PEM text, in its order; ``MOST`` at most.

    One that can't be decoded is left out.
    """
    found: list[Certificate] = []
    for block in _blocks(pem):
        if len(found) == MOST:
            break
        try:
            found.append(_decode(binascii.a2b_base64(block)))
        except (ValueError, IndexError):  # binascii.Error is a ValueError
            continue
    return found


def _blocks(pem: str) -> Iterator[str]:
    # Not one regular expression for both ends: where no end follows, each beginning would be
    # searched to the end of the file.
    at = 0
    while begin := _BEGIN.search(pem, at):
        end = pem.find(_END, begin.end())
        if end < 0:
            return
        yield pem[begin.end() : end]
        at = end


def _decode(der: bytes) -> Certificate:
    # RFC 5280, 4.1: the version is optional, what comes before the validity has a fixed order.
    (_, certificate), *_ = _items(der)
    (_, body), *_ = _items(certificate)
    fields = list(_items(body))
    if fields[0][0] == _VERSION:
        del fields[0]
    tags = [tag for tag, _ in fields[:5]]
    if tags != [_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE]:
        raise ValueError("not a certificate")
    _, not_after = list(_items(fields[3][1]))
    return Certificate(_common_name(fields[4][1]), _time(*not_after))


def _common_name(name: bytes) -> str:
    for kind, part in _items(name):
        for _, pair in _items(part) if kind == _SET else ():
            (tag, oid), (_, value) = _items(pair)
            if tag == _OID and oid == _COMMON_NAME:
                return value.decode("utf-8", "replace")
    return ""


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280, 4.1.2.5.1: two digits from 50 on are of the twentieth century.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the tags and contents of consecutive DER values.

    Raises:
        ValueError, IndexError: the bytes end too early.
    """
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length >= 0x80:
            size = length - 0x80
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("cut short")
        yield tag, der[at : at + length]
        at += length

"""What is read from certificates: real ones of openssl, of all kinds, and hostile bytes."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.wire.certificates import MOST, Certificate, certificates_in
from support.certificates import HERE
from support.made_certificates import MadeAuthority


def pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


AGENT = (HERE / "agent.pem").read_text()
DER = ssl.PEM_cert_to_DER_cert(AGENT)
IN_2120 = datetime(2120, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("file", sorted(one.stem for one in HERE.glob("*.pem")))
def test_the_certificates_of_the_tests(file: str) -> None:
    (found,) = certificates_in((HERE / f"{file}.pem").read_text())
    assert found.expires == IN_2120
    assert found.owner


def test_a_chain_in_its_order() -> None:
    text = AGENT + "a remark\n" + (HERE / "authority.pem").read_text()
    assert certificates_in(text) == [
        Certificate("agent", IN_2120),
        Certificate("authority", IN_2120),
    ]


def test_as_many_as_are_read() -> None:
    assert len(certificates_in(AGENT * (MOST + 1))) == MOST


@pytest.mark.parametrize(
    "expires",
    [
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),  # the last that has a year of two digits
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 1, 2, 3, tzinfo=UTC),
    ],
)
def test_a_moment_as_openssl_writes_it(tmp_path: Path, expires: datetime) -> None:
    pair = MadeAuthority.make(tmp_path).issue("one", "compute-0", expires)
    text = pair.certificate.read_text()
    assert certificates_in(text) == [Certificate("compute-0", expires)]


def test_what_the_system_trusts() -> None:
    file = ssl.get_default_verify_paths().cafile
    if file is None:
        pytest.skip("this system has no file of authorities")
    text = Path(file).read_text()
    assert len(certificates_in(text)) == text.count("-BEGIN CERTIFICATE-")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n",
        AGENT.replace("CERTIFICATE", "PRIVATE KEY"),
        AGENT[: len(AGENT) // 2],
    ],
)
def test_what_is_none(text: str) -> None:
    assert certificates_in(text) == []


def test_beginnings_without_an_end_take_no_longer_than_the_file() -> None:
    # Each of them used to be searched to the end of the file: a minute for these.
    assert certificates_in("-----BEGIN CERTIFICATE-----" * 40_000) == []


def test_one_that_is_damaged_does_not_hide_the_next() -> None:
    assert certificates_in(pem(DER[:100]) + AGENT) == [Certificate("agent", IN_2120)]


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_a_damaged_byte(at: int, value: int) -> None:
    certificates_in(pem(DER[:at] + bytes([value]) + DER[at + 1 :]))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    certificates_in(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")

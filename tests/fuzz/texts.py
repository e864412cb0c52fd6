"""What must hold for files, arguments, times, names and other texts."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fuzz.draw import Draw, text_of
from hbtrio.api.expiry import begin_by
from hbtrio.cli import Parser
from hbtrio.cli.ctl.arguments import add_arguments
from hbtrio.cli.ctl.names import bracketed
from hbtrio.cli.ctl.times import clock, moment, stamp
from hbtrio.client.address import Address
from hbtrio.config.agent import AgentConfig
from hbtrio.config.expansion import expand
from hbtrio.config.guest import parse_guest_config
from hbtrio.config.host import GivenCommand, HostConfig
from hbtrio.config.toml import parse_toml
from hbtrio.errors import ConfigError, UserError
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.token_file import checked_token
from hbtrio.nursery.host.discovery import NamePattern, NameReader
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.simulate import schedule_file
from hbtrio.text import as_argument, blanked, printable, printable_json, printable_lines
from hbtrio.wire.certificates import certificates_in
from hbtrio.wire.operator import EventFilter, FilterFault

#: The most faults of one file, and the line that says how many more there are.
_FAULTS: Final = 51


def _config(data: bytes, parse: Callable[[str], object]) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return  # read_source() refuses it
    try:
        parse(text)
    except ConfigError as error:
        assert 0 < len(error.faults) <= _FAULTS
        for fault in error.faults:
            assert fault.isprintable(), fault
            assert len(fault) < 2000, len(fault)


def host_config(data: bytes) -> None:
    """host.toml raises a ConfigError of printable lines, or is a configuration."""
    _config(data, lambda text: parse_toml(text, HostConfig, "host.toml"))


def agent_config(data: bytes) -> None:
    """agent.toml raises a ConfigError of printable lines, or is a configuration."""
    _config(data, lambda text: parse_toml(text, AgentConfig, "agent.toml"))


def guest_config(data: bytes) -> None:
    """guest_heartbeat.conf raises a ConfigError of printable lines, or is a configuration."""
    _config(data, lambda text: parse_guest_config(text, "guest.conf"))


def certificates(data: bytes) -> None:
    """Any file has certificates, or none."""
    # As net/tls_files.py opens it.
    for found in certificates_in(data.decode("ascii", "replace")):
        assert found.expires.tzinfo is not None


def times(data: bytes) -> None:
    """Any text is a time, or is shown as it is."""
    text = data.decode("utf-8", "replace")
    for shown in (moment(text), stamp(text), clock(text)):
        assert len(shown) <= max(len(text), 40)


def event_filters(data: bytes) -> None:
    """A query names the fault of its time, or is a filter that survives a URL."""
    try:
        wanted = EventFilter.of_query(dict(parse_qsl(data.decode("utf-8", "replace"))))
    except FilterFault as fault:
        assert str(fault).isprintable()
        return
    assert EventFilter.of_query(dict(parse_qsl(urlencode(wanted.as_query())))) == wanted
    assert wanted.takes(uuid="", kind="lost", time="", who="")


def fault_schedules(data: bytes) -> None:
    """A file of faults has one fault on one line, or is a schedule that is written and read."""
    try:
        schedule = schedule_file.from_text(data.decode("utf-8", "replace"), "it")
    except UserError as error:
        assert str(error).isprintable()
        return
    assert schedule_file.from_text(schedule_file.to_text(schedule), "it") == schedule


_CTL: Final = Parser(prog="hbtrio ctl")
add_arguments(_CTL)


def arguments(data: bytes) -> None:
    """Any command line raises a UserError, prints the help, or is understood."""
    words = [text_of(word) for word in data.split(b"\0") if b"\n" not in word]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            options = _CTL.parse_args(words)
        except UserError as error:
            printable(str(error)).encode()
        except SystemExit as end:
            assert end.code == 0  # --help
        else:
            assert options.command


def addresses(data: bytes) -> None:
    """An argument or a key raises a UserError of one line, or is an address or an endpoint."""
    text = text_of(data)
    with contextlib.suppress(UserError):
        address = Address.parse(text)
        assert address.text.isprintable()
        assert address.is_private in (True, False)
    with contextlib.suppress(UserError):
        endpoint = Endpoint.parse(text)
        assert Endpoint.parse(str(endpoint)) == endpoint


def tokens(data: bytes) -> None:
    """A file raises a UserError that doesn't show its text, or has a token fit for a header."""
    text = data.decode("ascii", "replace")
    try:
        token = checked_token(text, "token")
    except UserError as error:
        assert len(str(error)) < 200
    else:
        assert token.isascii()
        assert not set(token) & set("\r\n\0 ")


def begin_by_headers(data: bytes) -> None:
    """A header raises HTTP's 400, or is a moment."""
    headers = [(b"hbtrio-begin-by", data)]
    request = Request({"type": "http", "headers": headers})
    try:
        bound = begin_by(request, ProcessClock(lambda: 1.0, "boot"))
    except HTTPException as error:
        assert error.status_code == 400
        assert error.detail.isprintable()
    else:
        assert bound.left_s == bound.left_s  # not NaN


def channel_names(data: bytes) -> None:
    """Any file names are channels of well-formed uuids, or are none."""
    patterns = [NamePattern("cgcs.heartbeat.{uuid}.sock"), NamePattern("{uuid}")]
    names = {text_of(name): at for at, name in enumerate(data.split(b"\0"))}
    reading = NameReader(patterns, memory=100).read(names)
    for uuid, (_, name, inode) in reading.places.items():
        assert len(uuid) == 36
        assert uuid == uuid.lower()
        assert names[name] == inode


def shown_texts(data: bytes) -> None:
    """Any text is fit for a terminal, a log, JSON and a command, once it has passed."""
    text = data.decode("utf-8", "replace")
    for line in (printable(text), blanked(text), bracketed(text)):
        assert line.isprintable()
    assert printable_lines(text).replace("\n", "").isprintable()
    argument = as_argument(text)
    assert argument.isprintable()
    assert not argument.startswith("-")
    value = json.dumps(text, ensure_ascii=False).encode()
    escaped = printable_json(value)
    assert escaped.decode().isprintable()
    assert json.loads(escaped) == text


def commands(data: bytes) -> None:
    """An agent's command raises a ValueError, or keeps its program and the number of arguments."""
    draw = Draw(data)
    uuid = draw.text()
    argv = tuple(draw.text() for _ in range(draw.number(0, 65)))
    try:
        GivenCommand(argv)
    except ValueError as error:
        assert str(error).isprintable()
        return
    run = expand(argv, uuid=uuid)
    assert run[:1] == expand(argv[:1])
    assert len(run) == len(argv)

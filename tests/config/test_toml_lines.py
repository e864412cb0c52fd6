"""The lines of faults: of every kind of key and fault, and of all keys of generated documents."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.config.agent import AgentConfig
from hbtrio.config.host import HostConfig
from hbtrio.config.source import LIMIT_BYTES
from hbtrio.config.toml import structure
from hbtrio.config.toml_lines import find_places
from hbtrio.errors import ConfigError
from support.config_faults import faults_in
from support.growth import TIMES, assert_linear

KeyPath = tuple[str | int, ...]

HOST = """\
log = "journal"  # a wrong word
channel_dir = '''
/a'''            # a string that goes on
"hostname" = 3
heartbeat.rescan_s = "5"
"heartbeat" . 'grace_s' = -1

[limits] # a comment with [brackets] and = signs
channels = 0
"line_\\u0062ytes" = 1
bytes_pers = 1
[corrective-commands]
reboot = [
    "virsh", # the program
    "{UUID}",
    '{uuid}', [ "nested" ],
]
log = ["logger",
    "{UUID}"]
[brake]
share = { over = 1 }
[[actions]]
stop = ["a"]
[[actions]]
[instances."web-*"]
wach = false
[instances]
"db ]=#" = { watch = true, grace_s = 1e9 }
b = { per_hour = 0 }
[instances.'x[']
"""


def test_every_kind_of_place() -> None:
    assert faults_in(HOST, HostConfig, "host.toml") == [
        "host.toml:4: hostname: must be a string, got 3",
        'host.toml:1: log: must be one of stderr, syslog, got "journal"',
        'host.toml:5: heartbeat.rescan_s: must be a number, got "5"',
        "host.toml:6: heartbeat.grace_s: must be 0 to 86400 s, got -1.0",
        "host.toml:10: limits.line_bytes: must be 1056 to 65536 bytes, got 1",
        "host.toml:9: limits.channels: must be 1 to 100000 VMs, got 0",
        "host.toml:11: limits.bytes_pers: unknown key, did you mean bytes_per_s?",
        'host.toml:30: instances: "x[": is no glob: a [ without its ]; write [[] for the character',
        'host.toml:26: instances."web-*".wach: unknown key, did you mean watch?',
        'host.toml:28: instances."db ]=#".grace_s: must be 0 to 86400 s, got 1000000000.0',
        "host.toml:29: instances.b.per_hour: must be 1 to 3600 per VM and hour, got 0",
        "host.toml:16: corrective-commands.reboot: item 4: must be a string, got a list",
        "host.toml:19: corrective-commands.log: item 2: unknown placeholder {UUID}, expected "
        "{uuid}, {reason}, {action}, {state}; write {{UUID}} for a literal {UUID}",
        "host.toml:21: brake.share: must be a number, got a table",
        "host.toml:22: actions: must be a table, got a list",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # A rule names the first of its keys that stands in the file,
        (
            'channel_dir = "/"\nchannel_patterns = [\n"{uuid}%s"]' % ("x" * 90),
            "host.toml:1: channel_dir and channel_patterns make a path",
        ),
        (
            'channel_patterns = [\n"{uuid}%s"]' % ("x" * 90),
            "host.toml:1: channel_dir and channel_patterns make a path",
        ),
        (
            "[heartbeat]\n\ninterval_max_ms = 400\ninterval_min_ms = 500",
            "host.toml:4: heartbeat: interval_min_ms (500)",
        ),
        (
            '[control]\nact = ["a",\n"b"]\nlook = [\n"c",\n"b",\n]',
            'host.toml:6: control: look: "b" is in act too',
        ),
        (
            '[libvirt]\nenabled = "off"\nmetadata = true',
            "host.toml:3: libvirt: metadata: is libvirt's",
        ),
        (
            '[instances]\n[instances."web.1"]\n[libvirt]\nenabled = "off"',
            'host.toml:2: instances: "web.1": libvirt knows the names',
        ),
        (
            '[agent]\nkey = "/k"\nconnect = "unix:/x"',
            "host.toml:2: agent: certificate, key and authority go together",
        ),
        ('[agent]\n\nconnect = "tcp:a:1"', "host.toml:3: agent: connect: certificate, key"),
        ('[observe]\n\nlisten = "tcp:a:1"', "host.toml:3: observe: listen: token_file"),
        ('[notify]\nsecret_file = "/s"', "host.toml:2: notify: secret_file is for a webhook"),
        ('[notify]\nauthority = "/s"', "host.toml:2: notify: authority is for an https webhook"),
        # also if another key of the table is faulty.
        (
            "[heartbeat]\nrescan_s = 0\ninterval_min_ms = 500\ninterval_max_ms = 400",
            "host.toml:3: heartbeat: interval_min_ms (500)",
        ),
        ("\r\n[brake]\r\nshare = 7\r\n", "host.toml:3: brake.share: must be over 0"),
        ("[a.b]\n[a]\n[brake]\n", "host.toml:2: a: unknown key"),
        ("[brake.share]\n", "host.toml:1: brake.share: must be a number, got a table"),
        ('"a b\\n" = 1', 'host.toml:1: "a b\\n": unknown key'),
        ('"" = 1', 'host.toml:1: "": unknown key'),
    ],
)
def test_the_line_of_a_fault(text: str, fault: str) -> None:
    assert faults_in(text, HostConfig, "host.toml")[-1].startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[vim]\nlisten = "tcp:127.0.0.1:1"\n[link]\nlisten = "tcp:127.0.0.1:1"',
            "agent.toml:2: vim.listen and link.listen",
        ),
        # One of them is a default.
        ('[link]\nlisten = "tcp:0.0.0.0:2410"', "agent.toml:2: vim.listen and link.listen"),
        ('[vim]\nurl_authority = "/a"', "agent.toml:2: vim: url_authority is for an https url"),
        ('[link]\n\nlisten = "tcp:a:1"', "agent.toml:3: link: listen: certificate, key"),
        ('[link]\n\nkey = "/k"', "agent.toml:3: link: certificate, key and authority go"),
        ('[operator]\n\nkey = "/k"', "agent.toml:3: operator: certificate and key go together"),
        ('[operator]\n\nauthority = "/k"', "agent.toml:3: operator: authority needs certificate"),
        (
            '[operator]\n\ncertificate = "/c"\nkey = "/k"',
            "agent.toml:3: operator: certificate and key are for tcp",
        ),
    ],
)
def test_the_line_of_an_agents_fault(text: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults_in(text, AgentConfig, "agent.toml"))


def test_what_is_no_toml_has_no_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        structure({"log": 1}, HostConfig, "body")
    assert caught.value.faults == ["body: log: must be a string, got 1"]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "".join(f"k{i} = {'[' * 99}{']' * 99}\n" for i in range(n // 200)),
        lambda n: "".join(f"k{i} = {'{ a = ' * 99}1{'}' * 99}\n" for i in range(n // 700)),
        lambda n: "".join(f"k{i} = 1\n" for i in range(n // 10)),
        lambda n: "a = [" + "1,\n" * (n // 3) + "]",
        lambda n: 'a = """' + '""\n' * (n // 3) + '"""',
        lambda n: "a = '''" + "''\n" * (n // 3) + "'''",
        lambda n: "#" * n,
        lambda n: "".join(f"[a{i}.{'.'.join('b' * 99)}]\n" for i in range(n // 200)),
    ],
)
def test_long_texts_cost_no_more_than_their_length(make: Callable[[int], str]) -> None:
    tomllib.loads(make(LIMIT_BYTES))
    assert_linear(make, find_places, LIMIT_BYTES // TIMES)


# -- generated documents ---------------------------------------------------------------------------

KEYS = ("a", "key", "a.b", "ä", " ", "#", "]", "=", '"', "\\", "'", "[", "{", "\t", "true")
VALUES = (
    "1",
    "-1.5e3",
    "true",
    "inf",
    "1979-05-27 07:32:00",
    '""',
    '"# = [ \\" \\\\"',
    "'# = { \\'",
    '"""\n"quoted""\n \\""" # ] \\\n  """',
    '"""a"""""',
    "'''\n'# [\n''''",
)
GAPS = ("", " ", "\n", ' # ] , \' """\n\t')


class Document:
    """Writes TOML, and notes on which line each key and item stands."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._keys = 0
        self.text = ""
        self.lines: dict[KeyPath, int] = {}
        self._body(())
        for _ in range(draw(st.integers(0, 3))):
            draw(st.sampled_from([self._table, self._implied_table, self._list_of_tables]))()

    def _one_of(self, *texts: str) -> None:
        self.text += self._draw(st.sampled_from(texts))

    def _note(self, path: KeyPath) -> None:
        self.lines[path] = self.text.count("\n") + 1

    def _new_key(self) -> str:
        self._keys += 1
        return self._draw(st.sampled_from(KEYS)) + str(self._keys)

    def _write_key(self, key: str) -> None:
        bare = [key] if key.isalnum() and key.isascii() else []
        literal = [f"'{key}'"] if "'" not in key else []
        self._one_of(json.dumps(key), *bare, *literal)

    def _dotted(self, above: KeyPath, *keys: str) -> KeyPath:
        for number, key in enumerate(keys):
            if number:
                self._one_of(".", " . ")
            self._write_key(key)
            above = (*above, key)
        return above

    def _entry(self, table: KeyPath, depth: int) -> None:
        keys = [self._new_key() for _ in range(self._draw(st.integers(1, 3)))]
        for number in range(len(keys)):
            self._note((*table, *keys[: number + 1]))
        path = self._dotted(table, *keys)
        self._one_of("=", " = ", "\t=\t")
        self._value(path, depth)

    def _value(self, path: KeyPath, depth: int) -> None:
        kind = self._draw(st.sampled_from(["plain", "list", "table"] if depth else ["plain"]))
        if kind == "plain":
            self._one_of(*VALUES)
            return
        opening, closing, gaps = ("[", "]", GAPS) if kind == "list" else ("{", "}", ("", " "))
        self.text += opening
        for number in range(self._draw(st.integers(0, 3))):
            self.text += "," if number else ""
            self._one_of(*gaps)
            if kind == "list":
                self._note((*path, number))
                self._value((*path, number), depth - 1)
            else:
                self._entry(path, depth - 1)
            self._one_of(*gaps)
        self._one_of(*gaps)
        self.text += closing

    def _body(self, table: KeyPath) -> None:
        for _ in range(self._draw(st.integers(0, 3))):
            self._one_of("", "\n", "# k = [1\n", "  ")
            self._entry(table, 2)
            self._one_of("\n", " # x = '''\n", "\n\n")

    def _header(self, opening: str, keys: tuple[str, ...], closing: str, path: KeyPath) -> None:
        self._note(path)
        self.text += opening
        self._dotted((), *keys)
        self.text += closing
        self._one_of("\n", " # ]\n", "\n\n")
        self._body(path)

    def _table(self) -> None:
        key = self._new_key()
        self._header("[", (key,), " ]", (key,))

    def _implied_table(self) -> None:
        above, below = self._new_key(), self._new_key()
        self._note((above,))
        self._header("[ ", (above, below), "]", (above, below))
        if self._draw(st.booleans()):
            self._header("[", (above,), "]", (above,))

    def _list_of_tables(self) -> None:
        key = self._new_key()
        first = self.text.count("\n") + 1
        for number in range(self._draw(st.integers(1, 3))):
            self._header("[[", (key,), "]]", (key, number))
            if self._draw(st.booleans()):
                below = self._new_key()
                self._header("[", (key, below), "]", (key, number, below))
        self.lines[key,] = first


def paths_in(value: Any) -> set[KeyPath]:
    below: Any = ()
    if isinstance(value, dict):
        below = value.items()
    elif isinstance(value, list):
        below = enumerate(value)
    found: set[KeyPath] = set()
    for key, inner in below:
        found |= {(key,), *((key, *path) for path in paths_in(inner))}
    return found


@given(st.data(), st.booleans())
def test_each_key_is_found_on_its_line(data: st.DataObject, crlf: bool) -> None:
    document = Document(data.draw)
    text = document.text.replace("\n", "\r\n") if crlf else document.text
    assert paths_in(tomllib.loads(text)) == set(document.lines)
    places = find_places(text)
    assert {path: places.line_of(path) for path in document.lines} == document.lines
    assert {path: places.exact_line_of(path) for path in document.lines} == document.lines
    for path, line in document.lines.items():
        assert places.line_of((*path, "none", 0)) == line
        assert places.exact_line_of((*path, "none")) == 0

"""agent.toml: defaults, every key, faults with their paths, and what goes together."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import attrs
import pytest

from hbtrio.config.agent import (
    AgentConfig,
    LinkSettings,
    OperatorSettings,
    StoreSettings,
    VimSettings,
)
from hbtrio.config.host import BrakeSettings
from hbtrio.config.toml import load_toml, parse_toml
from hbtrio.errors import ConfigError
from support.config_faults import faults_in, without_lines

TLS = 'certificate = "/c"\nkey = "/k"\nauthority = "/a"\n'


def parse(text: str) -> AgentConfig:
    return parse_toml(text, AgentConfig, "agent.toml")


def faults_of(text: str) -> list[str]:
    return without_lines(faults_in(text, AgentConfig, "agent.toml"))


def test_defaults() -> None:
    config = AgentConfig(
        name="",
        log="stderr",
        log_level="info",
        vim=VimSettings(
            listen="tcp:127.0.0.1:2410",
            certificate="",
            key="",
            authority="",
            token_file="",
            url="http://127.0.0.1:30002",
            url_authority="",
            audit_s=10,
            at_once=32,
        ),
        link=LinkSettings(
            listen="unix:/run/hbtrio/agent.link",
            grace_s=30,
            certificate="",
            key="",
            authority="",
        ),
        operator=OperatorSettings(
            listen="unix:/run/hbtrio/agent.sock",
            mode="0660",
            certificate="",
            key="",
            authority="",
            token_file="",
        ),
        store=StoreSettings(file="/var/lib/hbtrio/agent.db", history_days=30),
        brake=BrakeSettings(share=0.5, minimum=3),
    )
    assert parse("") == AgentConfig() == config


def test_everything_set() -> None:
    config = parse(
        """
        name = "controller-1"
        log = "syslog"
        log_level = "debug"
        [vim]
        listen = "tcp:0.0.0.0:2410"
        certificate = "/vc"
        key = "/vk"
        authority = "/va"
        token_file = "/vt"
        url = "https://vim.example:30002"
        url_authority = "/vu"
        audit_s = 1.5
        at_once = 60
        [link]
        listen = "tcp:[2001:db8::1]:2411"
        grace_s = 1
        certificate = "/c"
        key = "/k"
        authority = "/a"
        [operator]
        listen = "tcp:controller:65535"
        mode = "600"
        certificate = "/oc"
        key = "/ok"
        authority = "/oa"
        token_file = "/t"
        [store]
        file = "/s"
        history_days = 0.5
        [brake]
        share = 1
        minimum = 1
        """
    )
    assert config == AgentConfig(
        name="controller-1",
        log="syslog",
        log_level="debug",
        vim=VimSettings(
            listen="tcp:0.0.0.0:2410",
            certificate="/vc",
            key="/vk",
            authority="/va",
            token_file="/vt",
            url="https://vim.example:30002",
            url_authority="/vu",
            audit_s=1.5,
            at_once=60,
        ),
        link=LinkSettings(
            listen="tcp:[2001:db8::1]:2411",
            grace_s=1,
            certificate="/c",
            key="/k",
            authority="/a",
        ),
        operator=OperatorSettings(
            listen="tcp:controller:65535",
            mode="600",
            certificate="/oc",
            key="/ok",
            authority="/oa",
            token_file="/t",
        ),
        store=StoreSettings(file="/s", history_days=0.5),
        brake=BrakeSettings(share=1, minimum=1),
    )


def test_all_faults_at_once() -> None:
    assert faults_of(
        """
        nmae = "x"
        log = "nowhere"
        [vim]
        listen = "tcp:0.0.0.0"
        certificate = "pem"
        url = "ftp://x"
        audit_s = 0
        at_once = 61
        [link]
        listen = "udp:x"
        grace_s = "30"
        [operator]
        listen = "tcp:controller:0"
        mode = "999"
        token_file = "token"
        [store]
        file = "agent.db"
        history_days = 0
        [brake]
        share = 0
        """
    ) == [
        'agent.toml: log: must be one of stderr, syslog, got "nowhere"',
        'agent.toml: vim.listen: must be unix:/PATH or tcp:HOST:PORT, got "tcp:0.0.0.0"',
        'agent.toml: vim.certificate: must be an absolute path, got "pem"',
        'agent.toml: vim.url: must be an http URL, or empty, got "ftp://x"',
        "agent.toml: vim.audit_s: must be 1 to 3600 s, got 0.0",
        "agent.toml: vim.at_once: must be 6 to 60 requests, got 61",
        'agent.toml: link.listen: must be unix:/PATH or tcp:HOST:PORT, got "udp:x"',
        'agent.toml: link.grace_s: must be a number, got "30"',
        "agent.toml: operator.listen: the port must be 1 to 65535, got 0",
        'agent.toml: operator.mode: must be three octal digits in quotes, got "999"',
        'agent.toml: operator.token_file: must be an absolute path, got "token"',
        'agent.toml: store.file: must be an absolute path, got "agent.db"',
        "agent.toml: store.history_days: must be 0.01 to 3650 days, got 0.0",
        "agent.toml: brake.share: must be over 0 and at most 1, got 0.0",
        "agent.toml: nmae: unknown key, did you mean name?",
    ]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u@a,b:5433/hb?sslmode=verify-full", "postgresql://a,b:5433/hb"),
        ("postgresql://a", "postgresql://a"),
        ("postgresql://[2001:db8::1]:5432/hb", "postgresql://[2001:db8::1]:5432/hb"),
        ("postgresql:///hb?host=/run/postgresql", "postgresql:///hb"),
    ],
)
def test_a_database_instead_of_the_file(url: str, place: str) -> None:
    assert parse(f'[store]\nurl = "{url}"').store.place == place
    assert parse('[store]\nfile = "/s"').store.place == "/s"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgres://a/b", 'must be a postgresql URL, or empty, got "postgres://a/b"'),
        ("/var/lib/x", 'must be a postgresql URL, or empty, got "/var/lib/x"'),
        ("postgresql://a b/c", 'must be a postgresql URL, or empty, got "postgresql://a b/c"'),
        ("postgresql://u:secret@a/b", None),
        ("postgresql://u@a/b?sslmode=require&password=secret", None),
    ],
)
def test_urls_that_are_none_or_have_a_secret(url: str, fault: str | None) -> None:
    secret = "agent.toml: store: url: no password here; passfile=PATH names a file with it"
    expected = f"agent.toml: store.url: {fault}" if fault else secret
    assert faults_of(f'[store]\nurl = "{url}"') == [expected]


@pytest.mark.parametrize("left_out", ["certificate", "key", "authority"])
def test_tls_is_all_three_or_none(left_out: str) -> None:
    lines = [line for line in TLS.splitlines() if not line.startswith(left_out)]
    fault = "agent.toml: link: certificate, key and authority go together"
    assert faults_of("[link]\n" + "\n".join(lines)) == [fault]
    assert parse(f'[link]\nlisten = "tcp:x:1"\n{TLS}').link.authority == "/a"
    assert faults_of(f"[link]\n{TLS}") == [
        "agent.toml: link: certificate, key and authority are for tcp, not for a unix socket"
    ]


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("unix:/run/x", True),
        ("tcp:127.0.0.1:1", True),
        ("tcp:[::1]:65535", True),
        ("tcp:localhost:2411", True),
        ("tcp:127.0.0.2:2411", False),
        ("tcp:0.0.0.0:2411", False),
        ("tcp:[::]:2411", False),
        ("tcp:localhost.example:2411", False),
        ("tcp:controller:2411", False),
    ],
)
def test_other_machines_need_tls(listen: str, local: bool) -> None:
    text = f'[link]\nlisten = "{listen}"\n'
    if listen.startswith("tcp:"):
        assert parse(text + TLS).link.listen == listen
    if local:
        assert parse(text).link.listen == listen
        assert parse(f'[vim]\nlisten = "{listen}"\n').vim.listen == listen
        assert parse(f'[operator]\nlisten = "{listen}"\n').operator.listen == listen
    else:
        assert faults_of(text) == [
            "agent.toml: link: listen: certificate, key and authority are needed for this address"
        ]
        for api, permission in (("vim", "token_file"), ("operator", "token_file or authority")):
            fault = f"agent.toml: {api}: listen: certificate and key are needed for this address"
            needed = f"listen: {permission} is needed for this address"
            text = f'[{api}]\nlisten = "{listen}"\n'
            assert faults_of(text) == [fault, f"agent.toml: {api}: {needed}"]
            assert faults_of(f'{text}token_file = "/t"\n') == [fault]
            text += 'certificate = "/c"\nkey = "/k"\n'
            assert faults_of(text) == [f"agent.toml: {api}: {needed}"]
            assert getattr(parse(f'{text}token_file = "/t"\n'), api).listen == listen
        # To the VIM a certificate is not instead of a token.
        assert parse(f'[operator]\nlisten = "{listen}"\n{TLS}').operator.authority == "/a"
        assert faults_of(f'[vim]\nlisten = "{listen}"\n{TLS}') == [
            "agent.toml: vim: listen: token_file is needed for this address"
        ]


@pytest.mark.parametrize("api", ["vim", "operator"])
@pytest.mark.parametrize(
    ("listen", "tls", "fault"),
    [
        ("tcp:127.0.0.1:1", 'certificate = "/c"', "certificate and key go together"),
        ("tcp:127.0.0.1:1", 'key = "/k"', "certificate and key go together"),
        ("tcp:0.0.0.0:1", 'key = "/k"\nauthority = "/a"', "certificate and key go together"),
        ("tcp:127.0.0.1:1", 'authority = "/a"', "authority needs certificate and key"),
        ("unix:/x", 'authority = "/a"', "authority needs certificate and key"),
        ("unix:/x", TLS, "certificate and key are for tcp, not for a unix socket"),
        ("tcp:127.0.0.1:1", 'certificate = "/c"\nkey = "/k"', None),
        ("tcp:[::1]:1", TLS, None),
    ],
)
def test_tls_of_an_api(api: str, listen: str, tls: str, fault: str | None) -> None:
    text = f'[{api}]\nlisten = "{listen}"\ntoken_file = "/t"\n{tls}\n'
    if fault is None:
        assert getattr(parse(text), api).certificate == "/c"
    else:
        assert faults_of(text) == [f"agent.toml: {api}: {fault}"]


def test_faults_of_several_tables_at_once() -> None:
    assert faults_of(
        """
        [vim]
        listen = "tcp:0.0.0.0:2410"
        url_authority = "/u"
        [link]
        listen = "tcp:0.0.0.0:2411"
        [operator]
        listen = "tcp:0.0.0.0:2412"
        key = "/k"
        """
    ) == [
        "agent.toml: vim: listen: certificate and key are needed for this address",
        "agent.toml: vim: listen: token_file is needed for this address",
        "agent.toml: vim: url_authority is for an https url",
        "agent.toml: link: listen: certificate, key and authority are needed for this address",
        "agent.toml: operator: certificate and key go together",
        "agent.toml: operator: listen: token_file or authority is needed for this address",
    ]


def test_a_faulty_key_does_not_hide_what_does_not_go_together() -> None:
    assert faults_of(
        """
        [vim]
        listen = "tcp:0.0.0.0:2410"
        url_authority = "/u"
        audit_s = 0
        [link]
        listen = "tcp:0.0.0.0:2410"
        grace_s = 0
        [operator]
        listen = "unix:/x"
        mode = "999"
        certificate = "/c"
        toke_file = "/t"
        """
    ) == [
        "agent.toml: vim.audit_s: must be 1 to 3600 s, got 0.0",
        "agent.toml: vim: listen: certificate and key are needed for this address",
        "agent.toml: vim: listen: token_file is needed for this address",
        "agent.toml: vim: url_authority is for an https url",
        "agent.toml: link.grace_s: must be 1 to 3600 s, got 0.0",
        "agent.toml: link: listen: certificate, key and authority are needed for this address",
        'agent.toml: operator.mode: must be three octal digits in quotes, got "999"',
        "agent.toml: operator.toke_file: unknown key, did you mean token_file?",
        "agent.toml: operator: certificate and key go together",
        "agent.toml: vim.listen and link.listen can't both be served: "
        '"tcp:0.0.0.0:2410", "tcp:0.0.0.0:2410"',
    ]


def test_nothing_is_said_of_what_depends_on_a_faulty_key() -> None:
    assert faults_of(
        """
        link = "unix:/x"
        [vim]
        listen = "tcp:0.0.0.0"
        url_authority = "/u"
        url = "ftp://x"
        [operator]
        listen = "tcp:0.0.0.0:2412"
        certificate = "/c"
        key = "/k"
        token_file = "t"
        """
    ) == [
        'agent.toml: vim.listen: must be unix:/PATH or tcp:HOST:PORT, got "tcp:0.0.0.0"',
        'agent.toml: vim.url: must be an http URL, or empty, got "ftp://x"',
        'agent.toml: link: must be a table, got "unix:/x"',
        'agent.toml: operator.token_file: must be an absolute path, got "t"',
    ]


TABLES = ("vim", "link", "operator")


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(TABLES, 2)])
@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("unix:/run/x", "unix:/run/x", False),
        ("unix:/run/x", "unix://run/./y/../x", False),
        ("unix:/run/x", "unix:/run/y", True),
        ("unix:/run/x", "tcp:127.0.0.1:1", True),
        ("tcp:127.0.0.1:1", "tcp:127.0.0.1:1", False),
        ("tcp:127.0.0.1:1", "tcp:127.0.0.1:2", True),
        ("tcp:127.0.0.1:1", "tcp:localhost:1", False),
        ("tcp:127.0.0.1:1", "tcp:[::1]:1", True),
        ("tcp:[::1]:1", "tcp:[0:0::1]:1", False),
        ("tcp:0.0.0.0:1", "tcp:127.0.0.1:1", False),
        ("tcp:0.0.0.0:1", "tcp:[::]:1", True),
        ("tcp:[::]:1", "tcp:[::1]:1", False),
        ("tcp:Controller:1", "tcp:controller:1", False),
        ("tcp:controller:1", "tcp:0.0.0.0:1", True),
        ("tcp:controller:1", "tcp:controller-1:1", True),
    ],
)
def test_no_address_is_served_twice(
    one: str, other: str, first: str, second: str, together: bool
) -> None:
    for listen in ((first, second), (second, first)):
        text = "".join(
            f'[{name}]\nlisten = "{where}"\n'
            for name, where in zip((one, other), listen, strict=True)
        )
        fault = (
            f"agent.toml: {one}.listen and {other}.listen can't both be served: "
            f'"{listen[0]}", "{listen[1]}"'
        )
        with contextlib.suppress(ConfigError):
            parse(text)
            assert together
            continue
        assert (fault in faults_of(text)) is not together


def test_without_a_vim_nothing_is_in_its_way() -> None:
    text = '[vim]\nlisten = "unix:/x"\nurl = ""\n[link]\nlisten = "unix:/x"\n'
    assert parse(text).link.listen == "unix:/x"


def test_a_socket_with_too_long_a_path() -> None:
    fitting = "unix:/" + "x" * 105
    longer = "unix:/" + "ü" * 53
    for name in TABLES:
        assert getattr(parse(f'[{name}]\nlisten = "{fitting}"\n'), name).listen == fitting
        for listen in (f"{fitting}x", longer):
            assert faults_of(f'[{name}]\nlisten = "{listen}"\n') == [
                f"agent.toml: {name}.listen: the path must be at most 106 bytes long, got 107"
            ]


def test_a_path_of_control_characters() -> None:
    assert faults_of('[link]\nlisten = "unix:/a\\n"\n') == [
        'agent.toml: link.listen: must not contain control characters, got "/a\\n"'
    ]


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "unix:",
        "unix:run",
        "unix:/",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:",
        "tcp:127.0.0.1:08",
        "tcp:127.0.0.1:-1",
        "tcp::2411",
        "tcp:::1:2411",
        "127.0.0.1:2411",
        "http://127.0.0.1:2411",
    ],
)
def test_what_is_no_place(listen: str) -> None:
    [fault] = faults_of(f'[link]\nlisten = "{listen}"\n')
    words = "must be unix:/PATH or tcp:HOST:PORT"
    assert fault == f'agent.toml: link.listen: {words}, got "{listen}"'


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_what_is_no_port(port: int) -> None:
    [fault] = faults_of(f'[link]\nlisten = "tcp:127.0.0.1:{port}"\n')
    assert fault == f"agent.toml: link.listen: the port must be 1 to 65535, got {port}"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("", True),
        ("http://127.0.0.1:30002", True),
        ("https://vim.example", True),
        ("http://[::1]:30002", True),
        ("http://", False),
        ("http://vim/", False),
        ("http://vim/nfvi", False),
        ("http://v im", False),
        ("127.0.0.1:30002", False),
    ],
)
def test_the_vims_url(url: str, good: bool) -> None:
    text = f'[vim]\nurl = "{url}"\n'
    if good:
        assert parse(text).vim.url == url
    else:
        assert len(faults_of(text)) == 1


def test_only_an_https_url_has_an_authority() -> None:
    text = '[vim]\nurl_authority = "/a"\n'
    for url in ("", "http://vim"):
        fault = "agent.toml: vim: url_authority is for an https url"
        assert faults_of(f'{text}url = "{url}"\n') == [fault]
    assert parse(f'{text}url = "https://vim"\n').vim.url_authority == "/a"


def test_code_is_held_to_the_same_rules() -> None:
    with pytest.raises(ValueError, match="go together"):
        LinkSettings(certificate="/c")
    with pytest.raises(ValueError, match="audit_s: must be 1 to 3600 s"):
        VimSettings(audit_s=0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        AgentConfig().name = "x"  # type: ignore[misc]


def test_no_file_is_all_defaults_at_the_default_place_only(tmp_path: Path) -> None:
    missing = tmp_path / "agent.toml"
    assert load_toml(missing, AgentConfig, missing_ok=True) == AgentConfig()
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(missing, AgentConfig)

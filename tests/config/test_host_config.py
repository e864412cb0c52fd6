"""host.toml: strict types, unknown keys, all faults at once; and what becomes of a command."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hbtrio.config.expansion import expand
from hbtrio.config.host import (
    ActionCommands,
    BrakeSettings,
    CorrectiveCommands,
    HeartbeatSettings,
    HostConfig,
    LimitSettings,
)
from hbtrio.config.settings import number, table
from hbtrio.config.toml import load_toml, parse_toml, structure
from hbtrio.errors import ConfigError
from hbtrio.wire.vocabulary import ActionName
from support.config_faults import faults_in, without_lines
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in

ROOT = Path(__file__).parents[2]


def parse(text: str) -> HostConfig:
    return parse_toml(text, HostConfig, "host.toml")


def faults_of(text: str) -> list[str]:
    return without_lines(faults_in(text, HostConfig, "host.toml"))


# -- what is accepted ----------------------------------------------------------------------------


def test_defaults() -> None:
    config = HostConfig(
        channel_dir="/var/lib/libvirt/qemu",
        channel_patterns=("cgcs.heartbeat.{uuid}.sock", "wrs.heartbeat.agent.0.{uuid}.sock"),
        control_socket="/run/hbtrio/host.sock",
        control_mode="0660",
        events="",
        hostname="",
        log="stderr",
        log_level="info",
        heartbeat=HeartbeatSettings(
            failure_threshold=1,
            rescan_s=180,
            reconnect_silent_s=120,
            interval_min_ms=400,
            interval_max_ms=60_000,
        ),
        limits=LimitSettings(
            vote_max_s=600,
            notice_max_s=600,
            restart_max_s=3600,
            line_bytes=4096,
            bytes_per_s=8192,
            burst_bytes=8192,
            channels=20_000,
        ),
        corrective_commands=CorrectiveCommands(
            reboot=(), stop=(), log=(), timeout_s=60, per_hour=3
        ),
        brake=BrakeSettings(share=0.5, minimum=3),
        actions=ActionCommands(timeout_s=600),
    )
    assert parse("") == HostConfig() == config
    assert config.control_permissions == 0o660


def test_everything_set() -> None:
    config = parse(
        """
        channel_dir = "/c"
        channel_patterns = ["{uuid}.s"]
        control_socket = "/s"
        control_mode = "600"
        events = "-"
        hostname = "compute-0"
        log = "syslog"
        log_level = "debug"
        [heartbeat]
        failure_threshold = 0
        rescan_s = 1.5
        reconnect_silent_s = 2
        interval_min_ms = 500
        interval_max_ms = 500
        [limits]
        vote_max_s = 1
        notice_max_s = 2
        restart_max_s = 3
        line_bytes = 1056
        bytes_per_s = 1057
        burst_bytes = 1058
        channels = 4
        [corrective-commands]
        reboot = ["r", "{uuid}", "{action}: {reason}"]
        stop = ["s"]
        log = ["l", "{{uuid}}", "${{HOME}}", '{"a": 1}', "{print $2}", "a\\nb"]
        timeout_s = 0.25
        per_hour = 1
        [brake]
        share = 1
        minimum = 1
        [actions]
        stop = ["1"]
        reboot = ["2"]
        pause = ["3"]
        unpause = ["4"]
        suspend = ["5"]
        resume = ["6"]
        resize = ["7"]
        live-migrate = ["8", "{uuid}{uuid}"]
        cold-migrate = ["9"]
        timeout_s = 10
        """
    )
    assert config == HostConfig(
        channel_dir="/c",
        channel_patterns=("{uuid}.s",),
        control_socket="/s",
        control_mode="600",
        events="-",
        hostname="compute-0",
        log="syslog",
        log_level="debug",
        heartbeat=HeartbeatSettings(
            failure_threshold=0,
            rescan_s=1.5,
            reconnect_silent_s=2.0,
            interval_min_ms=500,
            interval_max_ms=500,
        ),
        limits=LimitSettings(
            vote_max_s=1,
            notice_max_s=2,
            restart_max_s=3,
            line_bytes=1056,
            bytes_per_s=1057,
            burst_bytes=1058,
            channels=4,
        ),
        corrective_commands=CorrectiveCommands(
            reboot=("r", "{uuid}", "{action}: {reason}"),
            stop=("s",),
            log=("l", "{{uuid}}", "${{HOME}}", '{"a": 1}', "{print $2}", "a\nb"),
            timeout_s=0.25,
            per_hour=1,
        ),
        brake=BrakeSettings(share=1.0, minimum=1),
        actions=ActionCommands(
            stop=("1",),
            reboot=("2",),
            pause=("3",),
            unpause=("4",),
            suspend=("5",),
            resume=("6",),
            resize=("7",),
            live_migrate=("8", "{uuid}{uuid}"),
            cold_migrate=("9",),
            timeout_s=10.0,
        ),
    )
    assert type(config.brake.share) is type(config.heartbeat.reconnect_silent_s) is float
    assert config.control_permissions == 0o600


def test_every_action_can_have_a_command() -> None:
    config = parse("[actions]\n" + "\n".join(f'{name} = ["{name}"]' for name in ActionName))
    given_names = {argv[0] for argv in attrs.astuple(config.actions)[:-1]}
    assert given_names == set(ActionName)


# -- what is refused -----------------------------------------------------------------------------


def test_all_faults_at_once_with_their_paths() -> None:
    text = """
        log = "journal"
        colour = true
        heartbeat = 3
        limits.bytes_pers = 1
        brake = { share = 1.5, minimum = 1.9 }
        [corrective_commands]
        [actions]
        live_migrate = ["a"]
        stop = ["{uuid}", 3, false]
        reboot = ["x", "{reason}", "{UUID}"]
        """
    assert faults_of(text) == [
        'host.toml: log: must be one of stderr, syslog, got "journal"',
        "host.toml: heartbeat: must be a table, got 3",
        "host.toml: limits.bytes_pers: unknown key, did you mean bytes_per_s?",
        "host.toml: brake.share: must be over 0 and at most 1, got 1.5",
        "host.toml: brake.minimum: must be a whole number, got 1.9",
        "host.toml: actions.stop: item 2: must be a string, got 3",
        "host.toml: actions.stop: item 3: must be a string, got false",
        "host.toml: actions.reboot: item 2: unknown placeholder {reason}, expected {uuid}; "
        "write {{reason}} for a literal {reason}",
        "host.toml: actions.reboot: item 3: unknown placeholder {UUID}, expected {uuid}; "
        "write {{UUID}} for a literal {UUID}",
        "host.toml: actions.live_migrate: unknown key, did you mean live-migrate?",
        "host.toml: colour: unknown key",
        "host.toml: corrective_commands: unknown key, did you mean corrective-commands?",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('control.act = "root"', 'control.act: must be a list of strings, got "root"'),
        ("control.act = [0]", "control.act: item 1: must be a string, got 0"),
        ('control.look = [""]', 'control.look: item 1: must be the name of a group, got ""'),
        ('control.look = ["-x"]', 'control.look: item 1: must be the name of a group, got "-x"'),
        ('control.look = ["a b"]', 'control.look: item 1: must be the name of a group, got "a b"'),
        ('control.look = ["a", "a"]', 'control.look: item 2: is listed twice, "a"'),
        (
            'control = {look = ["a", "b"], act = ["b"]}',
            'control: look: "b" is in act too, which includes looking',
        ),
        (
            f"control.act = {[f'g{n}' for n in range(17)]}",
            "control.act: must be at most 16 groups, got 17",
        ),
        ('control.see = ["a"]', "control.see: unknown key"),
        ('agent.commands = "all"', 'agent.commands: must be one of configured, any, got "all"'),
        ("agent.commands = true", "agent.commands: must be a string, got true"),
        ('brake.minimum = "3"', 'brake.minimum: must be a whole number, got "3"'),
        ("brake.minimum = true", "brake.minimum: must be a whole number, got true"),
        ("brake.minimum = 3.0", "brake.minimum: must be a whole number, got 3.0"),
        ("brake.minimum = []", "brake.minimum: must be a whole number, got a list"),
        ("brake.minimum = {}", "brake.minimum: must be a whole number, got a table"),
        ("brake.minimum = 07:32:00", "brake.minimum: must be a whole number, got 07:32:00"),
        ("brake.share = true", "brake.share: must be a number, got true"),
        ('brake.share = "0.5"', 'brake.share: must be a number, got "0.5"'),
        ("brake.share = 0", "brake.share: must be over 0 and at most 1, got 0.0"),
        ("brake.share = nan", "brake.share: must be over 0 and at most 1, got nan"),
        ("brake.share = inf", "brake.share: must be over 0 and at most 1, got inf"),
        ("heartbeat.rescan_s = nan", "heartbeat.rescan_s: must be 1 to 86400 s, got nan"),
        ("events = 1", "events: must be a string, got 1"),
        ("log = 1", "log: must be a string, got 1"),
        ('actions.stop = "virsh"', 'actions.stop: must be a list of strings, got "virsh"'),
        ("[[brake]]", "brake: must be a table, got a list"),
        (
            'control_mode = "0o660"',
            'control_mode: must be three octal digits in quotes, got "0o660"',
        ),
        ('control_mode = "1777"', 'control_mode: must be three octal digits in quotes, got "1777"'),
        ("control_mode = 0o660", "control_mode: must be a string, got 432"),
        ('hostname = "a b"', 'hostname: must be a host name, or empty, got "a b"'),
        ('hostname = "a\\n"', 'hostname: must be a host name, or empty, got "a\\n"'),
        ('channel_dir = ""', 'channel_dir: must be an absolute path, got ""'),
        ('events = "x"', 'events: must be an absolute path, got "x"'),
        ('events = "/\\u0000"', 'events: must not contain control characters, got "/\\x00"'),
        ("channel_patterns = []", "channel_patterns: must be 1 to 16 patterns, got 0"),
        (
            "channel_patterns = ['{uuid}{uuid}']",
            "channel_patterns: item 1: must contain {uuid} once and no other placeholder, "
            'got "{uuid}{uuid}"',
        ),
        (
            "channel_patterns = ['{uuid}{x}']",
            "channel_patterns: item 1: must contain {uuid} once and no other placeholder, "
            'got "{uuid}{x}"',
        ),
        (
            "channel_patterns = ['{{uuid}}']",
            "channel_patterns: item 1: must contain {uuid} once and no other placeholder, "
            'got "{{uuid}}"',
        ),
        (
            "channel_patterns = ['a/{uuid}']",
            'channel_patterns: item 1: must be a file name without /, got "a/{uuid}"',
        ),
        (
            "channel_patterns = ['{uuid}', '{uuid}']",
            'channel_patterns: item 2: is listed twice, "{uuid}"',
        ),
        ("actions.stop = ['']", "actions.stop: item 1: must name a program, got nothing"),
        (
            "actions.stop = ['{uuid}']",
            "actions.stop: item 1: the program must not contain a placeholder, got {uuid}",
        ),
        (
            'actions.stop = ["a", "\\u0000"]',
            'actions.stop: item 2: must not contain a NUL, got "\\x00"',
        ),
        (
            f"actions.stop = ['a', '{'b' * 4097}']",
            "actions.stop: item 2: must be at most 4096 characters long",
        ),
        (
            f"actions.stop = {['a'] * 65}",
            "actions.stop: must be at most 64 arguments, got 65",
        ),
        (
            "heartbeat = { interval_min_ms = 500, interval_max_ms = 400 }",
            "heartbeat: interval_min_ms (500) must be at most interval_max_ms (400)",
        ),
        (
            f"limits.channels = 0x{'f' * 5000}",
            "limits.channels: must be 1 to 100000 VMs, got a number of 20000 bits",
        ),
        (
            f"brake.share = 0x{'f' * 5000}",
            "brake.share: must be a number, got a number of 20000 bits",
        ),
    ],
)
def test_one_fault(text: str, fault: str) -> None:
    assert faults_of(text) == [f"host.toml: {fault}"]


def test_paths_fit_a_socket_address() -> None:
    long = "/" + "x" * 106
    # A socket that we serve has a name with one more byte at first.
    assert parse(f'control_socket = "{long[:-1]}"') == HostConfig(control_socket=long[:-1])
    assert faults_of(f'control_socket = "{long}"') == [
        "host.toml: control_socket: must be at most 106 bytes long, got 107"
    ]
    assert parse(f'agent.connect = "unix:{long}"').agent.connect == f"unix:{long}"
    assert faults_of(f'agent.connect = "unix:{long}x"') == [
        "host.toml: agent.connect: the path must be at most 107 bytes long, got 108"
    ]
    # 107 less 36 of the UUID and the slash
    fitting = f'channel_dir = "{long[:70]}"\nchannel_patterns = ["{{uuid}}"]\n'
    assert parse(fitting).channel_dir == long[:70]
    assert faults_of(fitting.replace('"/', '"/x')) == [
        "host.toml: channel_dir and channel_patterns make a path of 108 bytes, "
        "a unix socket path has at most 107"
    ]


def test_a_faulty_key_does_not_hide_what_does_not_go_together() -> None:
    assert faults_of(
        f"""
        log = "journal"
        channel_dir = "/{"x" * 60}"
        [heartbeat]
        rescan_s = 0
        interval_min_ms = 500
        interval_max_ms = 400
        [agent]
        host_uuid = "1"
        key = "/k"
        authority = "/a"
        """
    ) == [
        'host.toml: log: must be one of stderr, syslog, got "journal"',
        "host.toml: heartbeat.rescan_s: must be 1 to 86400 s, got 0.0",
        "host.toml: heartbeat: interval_min_ms (500) must be at most interval_max_ms (400)",
        'host.toml: agent.host_uuid: must be a uuid, or empty, got "1"',
        "host.toml: agent: certificate, key and authority go together",
        "host.toml: channel_dir and channel_patterns make a path of 118 bytes, "
        "a unix socket path has at most 107",
    ]


def test_nothing_is_said_of_what_depends_on_a_faulty_key() -> None:
    assert faults_of(
        """
        channel_dir = "x"
        [heartbeat]
        interval_min_ms = 70000
        interval_max_ms = 400
        [agent]
        certificate = "c"
        key = "/k"
        """
    ) == [
        'host.toml: channel_dir: must be an absolute path, got "x"',
        "host.toml: heartbeat.interval_min_ms: must be 400 to 60000 ms, got 70000",
        'host.toml: agent.certificate: must be an absolute path, got "c"',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = [1\n b", "host.toml:2:2: Unclosed array"),
        ("\n\n[heartbeat", "host.toml:3:11: Expected ']' at the end of a table declaration"),
        ("log = 'a\nb'", "host.toml:1:9: "),
        ("x = 1\nx = 2\n", "host.toml:2:6: Cannot overwrite a value"),
        ("control_mode = 0660", "host.toml:1:17: "),
        ("a = " + "[" * 20_000, "host.toml: nested too deeply"),
        ("a = " + "1" * 5_000, "host.toml: Exceeds the limit (4300 digits) for integer string"),
    ],
)
def test_syntax_faults_are_one_line_with_their_place(text: str, fault: str) -> None:
    (told,) = faults_of(text)
    assert told.startswith(fault)
    assert told.isprintable()
    assert len(told) < 150


def test_only_so_many_faults_are_told() -> None:
    faults = faults_of("\n".join(f"x{i:04} = 1" for i in range(5000)))
    assert len(faults) == 51
    assert faults[0] == "host.toml: x0000: unknown key"
    assert faults[50] == "host.toml: and 4950 more faults"


def test_code_is_held_to_the_same_ranges() -> None:
    with pytest.raises(ValueError, match=r"^share: must be over 0 and at most 1, got 1\.5$"):
        BrakeSettings(share=1.5)
    with pytest.raises(ValueError, match=r"^control_socket: must be an absolute path"):
        HostConfig(control_socket="x")


# -- the generic loader --------------------------------------------------------------------------


@attrs.frozen
class Inner:
    needed: int
    wanted: bool = False


@attrs.frozen
class Outer:
    inner: Inner
    size: int = number(1, 0, 9)
    more: Inner = table(lambda: Inner(needed=1), key="more-of-it")  # noqa: RUF009


def test_required_keys_and_renamed_tables() -> None:
    data = {"inner": {"needed": 3, "wanted": True}, "more-of-it": {"needed": 2}}
    built = structure(data, Outer, "x.toml")
    assert built == Outer(inner=Inner(3, True), more=Inner(2))
    with pytest.raises(ConfigError) as caught:
        structure({"inner": {"wanted": 1}, "more-of-it": {}, "more": {}}, Outer, "x.toml")
    assert caught.value.faults == [
        "x.toml: inner.needed: is missing, and has no default",
        "x.toml: inner.wanted: must be true or false, got 1",
        "x.toml: more-of-it.needed: is missing, and has no default",
        "x.toml: more: unknown key",
    ]


def test_a_bug_in_a_class_is_no_fault_of_the_file() -> None:
    @attrs.frozen
    class Broken:
        size: int = 1

        def __attrs_post_init__(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        structure({"size": 2}, Broken, "x.toml")


# -- files ---------------------------------------------------------------------------------------


def test_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigError) as caught:
        load_toml(path, HostConfig)
    assert caught.value.faults == [f"{path}: no such file"]
    assert load_toml(path, HostConfig, missing_ok=True) == HostConfig()


def test_a_file_is_named_in_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_bytes(b"\xef\xbb\xbfbrake.minimum = 0\r\n")
    with pytest.raises(ConfigError) as caught:
        load_toml(path, HostConfig)
    assert caught.value.faults == [f"{path}:1: brake.minimum: must be 1 to 100000 VMs, got 0"]
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"host\.toml:1: not UTF-8 \(byte 0xff\)$"):
        load_toml(path, HostConfig)


# -- anything at all -----------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "log",
        "events",
        "channel_patterns",
        "brake",
        "brake.share",
        "brake.minimum",
        "heartbeat.rescan_s",
        "actions.stop",
        "corrective-commands.log",
        "limits.channels",
        "x",
        "a.b.c",
    ]
)
VALUES = st.sampled_from(
    [
        "1",
        "-1",
        "0.5",
        "nan",
        "-inf",
        "1e999",
        "true",
        "1979-05-27",
        "''",
        "'-'",
        "[]",
        "[[]]",
        "[1]",
        "{}",
        "{share=2}",
        "['a','{uuid}']",
        "['{reason}']",
        '"\\u0000\\u001b"',
        '"\\ud800"',
    ]
)
TEXT = st.text(st.characters())  # unlike st.text() alone, with halves of surrogate pairs
TOML = st.lists(st.tuples(KEYS, st.just("="), VALUES).map("".join)).map("\n".join)


@settings(deadline=None)  # a shared machine may be slow; the number of examples is the bound
@given(text=TEXT | TOML)
@example(text="a" + ".a" * 3000 + "=1")
@example(text="[" + "a." * 3000 + "a]")
@example(text="a = 2024-13-45")
@example(text="a = {" * 3000)
@example(text="channel_dir = '/\ud800'")
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    faults: list[str] = []
    try:
        parse(text)
    except ConfigError as error:
        faults = error.faults
    assert len(faults) <= 51
    assert all(fault.isprintable() and fault.startswith("host.toml:") for fault in faults)


# -- expand --------------------------------------------------------------------------------------


def test_expand_puts_values_in_their_places() -> None:
    argv = ("run", "{uuid}", "{action}: {reason}", "{uuid}{uuid}", "plain", "")
    assert expand(argv, uuid="U", action="stop", reason="a b") == [
        "run", "U", "stop: a b", "UU", "plain", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "hostile",
    ["{uuid}", "{{uuid}}", "{action}", "a b $(id) 'x' \"y\"; rm -rf /", "\\1", "ä"],
)
def test_a_value_is_passed_on_as_it_is(hostile: str) -> None:
    expanded = expand(["run", "{reason}", "<{reason}|{uuid}>"], uuid="U", reason=hostile)
    assert expanded == ["run", hostile, f"<{hostile}|U>"]


def test_what_no_argument_can_hold_is_replaced() -> None:
    assert expand(["x", "{reason}"], reason="a\0b\ud800c") == ["x", "a b c"]


@pytest.mark.parametrize("hostile", ["-rf", "--help", "\n-rf", "\u2028\u202e -rf", "\0-\x1b"])
def test_a_value_is_never_an_option(hostile: str) -> None:
    (_, argument, text) = expand(["x", "{reason}", "{reason}: {uuid}"], uuid="U", reason=hostile)
    assert argument.startswith("_-")
    assert text == f"{argument}: U"


def test_literal_braces() -> None:
    argv = ["x", "{{uuid}}", "${{HOME}}", '{"a": {"b": 1}}', "{print $2}", "{", "}{", "{}"]
    assert expand(argv, uuid="U") == [
        "x", "{uuid}", "${HOME}", '{"a": {"b": 1}}', "{print $2}", "{", "}{", "{}",
    ]  # fmt: skip


def test_a_placeholder_without_a_value_is_a_programming_error() -> None:
    with pytest.raises(KeyError, match="reason"):
        expand(["x", "{reason}"], uuid="U")


@settings(deadline=None)
@given(st.lists(st.text()), TENANT_TEXTS)
@example([], HOSTILE)
def test_expand_keeps_the_number_of_arguments(argv: list[str], value: str) -> None:
    argv = [item.replace("{", "").replace("}", "") for item in argv]
    expanded = expand([*argv, "{reason}"], reason=value)
    assert expanded[:-1] == argv
    assert hostile_in(expanded[-1]) == []
    assert not expanded[-1].startswith(("-", " "))


@pytest.mark.parametrize("listen", ["tcp:controller:2411", "tcp:0.0.0.0:2411", "tcp:[::]:1"])
def test_who_commands_this_host_shows_a_certificate(listen: str) -> None:
    text = f'[agent]\nconnect = "{listen}"\n'
    needed = "connect: certificate, key and authority are needed for this address"
    assert faults_of(text) == [f"host.toml: agent: {needed}"]
    files = 'certificate = "/c"\nkey = "/k"\nauthority = "/a"\n'
    assert parse(text + files).agent.connect == listen


def test_a_table_that_stands_there_twice() -> None:
    text = "[actions]\n[limits]\n[actions]\n"
    assert faults_of(text) == ["host.toml:3:9: actions is defined twice"]

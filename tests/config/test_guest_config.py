"""guest_heartbeat.conf: the C client's format, strictly, with every fault at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.config.guest import GuestConfig, load_guest_config, parse_guest_config
from hbtrio.config.settings import key_of, setting_of
from hbtrio.errors import ConfigError, ExitStatus
from hbtrio.wire.vocabulary import CorrectiveAction

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config/guest_heartbeat.conf"
FIELDS = attrs.fields(GuestConfig)
KEYS = [key_of(field) for field in FIELDS]


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_guest_config(text, "g.conf")
    return caught.value.faults


# -- what is accepted ----------------------------------------------------------------------------


def test_left_out_keys_have_the_values_of_the_deployed_client() -> None:
    assert parse_guest_config("", "g.conf") == GuestConfig(
        hb_interval_ms=1000,
        hb_init_retry_ms=5000,
        hb_min_timeout_ms=5000,
        vote_s=10,
        shutdown_notice_s=10,
        suspend_notice_s=10,
        resume_notice_s=10,
        restart_s=120,
        corrective_action=CorrectiveAction.REBOOT,
        health_check_interval_s=30,
        health_check_script=None,
        event_notification_script=None,
        health_check_timeouts=2,
        health_timeout_action=CorrectiveAction.LOG,
        app_socket_mode="0660",
        app_socket_group="",
    )


def test_the_shipped_file_has_the_shipped_values() -> None:
    assert load_guest_config(SHIPPED) == GuestConfig(
        hb_interval_ms=1000,
        hb_init_retry_ms=5000,
        hb_min_timeout_ms=5000,
        vote_s=8,
        shutdown_notice_s=8,
        suspend_notice_s=8,
        resume_notice_s=13,
        restart_s=300,
        corrective_action=CorrectiveAction.REBOOT,
        health_check_interval_s=30,
        health_check_script="/etc/guest-client/heartbeat/sample_health_script",
        event_notification_script="/etc/guest-client/heartbeat/sample_event_script",
        health_check_timeouts=2,
        health_timeout_action=CorrectiveAction.LOG,
        app_socket_mode="0660",
        app_socket_group="",
    )


def test_the_shipped_file_names_every_key_under_its_range() -> None:
    text = SHIPPED.read_text()
    for field in FIELDS:
        setting = setting_of(field)
        assert setting is not None
        comment, found, _ = text.partition(f"\n{key_of(field)}=")
        assert found, key_of(field)
        wanted = f"{setting.span} {setting.unit}".rstrip()
        assert wanted in comment.rpartition("\n\n")[2], (key_of(field), wanted)


def test_the_shipped_scripts_exist() -> None:
    config = load_guest_config(SHIPPED)
    for script in (config.health_check_script, config.event_notification_script):
        assert script is not None
        assert os.access(ROOT / "config" / Path(script).name, os.X_OK), script


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("VOTE=7", 7),
        ("  VOTE = 7  \t", 7),
        ("VOTE=7\r", 7),
        ('VOTE="7"', 7),
        ("VOTE=' 7 '", 7),
        ("VOTE=007", 7),
        ("VOTE=7 # seven", 7),
        ("VOTE=7\t#seven", 7),
        ('VOTE="7" # "seven"', 7),
        ('VOTE="7"#seven', 7),
        ("VOTE=1\nVOTE=7", 7),
        ("# VOTE=1\n\n   \n  # x\nVOTE=7", 7),
        ("VOTE=1", 1),
        ("VOTE=86400", 86400),
    ],
)
def test_ways_to_write_a_number(line: str, expected: int) -> None:
    assert parse_guest_config(line, "g.conf") == GuestConfig(vote_s=expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/opt/check", "/opt/check"),
        ('"/opt/my check"', "/opt/my check"),
        ("/opt/my check", "/opt/my check"),
        ("'/opt/check' # comment", "/opt/check"),
        ("/opt/check # comment", "/opt/check"),
        ("/opt/check#2", "/opt/check#2"),
        ('"/opt/check #2"', "/opt/check #2"),
        ("/opt/a=b", "/opt/a=b"),
        ("/opt/a\u2028b", "/opt/a\u2028b"),  # ends a line for str.splitlines only
        ("/opt/größe", "/opt/größe"),
        ("", None),
        ('""', None),
        ("''", None),
        ("# none", None),
    ],
)
def test_ways_to_write_a_script(value: str, expected: str | None) -> None:
    if (
        "\u2028" in value
    ):  # a line separator to str.splitlines, an ordinary character to this format
        expected = value
    config = parse_guest_config(f"EVENT_NOTIFICATION_SCRIPT={value}", "g.conf")
    assert config == GuestConfig(event_notification_script=expected)


@pytest.mark.parametrize("action", ["log", "reboot", "stop"])
def test_corrective_actions(action: str) -> None:
    config = parse_guest_config(f"CORRECTIVE_ACTION={action}", "g.conf")
    assert config.corrective_action is CorrectiveAction(action)


def test_an_interval_of_zero_turns_the_health_script_off_wherever_it_stands() -> None:
    off = GuestConfig(health_check_interval_s=0)
    text = "HEALTH_CHECK_INTERVAL=0\nHEALTH_CHECK_SCRIPT=/x\n"
    assert parse_guest_config(text, "g.conf") == off
    assert parse_guest_config("\n".join(reversed(text.split("\n"))), "g.conf") == off


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("APP_SOCKET_MODE=0666", {"app_socket_mode": "0666"}),
        ('APP_SOCKET_MODE="600" # root', {"app_socket_mode": "600"}),
        ("APP_SOCKET_GROUP=web-apps", {"app_socket_group": "web-apps"}),
        ("APP_SOCKET_GROUP=", {"app_socket_group": ""}),
    ],
)
def test_who_may_connect_as_an_application(line: str, expected: dict[str, str]) -> None:
    assert parse_guest_config(line, "g.conf") == GuestConfig(**expected)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("APP_SOCKET_MODE=", "three octal digits"),
        ("APP_SOCKET_MODE=668", "three octal digits"),
        ("APP_SOCKET_MODE=4755", "three octal digits"),
        ("APP_SOCKET_MODE=rw-rw----", "three octal digits"),
        ("APP_SOCKET_GROUP=two words", "a group's name, or empty"),
        ("APP_SOCKET_GROUP=-x", "a group's name, or empty"),
        (f"APP_SOCKET_GROUP={'g' * 33}", "a group's name, or empty"),
    ],
)
def test_what_is_no_mode_and_no_group(line: str, wanted: str) -> None:
    key, _, value = line.partition("=")
    assert faults_of(line) == [f'g.conf:1: {key}: must be {wanted}, got "{value}"']


# -- what is refused -----------------------------------------------------------------------------


def test_all_faults_at_once_with_their_lines() -> None:
    text = """\
# line 1
VOTE=8s
vote=8
HB_INTERVAL = 399
CORRECTIVE_ACTION=Reboot
just words
export VOTE=1
HEALTH_CHECK_SCRIPT='/x
EVENT_NOTIFICATION_SCRIPT=scripts/event
RESTART=
RESUME_NOTICE="8" 9
SUSPEND_NOTICE=-1
HEALTH_CHECK_INTERVALL=30
"""
    assert faults_of(text) == [
        'g.conf:2: VOTE: must be a whole number, got "8s"',
        "g.conf:3: vote: unknown key, did you mean VOTE?",
        "g.conf:4: HB_INTERVAL: must be 400 to 60000 ms, got 399",
        'g.conf:5: CORRECTIVE_ACTION: must be one of log, reboot, stop, got "Reboot"',
        'g.conf:6: no = in "just words", expected KEY=VALUE',
        "g.conf:7: export VOTE: unknown key",
        "g.conf:8: HEALTH_CHECK_SCRIPT: no closing ' in \"'/x\"",
        'g.conf:9: EVENT_NOTIFICATION_SCRIPT: must be an absolute path, got "scripts/event"',
        "g.conf:10: RESTART: empty; leave the line out for the default, 120",
        'g.conf:11: RESUME_NOTICE: text after the closing ", "9"',
        "g.conf:12: SUSPEND_NOTICE: must be 1 to 86400 s, got -1",
        "g.conf:13: HEALTH_CHECK_INTERVALL: unknown key, did you mean HEALTH_CHECK_INTERVAL?",
    ]


@pytest.mark.parametrize("value", ["1_0", "1.0", "0x8", "+8", "٨", "８", "8 9", "1e1", "9" * 5000])
def test_no_other_way_to_write_a_number(value: str) -> None:
    (fault,) = faults_of(f"VOTE={value}")
    assert fault.startswith("g.conf:1: VOTE: must be a whole number, got ")
    assert len(fault) < 200


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("HB_INTERVAL", 400, 60_000),
        ("HB_INIT_RETRY", 100, 600_000),
        ("HB_MIN_TIMEOUT", 0, 600_000),
        ("VOTE", 1, 86_400),
        ("SHUTDOWN_NOTICE", 1, 86_400),
        ("SUSPEND_NOTICE", 1, 86_400),
        ("RESUME_NOTICE", 1, 86_400),
        ("RESTART", 1, 86_400),
        ("HEALTH_CHECK_INTERVAL", 0, 86_400),
    ],
)
def test_ranges(key: str, low: int, high: int) -> None:
    field = next(field for field in FIELDS if key_of(field) == key)
    for good in (low, high):
        assert parse_guest_config(f"{key}={good}", "g.conf") == GuestConfig(**{field.name: good})
    for bad in (low - 1, high + 1):
        (fault,) = faults_of(f"{key}={bad}")
        assert fault.startswith(f"g.conf:1: {key}: must be {low} to {high} ")
        assert fault.endswith(f", got {bad}")
        with pytest.raises(ValueError, match=f"^{field.name}: must be {low} to {high}"):
            GuestConfig(**{field.name: bad})


@pytest.mark.parametrize("action", ["none", "unknown", "REBOOT", "", "reboot now"])
def test_other_corrective_actions(action: str) -> None:
    assert faults_of(f"CORRECTIVE_ACTION={action}") == [
        f'g.conf:1: CORRECTIVE_ACTION: must be one of log, reboot, stop, got "{action}"'
    ]


def test_a_health_script_needs_an_interval() -> None:
    with pytest.raises(ValueError, match="health_check_interval_s: 0"):
        GuestConfig(health_check_interval_s=0, health_check_script="/x")


def test_a_path_fits_the_system() -> None:
    assert faults_of("HEALTH_CHECK_SCRIPT=/a\0b") == [
        'g.conf:1: HEALTH_CHECK_SCRIPT: must not contain control characters, got "/a\\x00b"'
    ]
    assert faults_of("HEALTH_CHECK_SCRIPT=/" + "ä" * 2048) == [
        "g.conf:1: HEALTH_CHECK_SCRIPT: must be at most 4095 bytes long, got 4097"
    ]


def test_a_wrong_line_counts_even_if_a_later_one_replaces_it() -> None:
    assert faults_of("VOTE=0\nVOTE=8") == ["g.conf:1: VOTE: must be 1 to 86400 s, got 0"]


def test_only_so_many_faults_are_told() -> None:
    faults = faults_of("x\n" * 5000)
    assert len(faults) == 51
    assert faults[49:] == [
        'g.conf:50: no = in "x", expected KEY=VALUE',
        "g.conf: and 4950 more faults",
    ]


# -- files ---------------------------------------------------------------------------------------


def refusal(path: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_guest_config(path)
    assert caught.value.status is ExitStatus.USAGE
    (fault,) = caught.value.faults
    return fault


def test_a_missing_file_is_a_fault_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "none.conf"
    assert refusal(path) == f"{path}: no such file"
    assert load_guest_config(path, missing_ok=True) == GuestConfig()


def test_missing_ok_excuses_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_guest_config(tmp_path, missing_ok=True)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert refusal(fifo) == f"{fifo}: not a regular file"
    assert refusal("/dev/zero") == "/dev/zero: not a regular file"
    assert refusal(loop) == f"{loop}: cannot be read: Too many levels of symbolic links"
    assert refusal(SHIPPED / "x") == f"{SHIPPED / 'x'}: cannot be read: Not a directory"
    assert refusal("a\0b") == "a\\x00b: cannot be read: not a path"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_file(tmp_path: Path) -> None:
    path = tmp_path / "g.conf"
    path.touch(mode=0)
    assert refusal(path) == f"{path}: cannot be read: Permission denied"


def test_sizes_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "g.conf"
    path.write_bytes(b"#" * 65_536)
    assert load_guest_config(path) == GuestConfig()
    path.write_bytes(b"#" * 65_537)
    assert refusal(path) == f"{path}: over 65536 bytes, too large for a configuration"
    path.write_bytes(b"VOTE=8\n# gr\xf6\xdfe\n")
    assert refusal(path) == f"{path}:2: not UTF-8 (byte 0xf6)"
    path.write_bytes(b"\xef\xbb\xbfVOTE=8\r\n")
    assert load_guest_config(path) == GuestConfig(vote_s=8)


def test_a_name_cannot_act_on_the_terminal() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_guest_config("\x1b[2J=1\nVOTE=\x07", "a\nb\x1b")
    assert caught.value.faults == [
        "a\\nb\\x1b:1: \\x1b[2J: unknown key",
        'a\\nb\\x1b:2: VOTE: must be a whole number, got "\\x07"',
    ]


# -- anything at all -----------------------------------------------------------------------------

TEXT = st.text(st.characters())  # unlike st.text() alone, with halves of surrogate pairs
LINES = st.lists(
    st.tuples(
        st.sampled_from([*KEYS, "#", "vote", ""]),
        st.sampled_from(["=", " = ", "", "=="]),
        TEXT | st.integers().map(str) | st.sampled_from(["'", '"', "/x", '"/x" #', "0"]),
    ).map("".join)
).map("\n".join)


@settings(deadline=None)  # a shared machine may be slow; the number of examples is the bound
@given(text=TEXT | LINES)
def test_no_text_raises_anything_but_a_config_error(text: str) -> None:
    faults: list[str] = []
    try:
        parse_guest_config(text, "g.conf")
    except ConfigError as error:
        faults = error.faults
    assert len(faults) <= 51
    assert all(fault.isprintable() and fault.startswith("g.conf:") for fault in faults)


def test_the_guest_needs_no_more_than_attrs_and_msgspec() -> None:
    """The memory of a small VM: what the guest's configuration imports, it pays for."""
    code = "import sys, hbtrio.config.guest; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - sys.stdlib_module_names
    assert {"hbtrio", "attrs"} <= loaded
    assert loaded.isdisjoint({"cattrs", "trio", "tomllib", "httpx", "rich"})

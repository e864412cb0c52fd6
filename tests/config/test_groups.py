"""[groups.NAME] of host.toml and agent.toml: what is refused, each with its place."""

from __future__ import annotations

import pytest

from hbtrio.config.agent import AgentConfig
from hbtrio.config.groups import GROUPS, GroupSettings
from hbtrio.config.host import HostConfig
from hbtrio.config.toml import parse_toml
from support.config_faults import faults_in

#: A valid group.
DB = '[groups.db]\nmembers = ["db-*"]\nmax_unavailable = 1\n'


def faults_of(text: str, cls: type[HostConfig | AgentConfig] = HostConfig) -> list[str]:
    return faults_in(text, cls, "x.toml")


@pytest.mark.parametrize("cls", [HostConfig, AgentConfig])
def test_a_group_with_a_number_and_one_with_a_share(cls: type[HostConfig | AgentConfig]) -> None:
    more = '[groups.web]\nmembers = ["w"]\nmin_available = "66%"\nmax_delay_s = 0\n'
    assert dict(parse_toml(DB + more, cls, "x.toml").groups) == {
        "db": GroupSettings(members=("db-*",), max_unavailable=1),
        "web": GroupSettings(members=("w",), min_available="66%", max_delay_s=0.0),
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[groups.db]\nmax_unavailable = 1\n",
            "1: groups.db.members: is missing, and has no default",
        ),
        (
            "[groups.db]\nmembers = []\nmax_unavailable = 1\n",
            "2: groups.db.members: must be 1 to 256 names or uuids, with or without wildcards, "
            "got 0",
        ),
        (
            '[groups.db]\nmembers = ["a", "b["]\nmax_unavailable = 1\n',
            '2: groups.db.members: item 2: "b[": is no glob: a [ without its ]; '
            "write [[] for the character",
        ),
        (
            '[groups.db]\nmembers = ["a", "a"]\nmax_unavailable = 1\n',
            '2: groups.db.members: item 2: is listed twice, "a"',
        ),
        (
            '[groups.db]\nmembers = [""]\nmax_unavailable = 1\n',
            '2: groups.db.members: item 1: "": must be a name or uuid, with or without wildcards',
        ),
        (
            '[groups.db]\nmembers = ["a"]\n',
            "1: groups.db: needs max_unavailable or min_available",
        ),
        (
            '[groups.db]\nmembers = ["a"]\nmax_unavailable = 1\nmin_available = 1\n',
            "4: groups.db: max_unavailable and min_available: only one of them",
        ),
        *(
            (
                f'[groups.db]\nmembers = ["a"]\nmax_unavailable = {value}\n',
                '3: groups.db.max_unavailable: must be 0 to 100000, or "0%" to "100%", got '
                + value,
            )
            for value in ("-1", "100001", '"101%"', '"33"', '"3.3%"', '"-1%"', '"01%"', '""')
        ),
        *(
            (
                f'[groups.db]\nmembers = ["a"]\nmin_available = {value}\n',
                "3: groups.db.min_available: must be a whole number, or a share such as "
                f'"33%", got {value}',
            )
            for value in ("1.0", "true")
        ),
        (
            DB + "max_delay_s = -1\n",
            "4: groups.db.max_delay_s: must be 0 to 86400 s, got -1.0",
        ),
        (
            '[groups."a b"]\nmembers = ["a"]\nmax_unavailable = 1\n',
            '1: groups: "a b": must be a name of letters, digits, dot, _ and -, at most 64',
        ),
        (
            "[groups.db]\nmember = 1\n",
            "2: groups.db.member: unknown key, did you mean members?",
        ),
    ],
)
@pytest.mark.parametrize("cls", [HostConfig, AgentConfig])
def test_a_faulty_group_is_told_with_its_line(
    cls: type[HostConfig | AgentConfig], text: str, fault: str
) -> None:
    assert f"x.toml:{fault}" in faults_of(text, cls)


def test_so_many_groups_and_no_more() -> None:
    def groups(count: int) -> str:
        return "".join(DB.replace("db]", f"g{number}]") for number in range(count))

    assert len(parse_toml(groups(GROUPS), HostConfig, "x.toml").groups) == GROUPS
    (fault,) = faults_of(groups(GROUPS + 1))
    assert fault.endswith(f"groups: must be at most {GROUPS} groups, got {GROUPS + 1}")


def test_names_need_libvirt_and_uuids_do_not() -> None:
    off = '[libvirt]\nenabled = "off"\n'
    (fault,) = faults_of(DB + off)
    assert fault == (
        'x.toml:2: groups.db: "db-*": libvirt knows the names, but [libvirt] enabled is off; '
        "use a uuid"
    )
    uuid = "6d0ac1f2-8a53-4c0b-8f7e-0c3f9a1b2c3d"
    assert parse_toml(DB.replace("db-*", uuid) + off, HostConfig, "x.toml").groups
    assert parse_toml(DB.replace("db-*", "*") + off, HostConfig, "x.toml").groups

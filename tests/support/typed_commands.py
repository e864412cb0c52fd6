"""The command lines of all pages, and those of them that no test types as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs

CHECKOUT: Final = Path(__file__).parents[2]

QUICK_START: Final = "docs/quick-start.md"
#: The pages in which a command line is looked for: all of them, also one that is new.
PAGES: Final = (
    "README.md",
    "deploy/README.md",
    *sorted(str(page.relative_to(CHECKOUT)) for page in CHECKOUT.glob("docs/*.md")),
)

#: After any prompt: $ here, host$, vm$, and root's controller#, compute#, chroot#, vm#.
_TYPED: Final = re.compile(r"^ {0,4}(?:[a-z]*\$|[a-z]+#) (.*)$", re.M)


@attrs.frozen
class Exempt:
    """Command lines that are not run as they stand.

    Args:
        pattern: matches the whole line, without sudo and comment.
        reason: why.
        instead: the file that tries the same in another way, from the top of the checkout.
    """

    pattern: str
    reason: str
    instead: str

    def has(self, line: str) -> bool:
        """Whether this is such a line."""
        return re.fullmatch(self.pattern, line) is not None


EXEMPT: Final = (
    Exempt(r"git clone … .*", "the address is not known yet", ".ci/run"),
    Exempt(r"\. \.venv/bin/activate", "tests have the environment already", "Makefile"),
    Exempt(r"hbtrio ctl drain .*", "acts on every VM there is", "tests/api/test_drain_ctl.py"),
    Exempt(
        r"hbtrio ctl act .* (--before .*|--cancel-planned)",
        "needs a state directory",
        "tests/api/test_plan_ctl.py",
    ),
    Exempt(r"make lab", "a minute; what it runs is run", "tests/e2e/test_lab.py"),
    Exempt(r"hbtrio simulate .*", "runs for minutes", "tests/cli/test_simulate.py"),
    Exempt(r"mkdir -p /run/hbtrio .*", "changes this machine", "tests/deploy/test_units.py"),
    Exempt(r"hbtrio agent", "runs for good", "tests/e2e/test_agent.py"),
    Exempt(r"curl -A vim.*", "needs a registered VM", "tests/e2e/test_lab.py"),
    Exempt(r"make deb", "builds for minutes", "tests/deploy/test_deb.py"),
    Exempt(r"apt install \./dist/.*", "changes this machine", "tests/deploy/test_deb.py"),
    Exempt(r"apt install git .*", "changes this machine", ".ci/run"),
    Exempt(r"podman .*", "needs a registry", "tests/deploy/test_container.py"),
    Exempt(r".*deploy/install\.sh .*", "changes this machine", "tests/deploy/test_files.py"),
    Exempt(r"(mkdir -p|ls) tree.*", "what install.sh puts there", "tests/deploy/test_files.py"),
    Exempt(r"systemctl .*", "needs a running systemd", "tests/deploy/test_units.py"),
    Exempt(r"usermod .*", "changes this machine", "tests/deploy/test_deb.py"),
    Exempt(r"journalctl .*", "needs a running systemd", "tests/deploy/test_units.py"),
    Exempt(
        r"(/etc/init\.d/guest-client|mv) .*", "changes this machine", "tests/deploy/test_files.py"
    ),
    Exempt(r"(ls -l|cp) .*/var/lib/libvirt/.*", "needs libvirt", "tests/libvirt"),
    Exempt(r"ls -l /dev/virtio-ports/", "in a VM", "tests/vm"),
    Exempt(r"(virsh|virt-install|genisoimage) .*", "needs libvirt", "tests/libvirt"),
    Exempt(
        r"(export LIBVIRT.*|sed .*virsh domuuid.*|uuid=.*|socket=.*)",
        "needs libvirt",
        "tests/libvirt",
    ),
    Exempt(
        r"(/opt/hbtrio/bin/python -m pip|cp -r deploy config) .*",
        "fetches wheels for minutes",
        "tests/deploy/test_files.py",
    ),
    Exempt(
        r"(echo|tee|rm|touch|chmod) .*/(run|etc)/guest-client/.*",
        "in a VM",
        "tests/deploy/test_guide.py",
    ),
    Exempt(
        r"(mkdir -p|ln -s|sed -i) .*/etc/guest-client/.*",
        "in a VM",
        "tests/deploy/test_handlers_votes.py",
    ),
    Exempt(r"hbtrio ctl act .* -- virsh .*", "needs a VM that reboots", "tests/libvirt"),
    Exempt(r"hbtrio ctl events --follow", "has no end", "tests/e2e/test_lab.py"),
    Exempt(r"hbtrio ctl watch", "has no end", "tests/e2e/test_watch.py"),
    Exempt(r"hbtrio ctl --url .* history .*", "needs an agent", "tests/api/test_agent_ctl.py"),
    Exempt(r"curl --cacert .*", "needs an agent elsewhere", "tests/api/test_agent_tls.py"),
)


def typed(page: str) -> list[str]:
    """The command lines of a page in their order, without sudo, comments and broken lines."""
    text = (CHECKOUT / page).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [re.sub(r"\s+", " ", line.partition(" # ")[0]) for line in _TYPED.findall(text)]
    return [line.replace("sudo ", "").strip() for line in lines]


def exemptions(line: str) -> list[Exempt]:
    """Those that hold for a line."""
    return [exempt for exempt in EXEMPT if exempt.has(line)]

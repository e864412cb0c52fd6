"""What an application pays for: nothing of the daemons, and no event loop but its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Imports in a process of its own, then says which of the modules are there.
SCRIPT = """\
import sys
import {module}
print(*sorted(set("trio httpx h11 starlette rich cattrs inotify_simple sqlite3".split())
              & set(sys.modules)))
print(*sorted({{name.split(".")[1] for name in sys.modules if name.startswith("hbtrio.")}}))
"""


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("hbtrio.app", "app policy wire"),
        ("hbtrio.app.sync", "app policy wire"),
        ("hbtrio.testing", "fsm policy testing wire"),
    ],
)
def test_the_sdk_imports_nothing_of_the_daemons(module: str, packages: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(module=module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.splitlines() == ["", packages]

"""A host whose VMs are all started at once: no channel is overlooked, none waits for its turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.start_up import seconds_until_all_beat

pytestmark = pytest.mark.processes


async def test_500_channels_made_at_once_are_all_heartbeating_within_2_s(home: Path) -> None:
    assert await seconds_until_all_beat(500, within_s=20) <= 2.0

"""A long list is made in slices: nobody waits for all of it, and nothing is lost in between."""

from __future__ import annotations

import json

import pytest
import trio

from hbtrio.api import slices
from hbtrio.api.slices import SLICE, encoded_lines
from hbtrio.wire.operator import Forgotten


def line_of(number: int) -> Forgotten:
    return Forgotten(instances=number)


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, 3 * SLICE + 7])
async def test_all_lines_are_there_in_order(count: int) -> None:
    encoded = await encoded_lines(range(count), line_of)
    assert [one["instances"] for one in json.loads(encoded)] == list(range(count))


@pytest.mark.parametrize("gone", [{0}, {3}, {2, 3}, {0, 1, 2, 3, 4}])
async def test_what_is_gone_meanwhile_is_left_out(
    gone: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE", 2)
    encoded = await encoded_lines(range(5), lambda one: None if one in gone else line_of(one))
    assert [one["instances"] for one in json.loads(encoded)] == sorted({*range(5)} - gone)


async def test_others_run_between_the_slices() -> None:
    made_at_once = [0]

    def counted(number: int) -> Forgotten:
        made_at_once[-1] += 1
        return line_of(number)

    async def others() -> None:
        while True:
            made_at_once.append(0)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await encoded_lines(range(10 * SLICE), counted)
        nursery.cancel_scope.cancel()
    # Either of the two may run first in a pass.
    assert max(made_at_once) <= 2 * SLICE
    assert sum(made_at_once) == 10 * SLICE

from __future__ import annotations

import trio
import trio.testing

from hbtrio.lab.fake_vim import fake_vim


async def can_connect(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


async def test_a_vim_that_goes_down_twice_comes_up_once() -> None:
    async with fake_vim() as vim:
        assert await can_connect(vim.port)
        for _ in range(2):
            vim.go_down()
            await trio.testing.wait_all_tasks_blocked()
            assert not await can_connect(vim.port)
        vim.come_up()
        await trio.testing.wait_all_tasks_blocked()
        assert await can_connect(vim.port)

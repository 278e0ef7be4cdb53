"""Ending background tasks: all of them end, failures are told, and whoever waits can be cancelled."""

from __future__ import annotations

import asyncio

import pytest

from sealwire.kit.tasks import cancel_and_wait


async def test_one_that_failed_keeps_the_others_from_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("the disk is gone")

    failed = asyncio.create_task(fail(), name="keeper")
    await asyncio.wait({failed})
    others = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
    await cancel_and_wait(others[0], failed, None, others[1])
    assert all(task.cancelled() for task in others)
    assert [record.getMessage() for record in caplog.records] == ["the task keeper had failed"]
    await cancel_and_wait(*others, None)
    await cancel_and_wait()


async def test_whoever_waits_can_be_cancelled() -> None:
    closing, go_on = asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await go_on.wait()

    slow = asyncio.create_task(close_slowly())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(cancel_and_wait(slow))
    await closing.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

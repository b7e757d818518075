"""Work of strangers comes one piece per round of the event loop."""

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest

from authz_server.loop_turns import LoopTurns


@pytest.mark.requirement("attack-30")
def test_turns_let_a_heartbeat_through_between_any_two() -> None:
    async def crowd() -> list[str]:
        turns, happened = LoopTurns(), list[str]()

        async def page() -> None:
            async with turns.turn():
                happened.append("page")

        async def heartbeats() -> None:
            while True:
                happened.append("heartbeat")
                await asyncio.sleep(0)

        beating = asyncio.create_task(heartbeats())
        await asyncio.gather(*(page() for _ in range(50)))
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        return happened

    happened = asyncio.run(crowd())
    assert happened.count("page") == 50
    assert ("page", "page") not in pairwise(happened)


def test_turns_go_on_after_work_that_failed() -> None:
    async def failing_then_fine() -> bool:
        turns = LoopTurns()
        with suppress(ValueError):
            async with turns.turn():
                raise ValueError
        async with turns.turn():
            return True

    assert asyncio.run(failing_then_fine())

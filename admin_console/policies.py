"""Where the policy set stands; with `wait`, once it is active."""

from typing import Final

import anyio
from anyio import to_thread
from pydantic import Field

from admin_console.operation import AdminCall
from admin_console.wire import Wire
from registry.policy_activation import ACTIVE

MAXIMUM_WAIT_SECONDS: Final = 60.0


class StatusQuery(Wire):
    """Answer when the newest set is active, at the latest after `wait` seconds."""

    wait: float = Field(default=0.0, ge=0.0, le=MAXIMUM_WAIT_SECONDS)


class PolicyStatusAnswer(Wire):
    """`state` is active or waiting_for; `policy_version` 0 denies all."""

    state: str
    policy_version: int
    waiting_for: list[str]
    version: int


async def status(call: AdminCall) -> PolicyStatusAnswer:
    """The live policy set, and what a newer one waits for."""
    wait_seconds = call.query_as(StatusQuery).wait
    with anyio.move_on_after(wait_seconds):
        while wait_seconds:
            live = call.parts.live.state
            answer = await _answer(call)
            if answer.state == ACTIVE:
                return answer
            await call.parts.live.changed(live.snapshot.version, live.blocks.sequence)
    return await _answer(call)


async def _answer(call: AdminCall) -> PolicyStatusAnswer:
    state = await to_thread.run_sync(call.parts.registry.policy_state)
    return PolicyStatusAnswer(
        state=state.state,
        policy_version=state.live_version,
        waiting_for=list(state.waiting_for),
        version=call.parts.live.snapshot.version,
    )

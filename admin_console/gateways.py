"""Gateways: who serves, how fresh, and inviting a process to become part of one."""

from datetime import datetime

from anyio import to_thread

from admin_console.errors import not_found
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from admin_console.workers import latest_acks
from audit_log.event import EventType, Outcome
from registry.enrolment import CODE_LIFETIME_SECONDS


class WorkerItem(Wire):
    """One live worker: the snapshot and the revocations it applies, and when it last said so."""

    worker: str
    version: int
    sequence: int
    confirmed_at: datetime


class GatewayItem(Wire):
    """One Gateway; `keys` counts the enrolled keys."""

    name: str
    base_url: str
    servers: list[str]
    keys: int
    workers: list[WorkerItem]


class GatewaysAnswer(Wire):
    """Every Gateway, and what a worker that is up to date applies."""

    version: int
    sequence: int
    gateways: list[GatewayItem]


class JoinAnswer(Wire):
    """A single-use join code: `CODE.THUMBPRINT` of the control key. Shown once."""

    gateway: str
    join_code: str
    expires_in: int


async def list_gateways(call: AdminCall) -> GatewaysAnswer:
    """Gateways and their workers."""
    state = call.parts.live.state
    workers = await to_thread.run_sync(latest_acks, call.parts, call.now_ms)
    return GatewaysAnswer(
        version=state.snapshot.version,
        sequence=state.blocks.sequence,
        gateways=[
            GatewayItem(
                name=gateway.name,
                base_url=gateway.base_url,
                servers=list(gateway.servers),
                keys=len(gateway.jwks),
                workers=[
                    WorkerItem(
                        worker=ack.worker,
                        version=ack.version,
                        sequence=ack.sequence,
                        confirmed_at=moment(ack.received_at_ms),
                    )
                    for ack in workers
                    if ack.gateway == gateway.name
                ],
            )
            for gateway in state.snapshot.gateways.values()
        ],
    )


async def join(call: AdminCall) -> JoinAnswer:
    """Make a code with which one process may enrol into a Gateway, within ten minutes."""
    name = call.path["name"]
    if name not in call.parts.live.snapshot.gateways:
        raise not_found("There is no Gateway of that name.")
    code = await call.parts.enrolment.create_code(name, call.author, call.now_ms // 1000)
    await call.record(EventType.GATEWAY_INVITED, Outcome.SUCCEEDED, object_ref=f"Gateway/{name}")
    return JoinAnswer(
        gateway=name,
        join_code=f"{code}.{call.parts.control_key_thumbprint()}",
        expires_in=CODE_LIFETIME_SECONDS,
    )

"""Gateways: who serves, how fresh, inviting a process to become part of one, and its end there."""

from datetime import datetime

from anyio import to_thread
from sqlalchemy import Connection

from admin_console.errors import not_found
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from admin_console.workers import latest_acks
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from policies.problems import did_you_mean
from registry.enrolment import CODE_LIFETIME_SECONDS


class WorkerItem(Wire):
    """One live worker: the snapshot and the revocations it applies, and when it last said so."""

    worker: str
    version: int
    sequence: int
    confirmed_at: datetime


class KeyItem(Wire):
    """One enrolled key: that of one process, or of several that share a state directory."""

    thumbprint: str
    enrolled_at: datetime


class GatewayItem(Wire):
    """One Gateway."""

    name: str
    base_url: str
    servers: list[str]
    keys: list[KeyItem]
    workers: list[WorkerItem]


class GatewaysAnswer(Wire):
    """Every Gateway, and what a worker that is up to date applies."""

    version: int
    sequence: int
    gateways: list[GatewayItem]


class KeyRemovedAnswer(Wire):
    """The key that is no gateway's any more."""

    gateway: str
    thumbprint: str


class JoinAnswer(Wire):
    """A single-use join code: `CODE.THUMBPRINT` of the control key. Shown once."""

    gateway: str
    join_code: str
    expires_in: int


async def list_gateways(call: AdminCall) -> GatewaysAnswer:
    """Gateways and their workers."""
    state = call.parts.live.state
    workers = await to_thread.run_sync(latest_acks, call.parts, call.now_ms)
    enrolled = await to_thread.run_sync(call.parts.enrolment.enrolled)
    return GatewaysAnswer(
        version=state.snapshot.version,
        sequence=state.blocks.sequence,
        gateways=[
            GatewayItem(
                name=gateway.name,
                base_url=gateway.base_url,
                servers=list(gateway.servers),
                keys=[
                    KeyItem(thumbprint=key.thumbprint, enrolled_at=moment(key.enrolled_at * 1000))
                    for key in enrolled
                    if key.gateway == gateway.name
                ],
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


async def remove_key(call: AdminCall) -> KeyRemovedAnswer:
    """Take back one key, such as that of a machine that was stolen; the others go on serving."""
    gateway, thumbprint = call.path["name"], call.path["thumbprint"]

    def record(connection: Connection) -> None:
        event = call.made(
            EventType.GATEWAY_KEY_REMOVED,
            Outcome.REVOKED,
            object_ref=f"Gateway/{gateway}",
            detail=f"key {thumbprint}",
        )
        append_in(connection, (event,), call.now_ms)

    if not await call.parts.enrolment.remove_key(gateway, thumbprint, record):
        entry = call.parts.live.snapshot.gateways.get(gateway)
        if entry is None:
            raise not_found("There is no Gateway of that name.")
        near = did_you_mean(thumbprint, (str(jwk["kid"]) for jwk in entry.jwks)) or "."
        raise not_found(f"No such key is enrolled into that Gateway{near}")
    await call.parts.live.refresh_after_commit()
    return KeyRemovedAnswer(gateway=gateway, thumbprint=thumbprint)

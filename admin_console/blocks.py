"""Kill and restore, and which gateway workers confirmed. The rules are `registry.blocks`."""

from typing import Final, Literal

from anyio import to_thread
from pydantic import Field
from sqlalchemy import Connection

from admin_console.errors import AdminError, invalid_request, not_found
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from admin_console.workers import latest_acks
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from policies.problems import did_you_mean
from registry.acks import Ack
from registry.blocks import BlockKind, RevocationEvent
from registry.revocations import MAXIMUM_ID_LENGTH, MAXIMUM_REASON_LENGTH, Also

Kind = Literal["agent", "agent_group", "sub", "sid", "gid", "client_id", "inv", "jti"]

_KINDS: Final = tuple(kind for kind in BlockKind if kind is not BlockKind.CLAIMS)
_NAMED: Final = frozenset({BlockKind.AGENT, BlockKind.AGENT_GROUP, BlockKind.CLIENT})
_KNOWN: Final = {  # what can be said to exist, as people call it
    BlockKind.AGENT: "Agent",
    BlockKind.AGENT_GROUP: "The agent class",
    BlockKind.CLIENT: "The client",
    BlockKind.SUBJECT: "The person",
}
LISTED_RUNS: Final = 1_000  # of those that agents ended themselves


class BlockBody(Wire):
    """What to cut off, and why."""

    kind: Kind
    id: str = Field(min_length=1, max_length=MAXIMUM_ID_LENGTH)
    reason: str = Field(min_length=1, max_length=MAXIMUM_REASON_LENGTH)


class RestoreQuery(Wire):
    """Why it may come back."""

    reason: str = Field(default="", max_length=MAXIMUM_REASON_LENGTH)


class RevocationAnswer(Wire):
    """One revocation. `at_ms` is when the request came; gateways confirm `sequence`.

    `is_known`: whether an object of that name is declared, null where that cannot be said.
    `target_tokens_live_seconds`: how long credentials already handed to targets may still work.
    """

    sequence: int
    kind: str
    id: str
    blocked: bool
    not_before: int
    at_ms: int
    is_known: bool | None
    target_tokens_live_seconds: int


class BlocksQuery(Wire):
    """`runs`: also the newest 1000 runs that agents ended themselves."""

    runs: bool = False


class BlockItem(Wire):
    """The state of one subject: `not_before` refuses what was issued at or before it.

    `author` is who made it so, and `reason` why.
    """

    kind: str
    id: str
    blocked: bool
    not_before: int
    author: str
    reason: str


class BlocksAnswer(Wire):
    """Everything with a block or an epoch, newest first; `sequence` is the last of all."""

    sequence: int
    blocks: list[BlockItem]


class AckItem(Wire):
    """One live worker; the times are null until it confirms. `applied_at_ms` is its own clock."""

    gateway: str
    worker: str
    applied_at_ms: int | None
    received_at_ms: int | None


class AcksAnswer(Wire):
    """Which live workers apply everything up to `sequence`."""

    sequence: int
    acks: list[AckItem]


async def block(call: AdminCall) -> RevocationAnswer:
    """Refuse issue and use until restored, and everything issued before, for ever."""
    body = call.body_as(BlockBody)
    kind = BlockKind(body.kind)
    event = await call.parts.revocations.block(
        kind,
        body.id,
        reason=body.reason,
        author=call.author,
        also=_recorded(call, EventType.BLOCKED),
    )
    await call.parts.live.refresh_after_commit()
    return _answer(call, event)


async def restore(call: AdminCall) -> RevocationAnswer:
    """Lift a block. What was issued before it stays refused."""
    kind = next((each for each in _KINDS if each == call.path["kind"]), None)
    if kind is None:
        raise invalid_request(f"There is no such kind; kinds: {', '.join(_KINDS)}.")
    event = await call.parts.revocations.restore(
        kind,
        call.path["id"],
        reason=call.query_as(RestoreQuery).reason,
        author=call.author,
        also=_recorded(call, EventType.RESTORED),
    )
    if event is None:
        raise await _not_blocked(call, kind)
    await call.parts.live.refresh_after_commit()
    return _answer(call, event)


async def _not_blocked(call: AdminCall, kind: BlockKind) -> AdminError:
    """Either it is not blocked, or nothing is known of that name."""
    name = call.path["id"]
    is_known = name in _declared(call).get(kind, ())
    if kind is BlockKind.SUBJECT:
        is_known = await call.parts.person_of(name) is not None
    if is_known:
        description = f"{_KNOWN[kind]} {name!r} is not blocked."
        return AdminError(409, "not_blocked", description, "admin.not_blocked")
    return not_found(f"Nothing is blocked under that name{_meant(call, kind) or '.'}")


def _meant(call: AdminCall, kind: BlockKind) -> str:
    """The nearest name that is blocked; opaque ids resemble each other by chance, and are many."""
    if kind not in _NAMED:
        return ""
    blocked = (each for each in call.parts.live.blocks.entries.values() if each.blocked)
    return did_you_mean(call.path["id"], (each.id for each in blocked if each.kind is kind))


async def list_blocks(call: AdminCall) -> BlocksAnswer:
    """Everything with a block or an epoch; what agents ended themselves only if asked for."""
    runs = LISTED_RUNS if call.query_as(BlocksQuery).runs else 0
    sequence, listed = await to_thread.run_sync(lambda: call.parts.revocations.listed(runs=runs))
    return BlocksAnswer(
        sequence=sequence,
        blocks=[
            BlockItem(
                kind=event.kind,
                id=event.id,
                blocked=event.blocked,
                not_before=event.not_before,
                author=event.author,
                reason=event.reason,
            )
            for event in listed
        ],
    )


async def acknowledgements(call: AdminCall) -> AcksAnswer:
    """Of every live gateway worker, whether and when it applied a revocation."""
    text = call.path["sequence"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - 64 bit
        raise invalid_request("The sequence must be a number.")
    sequence = int(text)
    confirmed = {
        (ack.gateway, ack.worker): ack
        for ack in await to_thread.run_sync(call.parts.acks.acks_for, sequence)
    }
    alive = await to_thread.run_sync(latest_acks, call.parts, call.now_ms)
    workers = sorted({*confirmed, *((ack.gateway, ack.worker) for ack in alive)})
    return AcksAnswer(
        sequence=sequence,
        acks=[
            _ack_item(gateway, worker, confirmed.get((gateway, worker)))
            for gateway, worker in workers
        ],
    )


def _ack_item(gateway: str, worker: str, ack: Ack | None) -> AckItem:
    return AckItem(
        gateway=gateway,
        worker=worker,
        applied_at_ms=None if ack is None else ack.applied_at_ms,
        received_at_ms=None if ack is None else ack.received_at_ms,
    )


def _recorded(call: AdminCall, event_type: EventType) -> Also:
    """The event, in the transaction of the cut: whatever happens then, both stand or neither."""

    def also(connection: Connection, event: RevocationEvent) -> None:
        audited = call.made(
            event_type,
            Outcome.REVOKED if event.blocked else Outcome.SUCCEEDED,
            object_ref=f"{event.kind}/{event.id}",
            agent=event.id if event.kind is BlockKind.AGENT else None,
            reasons=(event.reason,) if event.reason else (),
            detail=f"sequence {event.sequence}",
        )
        append_in(connection, (audited,), event.at_ms)

    return also


def _declared(call: AdminCall) -> dict[BlockKind, set[str]]:
    """The names that exist, of the kinds that are declared."""
    snapshot = call.parts.live.snapshot
    return {
        BlockKind.AGENT: set(snapshot.agents),
        BlockKind.CLIENT: set(snapshot.clients),
        BlockKind.AGENT_GROUP: {
            group for agent in snapshot.agents.values() for group in agent.entry.groups
        },
    }


def _answer(call: AdminCall, event: RevocationEvent) -> RevocationAnswer:
    snapshot = call.parts.live.snapshot
    # A client that describes itself (its id is a URL) is declared nowhere.
    is_sayable = not (event.kind is BlockKind.CLIENT and event.id.startswith("https://"))
    known = _declared(call)
    return RevocationAnswer(
        sequence=event.sequence,
        kind=event.kind,
        id=event.id,
        blocked=event.blocked,
        not_before=event.not_before,
        at_ms=call.now_ms,
        is_known=event.id in known[event.kind] if event.kind in known and is_sayable else None,
        target_tokens_live_seconds=max(
            (server.credential.lifetime_seconds for server in snapshot.servers.values()), default=0
        ),
    )

"""`/control/v1/...`: what gateways get and give. Every request proves its Gateway and its key.

`enrol`, the one without a token, is `endpoints.control_enrolment`. `snapshot` is signed by the
control key, which the gateway pinned at enrolment. `audit` takes only events of the caller's own
sources, `catalogue` only tools of its own servers. Refusals are audited, and what publishes is
audited before it is done; the event stream is `endpoints.control_events`.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import AuditBatch, EventType, Outcome, PrincipalKind, source_owner
from audit_log.spool import SpoolUnavailable
from audit_log.store import IngestConflictError, IngestRefusedError
from authz_server.audit_events import record, record_refusal
from authz_server.clients.control_caller import ControlCaller, control_caller
from authz_server.endpoints.control_enrolment import enrol
from authz_server.endpoints.control_events import event_stream, second_worker, worker_of
from authz_server.errors import NO_STORE, UNAVAILABLE, resource_error
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.json_body import json_of
from authz_server.log_events import LogEvent
from authz_server.parts import Parts
from authz_server.reported_tools import MAXIMUM_BODY, MAXIMUM_COMMAS, ObservedTools, tools_of
from database.errors import DatabaseError
from registry.acks import Ack
from registry.publisher import UnpublishableRegistryError, enforcement_view
from registry.tool_catalogue import TooManyChangesError, UnknownServerError
from token_exchange.claims import Refusal

BASE: Final = "/control/v1"
MAXIMUM_SMALL_BODY: Final = 8_192
MAXIMUM_AUDIT_BODY: Final = 2_097_152  # the pusher reads at most 1 MiB of events at once
MAXIMUM_TOOLS: Final = 1_000

ERAS: Final = ("modern", "legacy")

_TOO_MANY_REPORTS: Final = Refusal(
    "temporarily_unavailable",
    "Too many gateways report tools now; say it again in a moment.",
    "no place to wait",
    "catalogue.busy",
)

_LOG: Final = structlog.get_logger(__name__)
_encode: Final = msgspec.json.Encoder().encode

Answer = Response | Refusal
Handler = Callable[[Parts, Request, ControlCaller], Awaitable[Answer]]


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker has applied."""

    worker: str
    sequence: int
    version: int
    applied_at_ms: int


def routes(parts: Parts) -> list[Route]:
    """The control channel."""
    table = (
        ("snapshot", "GET", snapshot),
        ("events", "GET", event_stream),
        ("acks", "POST", acks),
        ("audit", "POST", audit),
        ("catalogue", "POST", catalogue),
    )
    return [
        Route(f"{BASE}/enrol", _answering(parts, enrol), methods=["POST"]),
        *(
            Route(f"{BASE}/{name}", _answering(parts, _proved(handler)), methods=[method])
            for name, method, handler in table
        ),
    ]


async def snapshot(parts: Parts, request: Request, caller: ControlCaller) -> Answer:
    """The caller's EnforcementView, signed; 304 when it has it already."""
    second = second_worker(parts, request, caller)
    if second is not None:
        return second
    state = parts.live.state
    entity_tag = f'"{state.snapshot.version}-{state.blocks.sequence}"'
    headers = {**NO_STORE, "ETag": entity_tag}
    if request.headers.get("if-none-match") == entity_tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    view = enforcement_view(
        state.snapshot,
        caller.gateway.name,
        state.blocks,
        parts.keys.public_jwks(KeyPurpose.TOKENS),
        int(parts.clock()),
        parts.lease_seconds,
    )
    if view is None:
        return Refusal("invalid_token", "The gateway is gone.", "undeclared", "control.gateway")
    signed = parts.keys.sign(KeyPurpose.CONTROL, view)
    return Response(signed, media_type="application/jwt", headers=headers)


async def acks(parts: Parts, request: Request, caller: ControlCaller) -> Answer:
    """Keep that a worker has applied a sequence and a snapshot."""
    said = await json_of(request, Acknowledgement, MAXIMUM_SMALL_BODY)
    if isinstance(said, Refusal):
        return said
    worker = worker_of(request)
    second = second_worker(parts, request, caller)
    if second is not None:
        return second
    if said.worker != worker:
        return _invalid("A worker acknowledges for itself alone.", "acks.worker")
    await parts.live.refresh()  # what the worker applied may be younger than our last look
    state = parts.live.state
    if not (
        0 < len(said.worker) <= 128  # noqa: PLR2004 - a worker's name
        and 0 <= said.sequence <= state.blocks.sequence
        and 0 <= said.version <= state.snapshot.version
        and 0 <= said.applied_at_ms < 2**53
    ):
        return _invalid("The acknowledgement is out of range.", "acks.range")
    await parts.acks.record_ack(
        Ack(
            gateway=caller.gateway.name,
            worker=said.worker,
            sequence=said.sequence,
            version=said.version,
            applied_at_ms=said.applied_at_ms,
            received_at_ms=int(parts.clock() * 1000),
        )
    )
    return Response(status_code=HTTPStatus.NO_CONTENT, headers=NO_STORE)


async def audit(parts: Parts, request: Request, caller: ControlCaller) -> Answer:
    """Take in a batch of audit events of one of the caller's workers."""
    batch = await json_of(request, AuditBatch, MAXIMUM_AUDIT_BODY)
    if isinstance(batch, Refusal):
        return batch
    # INVARIANT: a gateway speaks for its own workers, never for another's or for us.
    if source_owner(batch.source) != f"gateway.{caller.gateway.name}":
        return Refusal(
            "access_denied", "Not a source of this gateway.", batch.source[:128], "audit.source"
        )
    try:
        through = await parts.audit_store.ingest(batch.source, batch.high_water, batch.events)
    except IngestRefusedError as error:
        return _invalid("The batch is malformed.", "audit.batch", str(error))
    except IngestConflictError as error:
        return _invalid("The batch contradicts what is stored.", "audit.conflict", str(error))
    return _json({"acknowledged": through})


async def catalogue(parts: Parts, request: Request, caller: ControlCaller) -> Answer:
    """Take in the tools a server showed; answer the names that are approved.

    One report of a gateway at a time, from its body on: what a list costs is paid by who sends it
    again and again, also where it says nothing new.
    """
    async with parts.reports.of(caller.gateway.name) as is_mine:
        return await _reported(parts, request, caller) if is_mine else _TOO_MANY_REPORTS


async def _reported(parts: Parts, request: Request, caller: ControlCaller) -> Answer:
    seen = await json_of(request, ObservedTools, MAXIMUM_BODY, maximum_commas=MAXIMUM_COMMAS)
    if isinstance(seen, Refusal):
        return seen
    if seen.server not in caller.gateway.servers or len(seen.tools) > MAXIMUM_TOOLS:
        return Refusal(
            "access_denied",
            "Not a server of this gateway, or too many tools.",
            f"{seen.server[:64]}, {len(seen.tools)} tools",
            "catalogue.server",
        )
    tools = await tools_of(seen.tools)
    if isinstance(tools, Refusal):
        return tools
    await parts.server_reports.record(
        caller.gateway.name,
        seen.server,
        error=_printable(seen.error),
        era=seen.era if seen.era in ERAS else "",
        now_ms=int(parts.clock() * 1000),
    )
    if seen.error:
        return _json({"approved": []})
    return await _taken_in(parts, caller, seen.server, tools)


async def _taken_in(
    parts: Parts, caller: ControlCaller, server: str, tools: list[dict[str, Any]]
) -> Answer:
    about: dict[str, Any] = {
        "principal_kind": PrincipalKind.GATEWAY,
        "client_id": caller.token.client_id,
        "object_ref": f"McpServer/{server}",
    }

    async def intent() -> None:
        await record(parts, EventType.GATEWAY_ALLOWED, Outcome.ALLOWED, **about)

    try:
        observed = await parts.catalogue.observe(server, tools, before_change=intent)
    except UnknownServerError:
        return _invalid("The server is not declared any more.", "catalogue.unknown")
    except TooManyChangesError:
        return Refusal(
            "temporarily_unavailable",
            "The tools of this server change too often; say it again in a minute.",
            f"{server}: more changes this minute than are written down",
            "catalogue.rate",
        )
    if observed.changed:
        await parts.live.refresh_after_commit()
        await record(
            parts,
            EventType.CATALOGUE_CHANGED,
            Outcome.SUCCEEDED,
            **about,
            detail=f"{len(tools)} tools seen, {len(observed.refused)} refused as tools",
        )
    return _json({"approved": list(observed.approved)})


def _printable(text: str) -> str:
    """What a gateway says went wrong: operators read it in a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text[:256])


def _proved(handler: Handler) -> Callable[[Parts, Request], Awaitable[Answer]]:
    """`handler`, called only for a proved Gateway."""

    async def proved(parts: Parts, request: Request) -> Answer:
        caller = await control_caller(parts, request, int(parts.clock()))
        if isinstance(caller, Refusal):
            return caller
        answer = await handler(parts, request, caller)
        if isinstance(answer, Refusal):
            await _record_refusal(parts, request, answer, caller)
            return resource_error(answer)
        return answer

    return proved


def _answering(
    parts: Parts, handler: Callable[[Parts, Request], Awaitable[Answer]]
) -> Callable[[Request], Awaitable[Response]]:
    """A Starlette endpoint: refusals are audited and translated, outages are 503."""

    async def endpoint(request: Request) -> Response:
        try:
            answer = await handler(parts, request)
            if isinstance(answer, Refusal):
                await _record_refusal(parts, request, answer, None)
                return resource_error(answer)
        except (SpoolUnavailable, DatabaseError, UnpublishableRegistryError) as error:
            _LOG.exception(
                LogEvent.REQUEST_UNAVAILABLE, path=request.url.path, error=type(error).__name__
            )
            return resource_error(UNAVAILABLE)
        return answer

    return endpoint


async def _record_refusal(
    parts: Parts, request: Request, refusal: Refusal, caller: ControlCaller | None
) -> None:
    await record_refusal(
        parts,
        EventType.GATEWAY_REFUSED,
        refusal,
        principal_kind=PrincipalKind.NONE if caller is None else PrincipalKind.GATEWAY,
        client_id=None if caller is None else caller.token.client_id,
        presented_token_id=None if caller is None else caller.token.jti,
        request_method=request.method,
        request_path=request.url.path,
    )


def _invalid(description: str, rule: str, detail: str | None = None) -> Refusal:
    return Refusal("invalid_request", description, detail or description, rule)


def _json(value: dict[str, Any]) -> Response:
    return Response(_encode(value), media_type="application/json", headers=NO_STORE)

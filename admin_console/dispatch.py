"""What every admin request goes through, whatever its handler: no handler can forget a step.

Order: who → role → query → body → what is required instead of a role → for a change, the event that
it was admitted (if that cannot be written, nothing is done) → the handler, which also records what
came of it.
Every refusal is an audit event with the operation, the rule and, when proved, the author.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from admin_console.authentication import Administrator, authenticate
from admin_console.errors import HEADERS, SERVER_ERROR, AdminError, error_response, translated
from admin_console.operation import AdminCall, Operation, insufficient_role, record
from admin_console.parts import AdminParts
from admin_console.request_body import body_of, query_of
from admin_console.roles import Access
from audit_log.event import EventType, Outcome
from audit_log.refusal_budgets import with_left_out
from audit_log.spool import SpoolUnavailable

MAXIMUM_AUDITED_PATH: Final = 512

_logger = structlog.get_logger(__name__)


def endpoint(operation: Operation, parts: AdminParts) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette endpoint of one row of the route table."""

    async def serve(request: Request) -> Response:
        now_ms = int(parts.clock() * 1000)
        who: Administrator | None = None
        try:
            if operation.access is not Access.ANYONE:
                who = await authenticate(request, parts)
            return await _serve(operation, parts, request, who, now_ms)
        except Exception as error:
            known = translated(error)
            if known is None:
                _logger.exception("admin.request_failed", operation=operation.path)
                known = SERVER_ERROR
            await _record_refusal(parts, request, who, known)
            return error_response(known)

    return serve


async def _serve(
    operation: Operation,
    parts: AdminParts,
    request: Request,
    who: Administrator | None,
    now_ms: int,
) -> Response:
    administrator = who or Administrator("", Access.ANYONE)
    if administrator.access < operation.access:
        raise insufficient_role(operation.access, operation.summary.rstrip("."))
    query = query_of(request, operation.query)
    body = None
    if operation.body is not None:
        body = await body_of(request, operation.body, operation.maximum_body_bytes)
    call = AdminCall(parts, administrator, request.path_params, now_ms, query, body)
    if operation.requires is not None:
        await operation.requires(call)
    if operation.changes:
        await record(parts, EventType.ADMIN_ALLOWED, Outcome.ALLOWED, who, **_of_request(request))
    answer = await operation.handler(call)
    return Response(
        answer.model_dump_json(by_alias=True), media_type="application/json", headers=HEADERS
    )


async def _record_refusal(
    parts: AdminParts, request: Request, who: Administrator | None, error: AdminError
) -> None:
    left_out = parts.refusal_budgets.admit(None if who is None else who.author, parts.clock())
    if left_out is None:
        return
    outcome = Outcome.DENIED if error.status < SERVER_ERROR.status else Outcome.FAILED
    try:
        await record(
            parts,
            EventType.ADMIN_REFUSED,
            outcome,
            who,
            error_code=error.code,
            reasons=(error.rule,),
            detail=with_left_out(error.detail or error.description, left_out),
            status=error.status,
            **_of_request(request),
        )
    except SpoolUnavailable:
        # Nothing was done; the refusal stands whether or not it could be recorded.
        _logger.warning("admin.refusal_not_recorded", rule=error.rule)


def _of_request(request: Request) -> dict[str, str]:
    path = request.scope["path"].encode("utf-8", "replace").decode()
    return {"request_method": request.method, "request_path": path[:MAXIMUM_AUDITED_PATH]}

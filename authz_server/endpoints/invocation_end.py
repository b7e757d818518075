"""`POST /invocations/{inv}/end`: an agent says that its run is over, and everything of it ends.

In this order:

1. one `Authorization: DPoP` header with a token of ours, of an agent's run (`clients.run_token`)
2. it is a token of the run in the path: nobody ends another's run
3. one DPoP proof for this very URI, with `ath`, by the token's key, used once (RFC 9449 §7)
4. not so many of this agent in an hour, nor of it for this person, over all processes: every ended
   run is an entry in the memory of every gateway, and a notice to each, for a day
5. the run's refresh token families end and the run is blocked for good: every gateway refuses
   its tokens, closes its streams and drops its credentials, and no grant issues for it again; the
   audit says so in the same transaction

An expired token is taken: it says whose run it was and opens nothing, and what an agent may still
have then (a refresh token, calls under way) is exactly what should end. For the same reason blocks
and epochs are not asked. Ending an ended run costs no gateway anything and is answered alike; its
families are ended once more, because a kill by an operator leaves them. One too many ends the
families alone: its access tokens end by themselves within fifteen minutes. Errors are those of
RFC 6750 §3.1 and RFC 9449 §7.1; tokens bound by a certificate do not exist (decision 0009).
Operators end a run with `countersign kill run/INV`.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import AuditEvent, EventType, Outcome, principal_kind
from audit_log.spool import SpoolUnavailable
from audit_log.transaction_log import append_in
from authz_server.audit_events import made, record_refusal
from authz_server.clients.presented_token import presented_token
from authz_server.clients.proof_header import used_proof_in
from authz_server.clients.run_token import RunToken, run_token
from authz_server.errors import NO_STORE, UNAVAILABLE, resource_error
from authz_server.log_events import LogEvent
from authz_server.parts import Parts
from authz_server.store.refresh_tokens import revoke_of_run_in
from database.errors import DatabaseError
from registry.blocks import AGENT_AUTHOR, BlockKind, RevocationEvent
from registry.revocation_rows import number_of_author
from token_exchange.claims import Refusal
from token_exchange.delegation import chain_ids
from token_exchange.token_types import SubjectProfile

REASON: Final = "ended by its agent"
ENDS_AN_HOUR: Final = 1_000  # one every four seconds, of one agent for one person
# More than one a second, of one agent for whomever. A day of it is 120,000 entries: some 30 MB in
# each gateway, and 4 ms of it for each further revocation.
ENDS_OF_AGENT_AN_HOUR: Final = 5_000
RETRY_SECONDS: Final = 60
_HOUR_MS: Final = 3_600_000
_LOG: Final = structlog.get_logger(__name__)
_NOT_ONE_HEADER: Final = Refusal(
    "invalid_token",
    "Exactly one Authorization header with a DPoP-bound token is needed.",
    "no, another or more than one Authorization header",
    "run.authorization",
)
_ANOTHERS: Final = Refusal(
    "insufficient_scope", "The token is not of this run.", "another run's token", "run.other"
)
TOO_MANY: Final = Refusal(
    "temporarily_unavailable",
    "Too many runs were ended in the last hour. This one's refresh tokens have ended; its access "
    "tokens end by themselves within 15 minutes.",
    f"more than {ENDS_AN_HOUR} runs of this agent for this person in an hour",
    "run.too_many_ends",
)
TOO_MANY_OF_AGENT: Final = Refusal(
    TOO_MANY.code,
    TOO_MANY.description,
    f"more than {ENDS_OF_AGENT_AN_HOUR} runs of this agent in an hour",
    "run.too_many_ends_of_agent",
)


class TooManyEndsError(Exception):
    """One more than an agent may end in an hour: nothing was written."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal


def routes(parts: Parts) -> list[Route]:
    """The one route."""
    return [Route("/invocations/{inv}/end", _answering(parts), methods=["POST"])]


async def end(parts: Parts, request: Request, now: int) -> Refusal | None:
    """End the run in the path; why not, which is recorded. `now` is NumericDate seconds."""
    run = await _proved(parts, request, now)
    if isinstance(run, Refusal):
        await _record_refusal(parts, run)
        return run
    known = parts.live.blocks.entries.get((BlockKind.INVOCATION, run.invocation))
    if known is not None and known.blocked:
        await parts.refresh_tokens.revoke_of_run(run.invocation, now)
        return None
    return await _end(parts, run, now)


async def _end(parts: Parts, run: RunToken, now: int) -> Refusal | None:
    """Steps 4 and 5."""
    record = _event(parts, run)

    def in_budget_and_recorded(connection: Connection, event: RevocationEvent) -> None:
        _require_budget(connection, event)
        append_in(connection, (record,), event.at_ms)

    # INVARIANT: families, run and record in one transaction: an ended run is not recorded again.
    try:
        await parts.revocations.block(
            BlockKind.INVOCATION,
            run.invocation,
            reason=_reason(run),
            author=_author(run),
            once=True,
            also=in_budget_and_recorded,
            anyway=lambda connection: revoke_of_run_in(connection, run.invocation, now),
        )
    except TooManyEndsError as error:
        await _end_families(parts, run, error.refusal, now)
        return error.refusal
    # This process first: it is what the gateways hear it from.
    await parts.live.refresh_after_commit()
    return None


async def _end_families(parts: Parts, run: RunToken, refusal: Refusal, now: int) -> None:
    """No gateway remembers families, so they end whatever the budget says, and are recorded."""
    record = made(
        parts,
        EventType.INVOCATION_REFUSED,
        Outcome.DENIED,
        error_code=refusal.code,
        reasons=(refusal.rule,),
        detail=refusal.detail,
        **_about(run),
    )
    now_ms = int(parts.clock() * 1000)
    if not await parts.refresh_tokens.revoke_of_run(
        run.invocation, now, also=lambda connection: append_in(connection, (record,), now_ms)
    ):
        proved = f"{_author(run)}, {_reason(run)}"
        await _record_refusal(parts, refusal, proved=proved, **_about(run))


def _require_budget(connection: Connection, event: RevocationEvent) -> None:
    """Step 4, of an event that is written already and goes with the refusal."""
    budgets = (
        (None, ENDS_OF_AGENT_AN_HOUR, TOO_MANY_OF_AGENT),
        (event.reason, ENDS_AN_HOUR, TOO_MANY),
    )
    for reason, most, refusal in budgets:
        since_ms = event.at_ms - _HOUR_MS
        number = number_of_author(connection, event.author, since_ms, most + 1, reason=reason)
        if number > most:
            raise TooManyEndsError(refusal)


async def _proved(parts: Parts, request: Request, now: int) -> RunToken | Refusal:
    """Steps 1 to 3."""
    unverified_token = presented_token(request.headers.getlist("authorization"))
    if unverified_token is None:
        return _NOT_ONE_HEADER
    compiled = await parts.compiler.compiled(parts.live.snapshot)
    run = run_token(unverified_token, parts, compiled, now)
    if isinstance(run, Refusal):
        return run
    if run.invocation != request.path_params["inv"]:
        return _ANOTHERS
    proof = await used_proof_in(
        request.headers.getlist("dpop"),
        parts.replay,
        method=request.method,
        uri=f"{parts.issuer}/invocations/{run.invocation}/end",
        now=now,
        access_token=unverified_token,
        expected_thumbprint=run.key,
    )
    return proof if isinstance(proof, Refusal) else run


def _author(run: RunToken) -> str:
    """Who ended it."""
    return f"{AGENT_AUTHOR}{run.agent}"


def _reason(run: RunToken) -> str:
    """Why, in the sequence: another for each person the agent acts for."""
    return REASON if run.claims.act is None else f"{REASON} for {run.claims.sub}"


def _event(parts: Parts, run: RunToken) -> AuditEvent:
    return made(
        parts,
        EventType.INVOCATION_ENDED,
        Outcome.REVOKED,
        author=_author(run),
        reasons=(REASON,),
        **_about(run),
    )


def _about(run: RunToken) -> dict[str, Any]:
    """What an event says of the run and of whose it is."""
    claims = run.claims
    return {
        "principal_kind": principal_kind(
            sub_profile=claims.sub_profile, has_actor=claims.act is not None
        ),
        "object_ref": f"{BlockKind.INVOCATION}/{run.invocation}",
        "agent": run.agent,
        "actor_chain": chain_ids(claims.act),
        "client_id": claims.client_id,
        "user": claims.sub if claims.sub_profile == SubjectProfile.USER else None,
        "session": claims.sid,
        "consent": claims.gid,
        "invocation": run.invocation,
        "transaction": claims.txn,
        "presented_token_id": claims.jti,
    }


async def _record_refusal(parts: Parts, refusal: Refusal, **fields: Any) -> None:  # noqa: ANN401 - the struct names them
    await record_refusal(
        parts,
        EventType.INVOCATION_REFUSED,
        refusal,
        request_method="POST",
        request_path="/invocations/{inv}/end",
        **fields,
    )


def _answering(parts: Parts) -> Callable[[Request], Awaitable[Response]]:
    """The Starlette endpoint: refusals are audited and translated, outages are 503."""

    async def endpoint(request: Request) -> Response:
        try:
            refusal = await end(parts, request, int(parts.clock()))
        except (SpoolUnavailable, DatabaseError) as error:
            _LOG.exception(
                LogEvent.REQUEST_UNAVAILABLE, path=request.url.path, error=type(error).__name__
            )
            return resource_error(UNAVAILABLE)
        if refusal is None:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=NO_STORE)
        response = resource_error(refusal)
        if refusal in (TOO_MANY, TOO_MANY_OF_AGENT):  # RFC 6585 §4
            response.status_code = HTTPStatus.TOO_MANY_REQUESTS
            response.headers["Retry-After"] = str(RETRY_SECONDS)
        return response

    return endpoint

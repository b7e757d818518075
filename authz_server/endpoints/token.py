"""`/oauth/token` (RFC 6749 §3.2): one POST in, one JSON document out, whatever `Accept` says.

The phases are `authz_server.token_phases`; here the request is read, the audit event written, the
token signed and the answer put on the wire. The order of the last three is the product's promise:
what is not recorded is not signed, and what is not signed is not answered. A code or refresh token
is used up in the write that records what it yields: one that could not be recorded stays good.
"""

from functools import partial
from typing import Any, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from audit_log.event import AuditEvent, EventType, Outcome, principal_kind
from audit_log.spool import SpoolUnavailable
from authz_server.audit_events import made, record_refusal
from authz_server.clients.self_declared import evidence_of
from authz_server.errors import NO_STORE, UNAVAILABLE, token_error
from authz_server.issuing.id_token import id_token_claims
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.issuing.using_up import used_up_unless_revoked
from authz_server.log_events import LogEvent
from authz_server.parameters import Parameters, form_of
from authz_server.parts import Parts
from authz_server.token_phases import Incoming, Planned, Refused, plan_issuance
from authz_server.token_request import (
    AuthenticatedClient,
    IssuancePlan,
    RefusedForPerson,
)
from database.errors import DatabaseError
from idp_connectors.workload.tls_peer import TLS_PEER_EXTENSION
from registry.clients import NO_AUTHENTICATION
from registry.publisher import UnpublishableRegistryError
from token_exchange.authorization_details import describe_details
from token_exchange.claims import AccessTokenClaims, Refusal
from token_exchange.delegation import acting_agent, chain_ids
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES, SubjectProfile

PATH: Final = "/oauth/token"
# The largest request is an exchange: a token at its limit, an assertion, details.
MAXIMUM_FORM_BYTES: Final = 3 * MAXIMUM_TOKEN_BYTES

# What a refused request named is recorded, but it is text of the caller's choosing.
MAXIMUM_RECORDED: Final = 512

STALE: Final = Refusal(
    "temporarily_unavailable",
    "The service cannot answer now. Try again.",
    "the registry was not read for longer than the lease",
    "token.stale",
)

_LOG: Final = structlog.get_logger(__name__)
_encode: Final = msgspec.json.Encoder().encode


def routes(parts: Parts) -> list[Route]:
    """The token endpoint."""
    return [Route(PATH, partial(token, parts), methods=["POST"])]


async def token(parts: Parts, request: Request) -> Response:
    """Answer one token request (RFC 6749 §5.1, §5.2)."""
    uses_authorization = "authorization" in request.headers
    try:
        answer = await _answer(parts, request, uses_authorization)
    except (SpoolUnavailable, DatabaseError, UnpublishableRegistryError) as error:
        # Fail closed: nothing was signed, or what was signed is not told.
        _LOG.exception(LogEvent.REQUEST_UNAVAILABLE, path=PATH, error=type(error).__name__)
        return token_error(UNAVAILABLE)
    if isinstance(answer, Refusal):
        return token_error(answer, authorization_used=uses_authorization)
    return Response(_encode(answer), media_type="application/json", headers=NO_STORE)


async def _answer(
    parts: Parts, request: Request, uses_authorization: bool
) -> dict[str, Any] | Refusal:
    started = parts.clock()
    form = await form_of(request, maximum_bytes=MAXIMUM_FORM_BYTES)
    if isinstance(form, Refusal):
        return await _recorded(parts, Refused(form), None, started)
    if parts.live.is_stale(parts.lease_seconds):
        # A revocation may not have reached us: nothing is issued on an old picture.
        return await _recorded(parts, Refused(STALE), form, started)
    # Only the listener for client certificates sets it; there the endpoint has another URI.
    certificates = request.scope.get("extensions", {}).get(TLS_PEER_EXTENSION)
    incoming = Incoming(
        parameters=form,
        dpop_headers=request.headers.getlist("dpop"),
        has_authorization_header=uses_authorization,
        endpoint_uri=f"{parts.issuer if certificates is None else parts.mtls_base_url}{PATH}",
        now=int(parts.clock()),  # after the body: a slow sender does not stop the clock
        peer_certificates=certificates or (),
    )
    planned = await plan_issuance(incoming, parts)
    if isinstance(planned, Refused):
        return await _recorded(parts, planned, form, started)
    refusal = await _use_up_and_record(parts, planned, started)
    if refusal is not None:
        refused = Refused(refusal, planned.grant, planned.request.client)
        return await _recorded(parts, refused, form, started)
    return _signed(parts, planned.plan)


def _signed(parts: Parts, plan: IssuancePlan) -> dict[str, Any]:
    claims = plan.claims
    value = plan.credential_value
    if value is None:
        value = parts.keys.sign(KeyPurpose.TOKENS, claims)
    answer: dict[str, Any] = {
        "access_token": value,
        "token_type": plan.token_type or ("Bearer" if claims.cnf is None else "DPoP"),
        "expires_in": claims.exp - claims.iat,
    }
    if plan.refresh_token is not None:
        answer["refresh_token"] = plan.refresh_token
    if claims.scope:
        answer["scope"] = claims.scope
    if claims.authorization_details:  # RFC 9396 §7
        answer["authorization_details"] = describe_details(claims.authorization_details)
    if plan.issued_token_type is not None:  # RFC 8693 §2.2.1
        answer["issued_token_type"] = plan.issued_token_type
    if plan.id_token is not None:
        told = id_token_claims(plan.id_token, claims=claims, access_token=value)
        answer["id_token"] = parts.keys.sign(KeyPurpose.ID_TOKENS, told)
    return answer


async def _use_up_and_record(parts: Parts, planned: Planned, started: float) -> Refusal | None:
    """Phase 8; a refusal if what the token is made from was used, or revoked, meanwhile.

    INVARIANT: what is good once is used up and its yield recorded in one transaction: no token that
    the audit does not know, and no used code or refresh token that yielded nothing.
    """
    events = [_issuance(parts, planned, started)]
    if planned.plan.mandate is not None:
        # Its own event, so that whoever looks for what was done without asking finds all of it.
        events.insert(0, _use_of_mandate(parts, planned))
    if planned.plan.use_up is not None:
        return await used_up_unless_revoked(parts, planned, planned.plan.use_up, events)
    for event in events:
        await parts.spool.record(event)
    return None


def _use_of_mandate(parts: Parts, planned: Planned) -> AuditEvent:
    plan, client = planned.plan, planned.request.client
    return made(
        parts,
        EventType.MANDATE_USED,
        Outcome.ALLOWED,
        **_who(plan.subject_token or plan.claims, client),
        actor_chain=chain_ids(plan.claims.act),
        client_id=client.record.client_id,
        target_service=plan.target_service,
        token_id=plan.claims.jti,
        object_ref=plan.mandate,
        detail=plan.basis,
    )


def _issuance(parts: Parts, planned: Planned, started: float) -> AuditEvent:
    plan, client = planned.plan, planned.request.client
    token = plan.claims
    evidence = evidence_of(client, parts.issuer, planned.request.now)
    return made(
        parts,
        planned.grant.issued,
        Outcome.SUCCEEDED,
        **_who(plan.subject_token or token, client),
        actor_chain=chain_ids(token.act),
        client_id=client.record.client_id,
        decision_id=plan.decision_id,
        target_service=plan.target_service,
        tool=plan.tool,
        argument_digest=plan.argument_digest,
        policy_matched=plan.policy_matched,
        token_issued=True,
        token_id=token.jti,
        presented_token_id=None if plan.subject_token is None else plan.subject_token.jti,
        ttl_seconds=token.exp - token.iat,
        user_name=None if plan.id_token is None else plan.id_token.person.name,
        evidence={} if evidence is None else dict(evidence.claims),
        policy_version=parts.live.snapshot.policies.version,
        detail=plan.basis,
        status=200,
        **_request_fields(parts, started),
    )


async def _recorded(
    parts: Parts, refused: Refused, form: Parameters | None, started: float
) -> Refusal:
    """The refusal, after the audit has it. A refusal stands even when it cannot be recorded."""
    client = refused.client
    event = EventType.TOKEN_REFUSED if refused.grant is None else refused.grant.refused
    resource = None if form is None else form.one("resource")
    try:
        await record_refusal(
            parts,
            event,
            refused.refusal,
            proved=_proved(client),
            **_who_asked(client),
            **_for_whom(refused.person),
            target_service=None if resource is None else resource[:MAXIMUM_RECORDED],
            **_request_fields(parts, started),
        )
    except SpoolUnavailable:
        _LOG.exception(LogEvent.REFUSAL_NOT_RECORDED, rule=refused.refusal.rule)
        return UNAVAILABLE
    return refused.refusal


def _who(subject: AccessTokenClaims, client: AuthenticatedClient) -> dict[str, Any]:
    """The principal of a token, as the audit names it."""
    actor, attestation = subject.act, subject.attn
    workload = None if client.evidence is None else client.evidence.subject
    is_person = subject.sub_profile == SubjectProfile.USER
    return {
        "principal_kind": principal_kind(
            sub_profile=subject.sub_profile, has_actor=actor is not None
        ),
        "agent": acting_agent(subject),
        "user": subject.sub if is_person else None,
        "workload_svid": workload if actor is None else actor.sub,
        "workload_type": None if attestation is None else attestation.method,
        "session": subject.sid,
        "consent": subject.gid,
        "transaction": subject.txn,
        "invocation": subject.inv,
    }


def _proved(client: AuthenticatedClient | None) -> str | None:
    """Who asked, if that is more than what a stranger said."""
    if client is None or client.method == NO_AUTHENTICATION:
        return None
    return client.record.client_id


def _who_asked(client: AuthenticatedClient | None) -> dict[str, Any]:
    if client is None:
        return {}
    evidence = client.evidence
    return {
        "client_id": client.record.client_id,
        "agent": client.record.agent,
        "workload_svid": None if evidence is None else evidence.subject,
        "workload_type": None if evidence is None else evidence.method,
    }


def _for_whom(person: RefusedForPerson | None) -> dict[str, Any]:
    if person is None:
        return {}
    return {"user": person.user, "user_name": person.user_name}


def _request_fields(parts: Parts, started: float) -> dict[str, Any]:
    return {
        "request_method": "POST",
        "request_path": PATH,
        "latency_ms": round((parts.clock() - started) * 1000, 3),
    }

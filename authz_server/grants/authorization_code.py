"""The authorization_code grant (RFC 6749 §4.1.3): a person's consent becomes one token.

The code is read; the request is held against it (client, redirect URI, verifier: RFC 6749 and
RFC 7636, by Authlib; resource, key, agent, tools: here); then one statement consumes it; then a
plan is returned, which names the code and the login session as things the token depends on, so
that the shared phase holds their times against blocks and epochs. Nothing is signed.

A wrong request leaves the code usable by the right one. A right request for a used code means
that two parties hold everything the code needs, so whatever the first use yielded is blocked
(RFC 6749 §4.1.2, RFC 9700 §2.1.1).

The token is *agent for a person*: `sub` the person, `act` the agent as it is attested in this
very request, bound to the attested key. Only `countersign-cli` gets *person directly*, for the
administration interface and nothing else.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from audit_log.event import EventType, Outcome
from authz_server.audit_events import record
from authz_server.authlib_bridge import validate_code_request
from authz_server.compiled_snapshot import admin_audience
from authz_server.issuing.access_token import agent_actor, attestation_of, expiry
from authz_server.parts import Parts
from authz_server.requested_access import (
    SCOPE_OPENID,
    ServerAtEndpoint,
    acts_for,
    available_tools,
    reachable_endpoint,
)
from authz_server.store.codes import CodeGrant, StoredCode
from authz_server.token_request import IdTokenRequest, IssuancePlan, TokenRequest
from idp_connectors.evidence import Evidence, Person
from registry.blocks import BlockKind, Subject, subjects_of
from token_exchange.claims import (
    AccessTokenClaims,
    AuthorizationDetail,
    Confirmation,
    Refusal,
    UserContext,
)
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS, SubjectProfile

AUTHOR: Final = "authz_server"


def _unusable(rule: str, detail: str) -> Refusal:
    # One sentence for all: which of the reasons it was helps only who tries codes.
    return Refusal("invalid_grant", "The code cannot be used by this request.", detail, rule)


UNKNOWN: Final = _unusable("code.unknown", "no such code")
EXPIRED: Final = _unusable("code.expired", "code, session or consent ended")
REPLAYED: Final = _unusable("code.replayed", "used before; what it yielded is blocked now")
PROVIDER_GONE: Final = _unusable("code.provider_gone", "the person's provider is not declared")
NOT_COMMAND_LINE: Final = _unusable("code.not_command_line", "person directly, but not for admin")
NO_EVIDENCE: Final = _unusable("code.agent", "no evidence, or of another agent")
NOT_ALLOWED: Final = _unusable("code.no_longer_allowed", "server or group left since consent")
NO_TOOLS: Final = _unusable("code.no_tools", "no consented tool is left")
OTHER_RESOURCE: Final = Refusal(
    "invalid_target", "The code is for another resource.", "resource", "code.resource"
)
NO_PROOF: Final = Refusal(
    "invalid_dpop_proof", "A DPoP proof is required.", "no proof", "code.proof_missing"
)
OTHER_KEY: Final = Refusal(
    "invalid_dpop_proof", "The code is bound to another key.", "dpop_jkt", "code.dpop_jkt"
)
NOT_ATTESTED_KEY: Final = Refusal(
    "invalid_dpop_proof",
    "The DPoP key is not the key that was attested.",
    "cnf of the evidence differs",
    "code.attested_key",
)


@dataclass(frozen=True, slots=True)
class AgentAtServer:
    """The attested agent a code was for, and what of the consent is still to be had."""

    evidence: Evidence
    endpoint: ServerAtEndpoint
    details: tuple[AuthorizationDetail, ...]


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
    """Redeem a code."""
    stored = parts.codes.find(request.parameters.get("code", ""))
    refusal = validate_code_request(request, stored, parts.issuer)
    if refusal is not None:
        return refusal
    if stored is None:  # the bridge refused this already; kept so that no change there opens it
        return UNKNOWN
    if stored.used_at is not None:
        return await _revoke(stored.grant, parts)
    plan = _plan(request, stored, parts)
    if isinstance(plan, IssuancePlan) and not await parts.codes.consume(stored.digest, request.now):
        return await _revoke(stored.grant, parts)
    return plan


async def _revoke(code: CodeGrant, parts: Parts) -> Refusal:
    """Block what the first use of this code yielded: the agent's run, or the one token."""
    kind, subject_id = BlockKind.TOKEN, code.token_id
    if code.invocation is not None:
        kind, subject_id = BlockKind.INVOCATION, code.invocation
    await parts.revocations.block(
        kind,
        subject_id,
        reason="authorization code used twice",
        author=AUTHOR,
        now_ms=int(parts.clock() * 1000),
    )
    await record(
        parts,
        EventType.BLOCKED,
        Outcome.REVOKED,
        object_ref=f"{kind}/{subject_id}",
        author=AUTHOR,
        client_id=code.client_id,
        agent=code.agent,
        user=code.sub,
        session=code.sid,
        consent=code.gid,
        invocation=code.invocation,
        reasons=(REPLAYED.rule,),
    )
    return REPLAYED


def _plan(request: TokenRequest, stored: StoredCode, parts: Parts) -> IssuancePlan | Refusal:
    """Everything but the use of the code. Pure of effects: may be asked any number of times."""
    refusal = _mismatch(request, stored, parts)
    if refusal is not None:
        return refusal
    code = stored.grant
    if code.agent is None:
        is_admin = code.resource == admin_audience(parts.issuer)
        if request.client.record.kind != "cli" or not is_admin:
            return NOT_COMMAND_LINE
        return _issuance(request, code, None, parts)
    agent = _agent_at_server(request, code, parts)
    return agent if isinstance(agent, Refusal) else _issuance(request, code, agent, parts)


def _mismatch(request: TokenRequest, stored: StoredCode, parts: Parts) -> Refusal | None:
    code, now, proof = stored.grant, request.now, request.proof_thumbprint
    providers = parts.live.snapshot.identity_providers
    rows = (
        (stored.expires_at <= now or code.valid_until <= now, EXPIRED),
        (code.person.identity_provider not in providers, PROVIDER_GONE),
        # RFC 8707 §2.2: at the token endpoint a resource may be repeated, never replaced.
        (request.resource not in ((), (code.resource,)), OTHER_RESOURCE),
        (proof is None, NO_PROOF),
        (code.dpop_jkt not in (None, proof), OTHER_KEY),  # RFC 9449 §10
    )
    return next((refusal for is_wrong, refusal in rows if is_wrong), None)


def _agent_at_server(
    request: TokenRequest, code: CodeGrant, parts: Parts
) -> AgentAtServer | Refusal:
    client, evidence = request.client, request.client.evidence
    agent = parts.live.snapshot.agents.get(code.agent or "")
    # INVARIANT: `act` is made from evidence of this request, and of the agent consented to.
    if evidence is None or agent is None or client.record.agent != code.agent:
        return NO_EVIDENCE
    if evidence.key_thumbprint not in (None, request.proof_thumbprint):
        return NOT_ATTESTED_KEY
    endpoint = reachable_endpoint(parts.live.snapshot, client.record, agent, code.resource)
    if endpoint is None or not acts_for(agent, code.person):
        return NOT_ALLOWED
    details = _still_available(code.details, endpoint)
    return AgentAtServer(evidence, endpoint, details) if details else NO_TOOLS


def _still_available(
    details: tuple[AuthorizationDetail, ...], endpoint: ServerAtEndpoint
) -> tuple[AuthorizationDetail, ...]:
    available = available_tools(endpoint)
    left = (
        msgspec.structs.replace(
            detail, tools=tuple(tool for tool in detail.tools if tool in available)
        )
        for detail in details
    )
    return tuple(detail for detail in left if detail.tools)


def _issuance(
    request: TokenRequest, code: CodeGrant, agent: AgentAtServer | None, parts: Parts
) -> IssuancePlan:
    claims = _person_claims(request, code, parts)
    if agent is not None:
        claims = _with_agent(claims, request.now, code, agent)
    wants_id_token = SCOPE_OPENID in code.scope.split()
    return IssuancePlan(
        claims=claims,
        client=request.client,
        id_token=IdTokenRequest(code.person, code.nonce) if wants_id_token else None,
        target_service=None if agent is None else agent.endpoint.server.name,
        depends_on=_dependencies(claims, code, parts),
    )


def _person_claims(request: TokenRequest, code: CodeGrant, parts: Parts) -> AccessTokenClaims:
    """The token of a person, as yet without an agent."""
    key = request.proof_thumbprint
    return AccessTokenClaims(
        iss=parts.issuer,
        aud=code.resource,
        jti=code.token_id,
        iat=request.now,
        nbf=request.now,
        exp=expiry(request.now, MAXIMUM_LIFETIME_SECONDS, code.valid_until),
        sub=code.sub,
        sub_profile=SubjectProfile.USER.value,
        client_id=code.client_id,
        scope=code.scope,
        cnf=None if key is None else Confirmation(key),
        sid=code.sid,
        gid=code.gid,
        txn=code.transaction,
        inv=code.invocation,
    )


def _with_agent(
    claims: AccessTokenClaims, now: int, code: CodeGrant, agent: AgentAtServer
) -> AccessTokenClaims:
    """The same token, held by an attested agent that acts for the person."""
    record, evidence = agent.endpoint.agent, agent.evidence
    return msgspec.structs.replace(
        claims,
        exp=expiry(now, record.invocation_seconds, code.valid_until, evidence.expires_at),
        act=agent_actor(evidence, record),
        authorization_details=agent.details,
        attn=attestation_of(evidence),
        uctx=user_context(code.person, agent.endpoint.server.person_attributes),
    )


def user_context(person: Person, declared: tuple[str, ...]) -> UserContext | None:
    """What a server may know of the person: the attributes it declared and no other."""
    known: dict[str, object] = {
        "name": person.name,
        "acr": person.acr,
        "auth_time": person.auth_time,
        "groups": person.groups,
        "purpose": person.attributes.get("purpose"),
        "ticket": person.attributes.get("ticket"),
    }
    said = {name: known[name] for name in declared if known.get(name) is not None}
    return msgspec.convert(said, UserContext) if said else None


def _dependencies(
    claims: AccessTokenClaims, code: CodeGrant, parts: Parts
) -> tuple[tuple[Subject, int], ...]:
    """Code and session with their own times: what is older than an epoch yields nothing."""
    groups = {name: agent.entry.groups for name, agent in parts.live.snapshot.agents.items()}
    of_code = ((subject, code.created_at) for subject in subjects_of(claims, groups))
    of_session = (
        (Subject(kind, subject_id), code.session_created_at)
        for kind, subject_id in (
            (BlockKind.SUBJECT, code.sub),
            (BlockKind.CLAIMS, code.sub),
            (BlockKind.SESSION, code.sid),
        )
    )
    return (*of_code, *of_session)

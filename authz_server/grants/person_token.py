"""The token of a person, for an agent or for their own command line: what two grants share.

A code and a refresh token end in the same token: `sub` the person, `act` the agent as it is
attested in this very request (or its client, where nobody vouches for it, is named by us), bound to
the key proved in it, cut to what registry and groups still allow, and dependent on everything it
came from. What was granted once never grows here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from authz_server.clients.self_declared import evidence_of
from authz_server.issuing.access_token import agent_actor, attestation_of, expiry
from authz_server.parts import Parts
from authz_server.requested_access import (
    SCOPE_OFFLINE,
    SCOPE_OPENID,
    ServerAtEndpoint,
    acts_for,
    available_tools,
    reachable_endpoint,
)
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
from token_exchange.narrowing import format_scope
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS, SubjectProfile

Unusable = Callable[[str, str], Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonGrant:
    """What a person let a client have, as a grant presents it now. Times are NumericDate seconds.

    `sid` is None where nobody named the person's session, `gid` where no consent was needed.

    `created_at` and `session_created_at` meet epochs; `claims_at` is when the identity provider
    last said what `person` says.
    """

    client_id: str
    agent: str | None
    resource: str
    scope: str
    details: tuple[AuthorizationDetail, ...]
    nonce: str | None
    sub: str
    person: Person
    sid: str | None
    session_created_at: int
    claims_at: int
    valid_until: int
    gid: str | None
    invocation: str | None
    token_id: str
    transaction: str
    created_at: int


@dataclass(frozen=True, slots=True)
class AgentAtServer:
    """The attested agent a grant is for, and what of the consent is still to be had."""

    evidence: Evidence
    endpoint: ServerAtEndpoint
    details: tuple[AuthorizationDetail, ...]


NOT_ATTESTED_KEY = Refusal(
    "invalid_dpop_proof",
    "The DPoP key is not the key that was attested.",
    "cnf of the evidence differs",
    "code.attested_key",
)


NOT_BOUND = Refusal(
    "invalid_dpop_proof",
    "This resource takes tokens bound to a key only: send a DPoP proof.",
    "require_bound, and no proof",
    "token.not_bound",
)


def agent_at_server(
    request: TokenRequest, granted: PersonGrant, parts: Parts, unusable: Unusable
) -> AgentAtServer | Refusal:
    """The agent this request proved, if it is the one consented to and may still have something."""
    client = request.client
    evidence = evidence_of(client, parts.issuer, request.now)
    agent = parts.live.snapshot.agents.get(granted.agent or "")
    # INVARIANT: `act` is made from evidence of this request, and of the agent consented to; what
    # a client that proves no workload says of itself is never more than `clients.self_declared`.
    if evidence is None or agent is None or client.record.agent != granted.agent:
        return unusable("agent", "no evidence, or of another agent")
    if evidence.key_thumbprint not in (None, request.proof_thumbprint):
        return NOT_ATTESTED_KEY
    endpoint = reachable_endpoint(parts.live.snapshot, client.record, agent, granted.resource)
    if endpoint is None or not acts_for(agent, granted.person):
        return unusable("no_longer_allowed", "server or group left since consent")
    # INVARIANT: a server that requires bound tokens gets no other, whoever asks.
    if endpoint.server.require_bound and request.proof_thumbprint is None:
        return NOT_BOUND
    details = _still_available(granted.details, endpoint)
    if not details:
        return unusable("no_tools", "no consented tool is left")
    return AgentAtServer(evidence, endpoint, details)


def issuance(
    request: TokenRequest,
    granted: PersonGrant,
    agent: AgentAtServer | None,
    parts: Parts,
    refresh_token: str | None = None,
) -> IssuancePlan:
    """The plan of the token, with an ID token where `openid` was granted."""
    claims = _person_claims(request, granted, parts)
    if agent is not None:
        claims = _with_agent(claims, request.now, granted, agent)
    wants_id_token = SCOPE_OPENID in granted.scope.split()
    return IssuancePlan(
        claims=claims,
        client=request.client,
        id_token=IdTokenRequest(granted.person, granted.nonce) if wants_id_token else None,
        refresh_token=refresh_token,
        target_service=None if agent is None else agent.endpoint.server.name,
        depends_on=_dependencies(claims, granted, parts),
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


def _person_claims(request: TokenRequest, granted: PersonGrant, parts: Parts) -> AccessTokenClaims:
    """The token of a person, as yet without an agent."""
    key = request.proof_thumbprint
    return AccessTokenClaims(
        iss=parts.issuer,
        aud=granted.resource,
        jti=granted.token_id,
        iat=request.now,
        nbf=request.now,
        exp=expiry(request.now, MAXIMUM_LIFETIME_SECONDS, granted.valid_until),
        sub=granted.sub,
        sub_profile=SubjectProfile.USER.value,
        client_id=granted.client_id,
        # What may be asked of the authorization server is nobody else's business.
        scope=format_scope(frozenset(granted.scope.split()) - {SCOPE_OFFLINE}),
        cnf=None if key is None else Confirmation(key),
        sid=granted.sid,
        gid=granted.gid,
        txn=granted.transaction,
        inv=granted.invocation,
    )


def _with_agent(
    claims: AccessTokenClaims, now: int, granted: PersonGrant, agent: AgentAtServer
) -> AccessTokenClaims:
    """The same token, held by an attested agent that acts for the person."""
    record, evidence = agent.endpoint.agent, agent.evidence
    return msgspec.structs.replace(
        claims,
        exp=expiry(now, record.invocation_seconds, granted.valid_until, evidence.expires_at),
        act=agent_actor(evidence, record),
        authorization_details=agent.details,
        attn=attestation_of(evidence),
        uctx=user_context(granted.person, agent.endpoint.server.person_attributes),
    )


def _dependencies(
    claims: AccessTokenClaims, granted: PersonGrant, parts: Parts
) -> tuple[tuple[Subject, int], ...]:
    """Grant and session with their own times: what is older than an epoch yields nothing.

    The claims epoch alone is met by the time of the claims: asking for them again is the remedy.
    """
    groups = {name: agent.entry.groups for name, agent in parts.live.snapshot.agents.items()}
    of_grant = (
        (subject, granted.claims_at if subject.kind is BlockKind.CLAIMS else granted.created_at)
        for subject in subjects_of(claims, groups)
    )
    of_person = (
        (Subject(BlockKind.SUBJECT, granted.sub), granted.session_created_at),
        (Subject(BlockKind.CLAIMS, granted.sub), granted.claims_at),
    )
    if granted.sid is None:
        return (*of_grant, *of_person)
    session = Subject(BlockKind.SESSION, granted.sid)
    return (*of_grant, *of_person, (session, granted.session_created_at))

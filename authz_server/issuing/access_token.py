"""What the access tokens of agents and gateways say (RFC 9068, docs/architecture.md).

Pure: claims in, claims out; nothing is signed here. A client never contributes a claim: every
value comes from verified evidence, the registry or ourselves, so no request can forge `act`,
`sub` or `aud` (attack: act chain forging).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from idp_connectors.evidence import Evidence
from registry.snapshot import AgentRecord, ClientRecord
from token_exchange.authorization_details import ACTION_CALL
from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    Attestation,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
)
from token_exchange.identifiers import new_id
from token_exchange.token_types import (
    DETAIL_TOOL,
    MAXIMUM_LIFETIME_SECONDS,
    SCOPE_TOOLS,
    SubjectProfile,
)

CONTROL_LIFETIME_SECONDS: Final = 600  # a gateway takes a new one well before


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """What every token of ours has: issuer, audience, the key it is bound to, time, randomness."""

    issuer: str
    audience: str
    key: JwkThumbprint
    now: int
    random: Callable[[int], bytes]


def agent_alone_claims(
    new: NewToken,
    agent: AgentRecord,
    client: ClientRecord,
    evidence: Evidence,
    details: tuple[AuthorizationDetail, ...],
    *,
    run: AccessTokenClaims | None = None,
) -> AccessTokenClaims:
    """A token for an agent without a person: `sub` is the agent, no `act`.

    `run` is a token of the run that goes on; without one a new run begins.
    """
    return AccessTokenClaims(
        iss=new.issuer,
        aud=new.audience,
        jti=new_id("tok", new.random),
        iat=new.now,
        nbf=new.now,
        exp=expiry(new.now, agent.invocation_seconds, evidence.expires_at),
        sub=agent_subject(agent),
        sub_profile=SubjectProfile.AI_AGENT.value,
        client_id=client.client_id,
        scope=SCOPE_TOOLS,
        agent=agent.entry.name,
        cnf=Confirmation(new.key),
        authorization_details=details,
        txn=new_id("txn", new.random) if run is None else run.txn,
        inv=new_id("inv", new.random) if run is None else run.inv,
        attn=attestation_of(evidence),
    )


def control_claims(new: NewToken, client: ClientRecord) -> AccessTokenClaims:
    """A gateway's token for the control channel."""
    return AccessTokenClaims(
        iss=new.issuer,
        aud=new.audience,
        jti=new_id("tok", new.random),
        iat=new.now,
        nbf=new.now,
        exp=new.now + CONTROL_LIFETIME_SECONDS,
        sub=client.client_id,
        sub_profile=SubjectProfile.SERVICE.value,
        client_id=client.client_id,
        cnf=Confirmation(new.key),
    )


def agent_subject(agent: AgentRecord) -> str:
    """The `sub` of an agent alone."""
    return f"agent:{agent.entry.name}"


def agent_actor(evidence: Evidence, agent: AgentRecord) -> Actor:
    """The actor an attested agent is: named by its evidence, never by its request."""
    return Actor(
        iss=evidence.issuer,
        sub=evidence.subject,
        sub_profile=SubjectProfile.AI_AGENT.value,
        agent=agent.entry.name,
    )


def attestation_of(evidence: Evidence) -> Attestation:
    """How the workload proved itself; the token carries the digest, the audit the evidence."""
    return Attestation(
        provider=evidence.provider,
        method=evidence.method,
        level=evidence.level,
        iat=evidence.issued_at,
        exp=evidence.expires_at,
        evidence=evidence.digest,
    )


def expiry(now: int, invocation_seconds: int, *not_after: int) -> int:
    """The earliest of the product's bound, the run's and every `not_after` (NumericDate)."""
    return min(now + MAXIMUM_LIFETIME_SECONDS, now + invocation_seconds, *not_after)


def details_at(agent: AgentRecord, server: str) -> tuple[AuthorizationDetail, ...]:
    """All an agent may have at one server, as RFC 9396 details; none when it may have nothing."""
    prefix = f"{server}/"
    tools = tuple(
        pattern.removeprefix(prefix) for pattern in agent.entry.tools if pattern.startswith(prefix)
    )
    if not tools:
        return ()
    return (AuthorizationDetail(DETAIL_TOOL, server, tools, (ACTION_CALL,)),)

"""Who is asking: exactly one client authentication per token request, by one method of a table.

Order: count what was presented (several: `invalid_request`, RFC 6749 §2.3) → choose the method →
the method's own checks → the client is one that uses this method → a `client_id` that was sent
agrees. Nothing is consumed here: what must be single use is returned, and used once the whole
request has been judged so far. Every failure says the same to the caller; the audit learns which.

The unverified issuer of an assertion (of a JWT-SVID the trust domain of its `sub`) selects exactly
one verifier: a declared trust provider's, or the keys of the one client of that name. It never
selects a key, and the verifier checks it again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from authz_server.clients.documents import UNAVAILABLE
from authz_server.clients.key_assertions import private_key_jwt
from authz_server.clients.presented import FAILED, SENTENCE, Authenticated, Presented, failed
from authz_server.clients.resolving import document_of_holder
from authz_server.compiled_snapshot import CompiledSnapshot
from authz_server.parts import Parts
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.token_request import AuthenticatedClient
from idp_connectors.evidence import Evidence
from idp_connectors.workload.matching import match_agent
from idp_connectors.workload.spiffe import SpiffeVerifier
from idp_connectors.workload.spiffe_id import parse_spiffe_id, trust_domain_issuer
from idp_connectors.workload.spiffe_x509 import unverified_trust_domain
from registry.clients import (
    NO_AUTHENTICATION,
    PRIVATE_KEY_JWT,
    WORKLOAD_ASSERTION,
    WORKLOAD_CERTIFICATE,
)
from token_exchange.claims import JwkThumbprint, Refusal
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    CLIENT_ASSERTION_JWT_SPIFFE,
)
from token_exchange.verify import unverified_claims

# Longer than any attestation is accepted, so its id is remembered until it is refused for age.
ATTESTATION_MEMORY_SECONDS: Final = 900
Method = Callable[[Presented, Parts, CompiledSnapshot], Awaitable[Authenticated | Refusal]]


async def authenticate(
    presented: Presented, parts: Parts, compiled: CompiledSnapshot
) -> Authenticated | Refusal:
    """The client of this request, or why it is none (RFC 6749 §2.3, RFC 7521 §4.2)."""
    issuer = _issuer_of(presented)
    if isinstance(issuer, Refusal):
        return issuer
    method = WORKLOAD_CERTIFICATE if presented.peer_certificates else _method_of(issuer, parts)
    presented = replace(presented, unverified_issuer=issuer)
    found = await METHODS[method](presented, parts, compiled)
    if isinstance(found, Refusal):
        if found.code == UNAVAILABLE:  # told only to who holds something of this client's
            return found
        # One sentence for every cause: which clients exist is nobody's business.
        return replace(found, code=FAILED, description=SENTENCE)
    record = found.client.record
    if method not in record.authentication:
        return failed("client.method", f"{record.client_id} does not use {method}")
    claimed = presented.parameters.one("client_id")
    # draft-ietf-oauth-spiffe-client-auth §3: a SPIFFE workload may name itself by its SPIFFE ID.
    evidence = found.client.evidence
    names = (None, record.client_id, evidence.subject if evidence else None)
    if claimed not in names:
        return failed("client.id", f"the proof is {record.client_id}'s")
    return found


def _issuer_of(presented: Presented) -> str | Refusal:
    """The unverified issuer of the one assertion; "" when there is no authentication at all."""
    values = presented.parameters.values
    ways = (
        presented.has_authorization_header,
        "client_secret" in values,
        "client_assertion" in values or "client_assertion_type" in values,
        bool(presented.peer_certificates),
    )
    if sum(ways) > 1:
        return Refusal(
            "invalid_request",
            "More than one client authentication was sent.",
            "several of Authorization, client_secret, client_assertion and a certificate",
            "client.several",
        )
    has_header, has_secret, has_assertion, _ = ways
    if has_header or has_secret:
        return failed("client.secret", "no client of this server has a shared secret")
    if not has_assertion:
        return ""
    kind = presented.parameters.one("client_assertion_type")
    if kind not in {CLIENT_ASSERTION_JWT_BEARER, CLIENT_ASSERTION_JWT_SPIFFE}:
        return failed("client.assertion_type", "another or no client_assertion_type")
    return assertion_issuer(
        presented.unverified_assertion, is_svid=kind == CLIENT_ASSERTION_JWT_SPIFFE
    )


def assertion_issuer(unverified_assertion: str, *, is_svid: bool = False) -> str | Refusal:
    """Whose assertion it says it is: never empty, for nothing is authenticated without one."""
    unverified = unverified_claims(unverified_assertion, require_issuer=False)
    if isinstance(unverified, Refusal):
        return failed(unverified.rule, unverified.detail)
    spiffe_id = parse_spiffe_id(unverified.subject)
    if spiffe_id is not None:  # whatever `iss` says: a JWT-SVID need not have one (JWT-SVID §3)
        return trust_domain_issuer(spiffe_id.trust_domain)
    if is_svid:
        return failed("spiffe.subject", "sub is no SPIFFE ID")
    return unverified.issuer or failed("jwt.missing", "iss")


def _method_of(unverified_issuer: str, parts: Parts) -> str:
    if not unverified_issuer:
        return NO_AUTHENTICATION
    is_workload = parts.workload_verifier(unverified_issuer) is not None
    return WORKLOAD_ASSERTION if is_workload else PRIVATE_KEY_JWT


async def _workload_assertion(
    presented: Presented, parts: Parts, _compiled: CompiledSnapshot
) -> Authenticated | Refusal:
    """A workload's attestation: the trust provider verifies it, the registry names the Agent."""
    verifier = parts.workload_verifier(presented.unverified_issuer)
    if verifier is None:
        return failed("client.issuer", "no trust provider has this issuer")
    evidence = await verifier.verify(presented.unverified_assertion, presented.now)
    return _as_agent(evidence, WORKLOAD_ASSERTION, presented, parts)


async def _workload_certificate(
    presented: Presented, parts: Parts, _compiled: CompiledSnapshot
) -> Authenticated | Refusal:
    """An X.509-SVID on the connection (draft-ietf-oauth-spiffe-client-auth §3, RFC 8705 §2)."""
    trust_domain = unverified_trust_domain(presented.peer_certificates)
    if isinstance(trust_domain, Refusal):
        return trust_domain
    verifier = parts.workload_verifier(trust_domain_issuer(trust_domain))
    if not isinstance(verifier, SpiffeVerifier):
        return failed("client.issuer", "no trust provider has this trust domain")
    evidence = await verifier.verify_certificates(presented.peer_certificates, presented.now)
    return _as_agent(evidence, WORKLOAD_CERTIFICATE, presented, parts)


def _as_agent(
    evidence: Evidence | Refusal, method: str, presented: Presented, parts: Parts
) -> Authenticated | Refusal:
    """The one Agent that this evidence is, and its implicit client.

    As of now: keys were fetched meanwhile, and an Agent that changed then may be matched no more.
    """
    if isinstance(evidence, Refusal):
        return evidence
    snapshot = parts.live.snapshot
    agent = match_agent(evidence, snapshot.agents)
    if isinstance(agent, Refusal):
        return agent
    record = snapshot.clients.get(agent.entry.name)
    if record is None:
        return failed("client.implicit", f"{agent.entry.name} has no implicit client")
    # INVARIANT: an assertion with an id of its own is single use; one without (a reused platform
    # token) lives by audience, short life and the key it is bound to.
    uses = (
        ()
        if evidence.proof_id is None
        else (
            UsedOnce(
                OnceKind.ATTESTATION,
                evidence.issuer,
                evidence.proof_id,
                max(evidence.expires_at, presented.now + ATTESTATION_MEMORY_SECONDS),
            ),
        )
    )
    key = evidence.key_thumbprint
    return Authenticated(
        AuthenticatedClient(
            record,
            method,
            evidence,
            None if key is None else JwkThumbprint(key),
            evidence.issued_at,
        ),
        uses,
    )


async def _no_authentication(
    presented: Presented, parts: Parts, compiled: CompiledSnapshot
) -> Authenticated | Refusal:
    """A public client: it only says who it is, and its grant has to prove the rest (PKCE)."""
    client_id = presented.parameters.one("client_id")
    record = compiled.snapshot.clients.get(client_id or "")
    if record is None:
        document = await document_of_holder(parts, client_id or "", presented.parameters)
        if isinstance(document, Refusal):
            return document
        record = None if document is None else document.client
    if record is None:
        return failed("client.unknown", "no client of this client_id, or none was sent")
    return Authenticated(AuthenticatedClient(record, NO_AUTHENTICATION))


METHODS: Final[Mapping[str, Method]] = {
    WORKLOAD_ASSERTION: _workload_assertion,
    WORKLOAD_CERTIFICATE: _workload_certificate,
    PRIVATE_KEY_JWT: private_key_jwt,
    NO_AUTHENTICATION: _no_authentication,
}

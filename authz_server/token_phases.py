"""What every token request goes through, so that no grant can forget it.

 1. parse         one value per name, only parameters we know, one known grant_type
 2. authenticate  exactly one method proves exactly one client (`clients.authentication`)
 3. bind key      one DPoP proof for this endpoint, by the key the client proved
 4. entitle       the client may ask for these resources and use this grant; it is not blocked
 5. use           assertion and proof are used up, in one write: a replay ends here
 6. grant         what is special to the grant; ends in a plan (`grants.catalog`)
 7. gate          the plan is one its client may hold, its token is not too large, and nothing it
                  depends on is revoked, by all that was committed before 5
 8. record        the issuance is in the durable audit spool, or nothing is issued; a code or a
                  refresh token is used up in the very transaction that records what it yields
 9. sign          with the key of the purpose

A wrong request never reaches 5, so it burns nobody's proof, and none that 7 refuses reaches 8.
Grants sign nothing. Every refusal is audited with its rule. Blocks are looked at three times: for
the client (4), by the grant for what it starts from, and for everything the new token will depend
on (7). Who may hold what, in 4 and 7, is `entitlements`.

INVARIANT: nothing slips in between a cut and the news of it. A cut has the time at which it held
the one writer of all processes, rounded up; a token of that second or before is refused for its
`iat`. One of a later second was asked for after that, so what its request wrote was written after
the cut's commit: its proof (5), and then 7 reads the news; or its code or refresh token (8), and
then that very write looks whether there are news that 7 did not know. Without `depends_on` nothing
in the token is older than the request; an exchange is, but its gateway holds the subject token
against the news at every call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from authz_server.clients.authentication import authenticate
from authz_server.clients.presented import Authenticated, Presented
from authz_server.clients.proof_header import proof_in, use_of_proof
from authz_server.clients.self_declared import SELF_DECLARED_KINDS
from authz_server.compiled_snapshot import CompiledSnapshot
from authz_server.entitlements import may_ask_for, may_hold
from authz_server.grants.catalog import GRANTS, GrantType
from authz_server.issuing.token_size import size_problem
from authz_server.parameters import Parameters
from authz_server.parts import Parts
from authz_server.revoked import refused_as_revoked, what_revokes
from authz_server.token_request import (
    AuthenticatedClient,
    IssuancePlan,
    RefusedForPerson,
    TokenRequest,
)
from registry.blocks import BlockKind, Subject, subjects_of
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import DpopProof

MAY_REPEAT: Final = frozenset({"resource", "audience"})  # RFC 8707 §2, RFC 8693 §2.1
MAXIMUM_RESOURCES: Final = 8


@dataclass(frozen=True, slots=True)
class Incoming:
    """One POST to the token endpoint, parsed. Nothing in it is verified. `now` in seconds.

    `peer_certificates` are those of a TLS connection, in DER.
    """

    parameters: Parameters
    dpop_headers: Sequence[str]
    has_authorization_header: bool
    endpoint_uri: str
    now: int
    peer_certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal, with what was proved of its client until then, for the audit."""

    refusal: Refusal
    grant: GrantType | None = None
    client: AuthenticatedClient | None = None
    person: RefusedForPerson | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A token that may be issued: phases 1 to 7 are passed.

    `revoked_since` asks again whether anything it depends on is revoked.
    """

    plan: IssuancePlan
    grant: GrantType
    request: TokenRequest
    revoked_since: Callable[[], Refusal | None]


async def plan_issuance(incoming: Incoming, parts: Parts) -> Planned | Refused:
    """Phases 1 to 7."""
    grant_type = _grant_type_of(incoming.parameters)
    if isinstance(grant_type, Refusal):
        return Refused(grant_type)
    grant = GRANTS[grant_type]
    compiled = await parts.compiler.compiled(parts.live.snapshot)
    presented = Presented(
        incoming.parameters,
        incoming.has_authorization_header,
        incoming.now,
        peer_certificates=incoming.peer_certificates,
    )
    found = await authenticate(presented, parts, compiled)
    if isinstance(found, Refusal):
        return Refused(found, grant)
    client = found.client
    proof = _bound_key(incoming, grant, client)
    if isinstance(proof, Refusal):
        return Refused(proof, grant, client)
    refusal = _entitlement_problem(incoming, grant_type, client, compiled, parts)
    if refusal is None:
        refusal = await _use_up(found, proof, incoming.now, parts)
    if refusal is not None:
        return Refused(refusal, grant, client)
    request = TokenRequest(
        grant_type=grant_type,
        parameters=_owned(incoming.parameters, grant),
        resource=incoming.parameters.values.get("resource", ()),
        client=client,
        proof_thumbprint=None if proof is None else proof.jkt,
        now=incoming.now,
    )
    plan = await grant.grant(request, parts)
    if not isinstance(plan, IssuancePlan):
        return _refused_by_grant(plan, grant, client)
    revoked = partial(_revocation_problem, plan, compiled, parts)
    if not may_hold(plan, request, compiled):
        refusal = _refused("invalid_target", "This client may not hold this token.", "token.holder")
    else:
        if plan.depends_on and plan.use_up is None:
            await parts.live.refresh()
        refusal = size_problem(plan) or revoked()
    planned = Planned(plan, grant, request, revoked)
    return planned if refusal is None else Refused(refusal, grant, client)


def _refused_by_grant(
    refused: Refusal | RefusedForPerson, grant: GrantType, client: AuthenticatedClient
) -> Refused:
    if isinstance(refused, Refusal):
        return Refused(refused, grant, client)
    return Refused(refused.refusal, grant, client, refused)


def _grant_type_of(parameters: Parameters) -> str | Refusal:
    # RFC 6749 §3.2: parameters must not be included more than once.
    repeated = sorted(set(parameters.repeated()) - MAY_REPEAT)
    if repeated:
        return _refused("invalid_request", "A parameter was sent twice.", "token.repeated")
    if any(len(parameters.values.get(name, ())) > MAXIMUM_RESOURCES for name in MAY_REPEAT):
        return _refused("invalid_target", "Too many resources were named.", "token.resources")
    grant_type = parameters.one("grant_type")
    if grant_type is None:
        return _refused("invalid_request", "grant_type is missing.", "token.grant_type")
    if grant_type not in GRANTS:
        return _refused(
            "unsupported_grant_type", "This grant_type is not served.", "token.grant_unknown"
        )
    return grant_type


def _bound_key(
    incoming: Incoming, grant: GrantType, client: AuthenticatedClient
) -> DpopProof | Refusal | None:
    proof = proof_in(
        incoming.dpop_headers, method="POST", uri=incoming.endpoint_uri, now=incoming.now
    )
    if isinstance(proof, Refusal):
        return proof
    # An attested client proves the attested key whatever it asks for; a gateway's exchange binds
    # nothing, and its own assertion is the proof of its key.
    if not grant.binds_key and client.evidence is None:
        return (
            proof
            if proof is None
            else _refused(
                "invalid_request",
                "This grant's tokens are not bound to a key; send no DPoP proof.",
                "dpop.unwanted",
            )
        )
    is_self_declared = client.record.kind in SELF_DECLARED_KINDS
    if proof is None and is_self_declared:
        return None  # the grant looks whether the server takes bearer tokens
    if proof is None:
        return _refused("invalid_dpop_proof", "A DPoP proof is required.", "dpop.missing")
    # INVARIANT: a stolen assertion is worth nothing without the key it names. A platform's proof
    # may name none (a JWT-SVID): the token is then bound to whatever key the request proves.
    names_no_key = client.key_thumbprint is None and client.evidence is not None
    is_free = is_self_declared or client.method == "none" or names_no_key
    if client.key_thumbprint != proof.jkt and not is_free:
        return _refused(
            "invalid_client",
            "The DPoP proof is by another key than the client's.",
            "client.key",
        )
    return proof


def _entitlement_problem(
    incoming: Incoming,
    grant_type: str,
    client: AuthenticatedClient,
    compiled: CompiledSnapshot,
    parts: Parts,
) -> Refusal | None:
    if "audience" in incoming.parameters.values:
        return _refused("invalid_target", "Name the target by `resource`.", "token.audience")
    entitled = may_ask_for(client.record)
    for resource in incoming.parameters.values.get("resource", ()):
        if compiled.audience_class(resource) not in entitled:
            return _refused(
                "invalid_target", "This client may not ask for this resource.", "token.resource"
            )
    if grant_type not in client.record.grant_types:
        return _refused(
            "unauthorized_client", "This client may not use this grant.", "token.grant_of_client"
        )
    made_at = incoming.now if client.proved_at is None else client.proved_at
    revoked = what_revokes(parts.live.blocks, _subjects_of_client(client, compiled), made_at)
    return None if revoked is None else _revoked(revoked)


def _subjects_of_client(
    client: AuthenticatedClient, compiled: CompiledSnapshot
) -> tuple[Subject, ...]:
    found = [Subject(BlockKind.CLIENT, client.record.client_id)]
    agent = client.record.agent
    if agent is not None:
        found.append(Subject(BlockKind.AGENT, agent))
        groups = compiled.agent_groups.get(agent, ())
        found.extend(Subject(BlockKind.AGENT_GROUP, group) for group in groups)
    return tuple(found)


async def _use_up(
    found: Authenticated, proof: DpopProof | None, now: int, parts: Parts
) -> Refusal | None:
    uses = found.uses if proof is None else (*found.uses, use_of_proof(proof))
    replayed = await parts.replay.use(uses, now)
    if replayed is None:
        return None
    is_proof = proof is not None and replayed == use_of_proof(proof)
    code = "invalid_dpop_proof" if is_proof else "invalid_client"
    return _refused(code, "This proof was used before.", f"replay.{replayed.kind}")


def _owned(parameters: Parameters, grant: GrantType) -> dict[str, str]:
    """The parameters this grant owns; whatever else was sent does not reach it."""
    return {
        name: values[0] for name, values in parameters.values.items() if name in grant.parameters
    }


def _revocation_problem(
    plan: IssuancePlan, compiled: CompiledSnapshot, parts: Parts
) -> Refusal | None:
    """INVARIANT: nothing is issued for a subject that is blocked, or until after its epoch."""
    blocks = parts.live.blocks
    tokens = (plan.claims,) if plan.subject_token is None else (plan.claims, plan.subject_token)
    for token in tokens:
        revoked = what_revokes(blocks, subjects_of(token, compiled.agent_groups), token.iat)
        if revoked is not None:
            return _revoked(revoked)
    for subject, made_at in plan.depends_on:
        revoked = what_revokes(blocks, (subject,), made_at)
        if revoked is not None:
            return _revoked(revoked)
    return None


def _refused(code: str, description: str, rule: str) -> Refusal:
    return Refusal(code, description, description, rule)


def _revoked(detail: str) -> Refusal:
    return refused_as_revoked(detail, "token.revoked")

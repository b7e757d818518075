"""Step 2: an Authorization header to a `Caller`, or why not. Pure; the cache stands beside it.

In order: exactly one Authorization header of a known scheme · the token's signature, `typ`,
issuer, audience and times (`token_exchange.verify`) · the kind of principal · the agents it names
are registered and strong enough · sender-constraint: scheme, `cnf` and what the server requires
agree · [blocks and epochs, then proof of possession, on every call]. Only `use_once` has a
memory, and the pipeline gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from audit_log.event import PrincipalKind, principal_kind
from mcp_gateway.compiled_view import CompiledView, Endpoint
from mcp_gateway.http_message import Headers
from mcp_gateway.proof_memory import Proofs, ProofUse
from registry.blocks import BlockKind, BlockState, Subject, agents_of_chain, subjects_of
from registry.snapshot import AgentEntry
from token_exchange.claims import AccessTokenClaims, Refusal
from token_exchange.proof_of_possession import DpopProof, verify_dpop_proof
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES
from token_exchange.verify import verify_access_token

INVALID_TOKEN: Final = "invalid_token"  # noqa: S105 - RFC 6750 §3.1
INVALID_PROOF: Final = "invalid_dpop_proof"  # RFC 9449 §7.1
INVALID_REQUEST: Final = "invalid_request"
_SCHEMES: Final = {"bearer": "Bearer", "dpop": "DPoP"}
_USED: Final = {
    ProofUse.REPLAYED: ("The DPoP proof was used before.", "replayed"),
    ProofUse.BEFORE_MEMORY: (
        "The DPoP proof may be from before the gateway's start: make another.",
        "before the start",
    ),
    ProofUse.OUT_OF_TIME: (
        "The DPoP proof is too old or from the future.",
        "by the clock of the shared memory",
    ),
}


@dataclass(frozen=True, slots=True)
class CallerRefusal:
    """Why a caller is not accepted. `error` None: nothing was presented (RFC 6750 §3).

    `description` may be sent; `detail` is for the audit; `claims` only if they were verified.
    """

    status: int
    error: str | None
    description: str
    detail: str
    claims: AccessTokenClaims | None = None
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class Presented:
    """What the headers carry, unverified. The scheme is `Bearer` or `DPoP`."""

    scheme: str
    unverified_token: str = field(repr=False)
    unverified_proof: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified token with everything derived from it once. `chain`: upstream agents.

    `token` is the compact form, needed to exchange it; it is never written anywhere.
    """

    claims: AccessTokenClaims
    token: str = field(repr=False)
    kind: PrincipalKind
    agent: AgentEntry
    level: int
    chain: tuple[str, ...]
    chain_groups: tuple[str, ...]
    subjects: tuple[Subject, ...]


def presented(headers: Headers) -> Presented | CallerRefusal:
    """The one bearer of a request; only the header counts (RFC 6750 §2.1), never query or body."""
    lines, proofs = headers.all(b"authorization"), headers.all(b"dpop")
    if not lines:
        return CallerRefusal(401, None, "A token is required.", "no Authorization header")
    scheme, _, token = lines[0].partition(" ")
    known = _SCHEMES.get(scheme.lower())
    if known is None:
        return CallerRefusal(401, None, "Use the DPoP or Bearer scheme.", "unknown scheme")
    token = token.strip(" ")
    is_one_token = len(lines) == 1 and token.isascii() and token and " " not in token
    if not is_one_token or len(token) > MAXIMUM_TOKEN_BYTES:
        text = "Authorization must be one header with `DPoP` or `Bearer` and one token."
        return CallerRefusal(400, INVALID_REQUEST, text, text)
    if len(proofs) > 1:  # RFC 9449 §4.3 check 1
        return CallerRefusal(401, INVALID_PROOF, "DPoP appears more than once.", "repeated DPoP")
    return Presented(known, token, proofs[0] if proofs else None)


def presented_again(caller: Caller) -> Presented:
    """What an accepted caller had presented, but for the proof: to verify it under another view."""
    scheme = "Bearer" if caller.claims.cnf is None else "DPoP"
    return Presented(scheme, caller.token, None)


def caller_of(
    offered: Presented, endpoint: Endpoint, view: CompiledView, now: int
) -> Caller | CallerRefusal:
    """Verify the token and derive the caller. Independent of blocks and of the proof."""
    verified = verify_access_token(
        offered.unverified_token,
        keys=view.keys,
        issuer=view.view.issuer,
        audiences=(endpoint.audience,),
        now=now,
    )
    if isinstance(verified, Refusal):
        detail = f"{verified.rule}: {verified.detail}"
        return CallerRefusal(401, INVALID_TOKEN, verified.description, detail)
    claims = verified.token
    binding = _binding_problem(offered, claims, endpoint)
    if binding is not None:
        return CallerRefusal(401, INVALID_TOKEN, binding, binding, claims)
    if claims.iat <= endpoint.server.url_since:  # the authority would refuse the exchange
        return _refused(claims, "The server has moved; get a new token.", "from before the move")
    kind = principal_kind(sub_profile=claims.sub_profile, has_actor=claims.act is not None)
    if kind not in {PrincipalKind.AGENT_ALONE, PrincipalKind.AGENT_FOR_PERSON}:
        # Persons and services have audiences of their own; an endpoint is held by one Agent.
        return _refused(claims, "The token names no agent.", f"principal is {kind}")
    return _with_agents(offered, claims, kind, view)


def standing_problem(caller: Caller, blocks: BlockState, now: int) -> CallerRefusal | None:
    """Whether time or a revocation has overtaken a caller. Checked on every call."""
    if now >= caller.claims.exp:
        return _refused(caller.claims, "The token has expired.", "expired since it was verified")
    hit = blocks.first_hit(caller.subjects, caller.claims.iat)
    if hit is None:
        return None
    what = "blocked" if hit.blocked else "issued before an epoch"
    detail = f"{hit.subject.kind}/{hit.subject.id} {what}"
    if hit.subject.kind is BlockKind.CLAIMS:
        description = "The person's attributes have changed; refresh the token."
        return CallerRefusal(401, INVALID_TOKEN, description, detail, caller.claims)
    description = "The token was revoked."
    return CallerRefusal(401, INVALID_TOKEN, description, detail, caller.claims, is_revoked=True)


def prove_possession(
    offered: Presented, caller: Caller, *, method: str, endpoint: Endpoint, now: int
) -> DpopProof | CallerRefusal | None:
    """The proof that belongs to this very request; None when the token is bound to no key."""
    confirmation = caller.claims.cnf
    if confirmation is None:
        return None
    if offered.unverified_proof is None:
        return CallerRefusal(
            401, INVALID_PROOF, "A DPoP proof is required.", "no DPoP header", caller.claims
        )
    proof = verify_dpop_proof(
        offered.unverified_proof,
        method=method,
        uri=endpoint.audience,
        now=now,
        access_token=offered.unverified_token,
        expected_thumbprint=confirmation.jkt,
    )
    if isinstance(proof, Refusal):
        detail = f"{proof.rule}: {proof.detail}"
        return CallerRefusal(401, INVALID_PROOF, proof.description, detail, caller.claims)
    return proof


async def use_once(
    proof: DpopProof, caller: Caller, proofs: Proofs, now: int
) -> CallerRefusal | None:
    """RFC 9449 §11.1: a proof serves once, also when we were restarted in between.

    Raises:
        ProofsUnavailableError: whether it was used is not known.
    """
    used = await proofs.use(proof.replay_key, proof.issued_at, proof.expires_at, now)
    if used is ProofUse.FIRST:
        return None
    text, detail = _USED[used]
    return CallerRefusal(401, INVALID_PROOF, text, detail, caller.claims)


def _binding_problem(
    offered: Presented, claims: AccessTokenClaims, endpoint: Endpoint
) -> str | None:
    """RFC 9449 §7.1: a bound token is no Bearer token, and the scheme says what is meant."""
    if claims.cnf is not None:
        is_proved = offered.scheme == "DPoP"
        return None if is_proved else "The token is bound to a key: use the DPoP scheme."
    if offered.scheme == "DPoP":
        return "The token is not bound to a key."
    if endpoint.server.require_bound:
        return "This server requires a token bound to a key."
    return None


def _with_agents(
    offered: Presented, claims: AccessTokenClaims, kind: PrincipalKind, view: CompiledView
) -> Caller | CallerRefusal:
    names = agents_of_chain(claims.act, claims.agent)
    acting = claims.agent if claims.act is None else claims.act.agent
    if acting is None or not names:
        return _refused(claims, "The token names no agent.", "no `agent` claim")
    unknown = [name for name in names if name not in view.agents]
    if unknown:
        return _refused(claims, "The agent is not registered here.", f"unknown {unknown[0]}")
    agent = view.agents[acting]
    level = 0 if claims.attn is None else claims.attn.level
    if level < agent.minimum_level:
        description = "The agent's attestation is not strong enough."
        return _refused(claims, description, f"level {level} < {agent.minimum_level}")
    upstream = names[1:] if names[0] == acting else names
    return Caller(
        claims=claims,
        token=offered.unverified_token,
        kind=kind,
        agent=agent,
        level=level,
        chain=upstream,
        chain_groups=_groups_of(upstream, view.groups_of_agent),
        subjects=subjects_of(claims, view.groups_of_agent),
    )


def _groups_of(
    agents: tuple[str, ...], groups_of_agent: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    return tuple(sorted({group for agent in agents for group in groups_of_agent[agent]}))


def _refused(claims: AccessTokenClaims, description: str, detail: str) -> CallerRefusal:
    return CallerRefusal(401, INVALID_TOKEN, description, detail, claims)

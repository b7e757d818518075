"""The claims of a token for a target: what of the inbound token a target may learn. Pure.

Kept: the subject (pairwise for a person, unless the operator says public), the actor chain with
the gateway outermost, the narrowed scope and details, the run (`inv`) and chain (`txn`) ids, the
attributes the server declared. Left out on purpose: session and consent ids, attestation and key
binding, which are between the agent and the gateway (the target sees a bearer of the gateway).
What the plan decided is checked once more where a mistake would let a token speak for another.
"""

import base64
import hashlib
import hmac
from typing import Final

from credential_providers.request import CredentialRequest
from token_exchange.claims import AccessTokenClaims, Refusal
from token_exchange.exchange_plan import ExchangePlan
from token_exchange.token_types import MAXIMUM_TARGET_LIFETIME_SECONDS, SubjectProfile

MAXIMUM_DISCOVERY_LIFETIME_SECONDS: Final = 60
MINIMUM_PAIRWISE_KEY_BYTES: Final = 32


def target_claims(
    request: CredentialRequest, *, subject: str, token_id: str
) -> AccessTokenClaims | Refusal:
    """The complete claims of the credential `request` asks for."""
    plan = request.plan
    expires_at = expiry(request)
    if expires_at <= plan.now:
        return _refused("invalid_grant", "The subject token has expired.", "credential.lifetime")
    problem = _actor_problem(plan)
    if problem is not None:
        return problem
    return AccessTokenClaims(
        iss=request.issuer,
        aud=plan.audience,
        jti=token_id,
        iat=plan.now,
        nbf=plan.now,
        exp=expires_at,
        sub=subject,
        sub_profile=plan.subject.sub_profile,
        client_id=plan.client_id,
        scope=plan.scope,
        agent=plan.subject.agent,
        act=plan.actor,
        authorization_details=plan.details,
        txn=plan.transaction,
        inv=plan.invocation,
        uctx=plan.user_context,
    )


def expiry(request: CredentialRequest) -> int:
    """The earliest of every limit: plan, provider, product and the inbound token itself."""
    plan = request.plan
    seconds = min(request.provider.lifetime_seconds, MAXIMUM_TARGET_LIFETIME_SECONDS)
    if plan.kind == "discovery":
        seconds = min(seconds, MAXIMUM_DISCOVERY_LIFETIME_SECONDS)
    return min(plan.now + seconds, plan.expires_at, plan.subject.exp)


def pairwise_subject(key: bytes, sector: str, subject: str) -> str:
    """One person's id at one target; targets cannot join theirs (OpenID Connect Core §8.1).

    Raises:
        ValueError: The key has under 32 bytes.
    """
    if len(key) < MINIMUM_PAIRWISE_KEY_BYTES:
        raise ValueError("the pairwise key must have at least 32 bytes")
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    message = f"{len(sector.encode())}:{sector}:{subject}".encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return "pws_" + base64.b32encode(digest[:20]).decode().lower()


def is_for_person(plan: ExchangePlan) -> bool:
    """Whether the new token's subject is a person."""
    return plan.subject.sub_profile == SubjectProfile.USER


def _actor_problem(plan: ExchangePlan) -> Refusal | None:
    """INVARIANT: an exchanged token names the gateway that will hold it, and all before it."""
    if plan.kind == "discovery":
        if plan.actor is None and plan.subject.sub == plan.client_id:
            return None
        return _refused("invalid_target", "Discovery is a gateway's own.", "credential.discovery")
    outermost = plan.actor
    if outermost is None or outermost.sub != plan.client_id or outermost.act != plan.subject.act:
        return _refused(
            "invalid_request", "The actor chain is not the subject token's.", "credential.actor"
        )
    return None


def _refused(code: str, description: str, rule: str) -> Refusal:
    return Refusal(code=code, description=description, detail=description, rule=rule)

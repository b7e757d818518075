"""Token exchange (RFC 8693): a gateway gets what a target accepts, for one call or one run.

The authorization server does not believe the gateway (docs/architecture.md). In this order:

1. the client is a gateway that proved its enrolled key, and sent no actor of its own
2. the subject token is one of our access tokens; nothing it depends on is blocked or outdated
3. `token_exchange.plan_exchange`: audience, holder, resource, details, what the agent may use, what
   is approved and whether bearers are taken today, type, scope, chain, life
4. our own policies on our own snapshot permit the credential (`issue_credential`), and narrow it
5. where the credential is bound to a call, the gateway's decision id is used up, for everybody
6. the server's credential provider makes it

The subject token is bound to the agent's key, which the gateway does not have: it may present it
all the same, because it is a client registered for its `aud` (rung 2 of the plan). Discovery is
the same path with the gateway's own control token and no person, so no policy is asked: no agent
is there to be judged.
"""

from typing import Any, Final

from authz_server.compiled_snapshot import CompiledSnapshot, control_audience
from authz_server.issue_decision import issue_request_for
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.parts import Parts
from authz_server.revoked import what_revokes
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.token_request import IssuancePlan, TokenRequest
from credential_providers.request import CredentialRequest
from registry.blocks import subjects_of
from registry.snapshot import GatewayEntry
from token_exchange.authorization_details import parse_authorization_details
from token_exchange.claims import JwkThumbprint, Refusal, VerifiedClaims
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan, ExchangeRequest
from token_exchange.token_types import MAXIMUM_LIFETIME_SECONDS, TOKEN_TYPE_ACCESS_TOKEN
from token_exchange.verify import verify_access_token

# A decision id is remembered for longer than any token that could present it lives.
DECISION_MEMORY_SECONDS: Final = MAXIMUM_LIFETIME_SECONDS + 60

_NOT_A_GATEWAY: Final = Refusal(
    "unauthorized_client",
    "Only a gateway may exchange a token for a target.",
    "the client is no gateway, or its key is not enrolled",
    "exchange.client",
)
_ACTOR: Final = Refusal(
    "invalid_request",
    "The actor is the authenticated client; send no actor_token.",
    "an actor_token or actor_token_type",
    "exchange.actor_token",
)
_SUBJECT_TYPE: Final = Refusal(
    "invalid_request",
    "The subject_token must be an access token of this server.",
    "no subject_token, or another subject_token_type",
    "exchange.subject_type",
)
_NO_DETAILS: Final = Refusal(
    "invalid_authorization_details",
    "authorization_details must say what the credential is for.",
    "no authorization_details",
    "exchange.details_missing",
)
_POLICY: Final = Refusal(
    "access_denied",
    "Policy does not permit this credential.",
    "issue_credential",
    "exchange.policy",
)
_NO_DECISION: Final = Refusal(
    "invalid_authorization_details",
    "This target's credential is bound to one call: name its decision.",
    "no decision id",
    "exchange.decision_missing",
)
_DECISION_USED: Final = Refusal(
    "invalid_authorization_details",
    "This decision was used before.",
    "the decision id is single use for this target",
    "exchange.decision_used",
)


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
    """The credential of a target, for a gateway (RFC 8693 §2.1)."""
    compiled = await parts.compiler.compiled(parts.live.snapshot)
    gateway = compiled.snapshot.gateways.get(request.client.record.gateway or "")
    recipient = None if gateway is None else _enrolled_key(gateway, request.client.key_thumbprint)
    if gateway is None or recipient is None:
        return _NOT_A_GATEWAY
    allowed = _allowed(request, parts, compiled, gateway)
    if isinstance(allowed, Refusal):
        return allowed
    plan, policies = allowed
    refusal = await _decision_problem(plan, parts)
    if refusal is not None:
        return refusal
    credential = await parts.credential_providers.issue(
        CredentialRequest(
            issuer=parts.issuer,
            provider=compiled.snapshot.servers[plan.server].credential,
            plan=plan,
            recipient_key=recipient,
        )
    )
    if isinstance(credential, Refusal):
        return credential
    return IssuancePlan(
        claims=credential.claims,
        client=request.client,
        issued_token_type=credential.issued_token_type,
        token_type=credential.token_type,
        credential_value=credential.credential_value,
        policy_matched=policies,
        decision_id=plan.decision_id,
        argument_digest=plan.args_sha256,
        tool=plan.tool,
        target_service=plan.server,
        subject_token=plan.subject,
    )


def _allowed(
    request: TokenRequest, parts: Parts, compiled: CompiledSnapshot, gateway: GatewayEntry
) -> tuple[ExchangePlan, tuple[str, ...]] | Refusal:
    """Steps 2 to 4: the plan, narrowed by the policies that permit it, and their ids."""
    subject = _subject_token(request, parts, compiled)
    if isinstance(subject, Refusal):
        return subject
    plan = _planned(request, parts, compiled, gateway, subject)
    return plan if isinstance(plan, Refusal) else _permitted(plan, parts, compiled)


def _enrolled_key(gateway: GatewayEntry, proved: JwkThumbprint | None) -> dict[str, Any] | None:
    """The enrolled public key that signed the assertion: secrets are sealed to it alone."""
    # The registry computed every `kid`: it is the key's RFC 7638 thumbprint.
    return next((jwk for jwk in gateway.jwks if jwk.get("kid") == proved), None)


def _subject_token(
    request: TokenRequest, parts: Parts, compiled: CompiledSnapshot
) -> VerifiedClaims | Refusal:
    parameters = request.parameters
    # RFC 8693 §2.1: ignoring an actor the client named would issue for somebody else.
    if "actor_token" in parameters or "actor_token_type" in parameters:
        return _ACTOR
    subject_token = parameters.get("subject_token")
    if subject_token is None or parameters.get("subject_token_type") != TOKEN_TYPE_ACCESS_TOKEN:
        return _SUBJECT_TYPE
    # Any audience of ours here: the plan says which one of them, and its refusal says why.
    return verify_access_token(
        subject_token,
        keys=parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=parts.issuer,
        audiences=_OurAudiences(compiled),
        now=request.now,
        refuse_as="invalid_request",
    )


class _OurAudiences:
    """Every audience a token of ours can have."""

    def __init__(self, compiled: CompiledSnapshot) -> None:
        self._compiled = compiled

    def __contains__(self, audience: object) -> bool:
        return isinstance(audience, str) and self._compiled.audience_class(audience) is not None


def _planned(
    request: TokenRequest,
    parts: Parts,
    compiled: CompiledSnapshot,
    gateway: GatewayEntry,
    subject: VerifiedClaims,
) -> ExchangePlan | Refusal:
    encoded = request.parameters.get("authorization_details")
    details = _NO_DETAILS if encoded is None else parse_authorization_details(encoded)
    if isinstance(details, Refusal):
        return details
    token = subject.token
    return plan_exchange(
        ExchangeRequest(
            subject=subject,
            client_id=request.client.record.client_id,
            gateway_name=gateway.name,
            gateway_endpoints={
                audience: server
                for audience, (name, server) in compiled.endpoints.items()
                if name == gateway.name
            },
            control_audience=control_audience(parts.issuer),
            targets=compiled.targets,
            agent_tools=compiled.agent_tools,
            resource=request.resource,
            scope=request.parameters.get("scope", ""),
            details=details,
            requested_token_type=request.parameters.get("requested_token_type"),
            issuer=parts.issuer,
            now=request.now,
            revoked=what_revokes(
                parts.live.blocks, subjects_of(token, compiled.agent_groups), token.iat
            ),
        )
    )


def _permitted(
    plan: ExchangePlan, parts: Parts, compiled: CompiledSnapshot
) -> tuple[ExchangePlan, tuple[str, ...]] | Refusal:
    """The plan within what our own policies allow, and which of them did."""
    if plan.kind == "discovery":
        return plan, ()
    asked = issue_request_for(plan, compiled, now_ms=int(parts.clock() * 1000))
    if asked is None or compiled.policies is None:
        return _POLICY
    decision = compiled.policies.decide_issue(asked)
    if not decision.allowed:
        detail = f"{decision.code}: {', '.join(decision.policies)}"
        return Refusal(_POLICY.code, _POLICY.description, detail, _POLICY.rule)
    narrowed = plan.narrowed_to(decision.ttl_seconds, decision.scopes)
    return narrowed if isinstance(narrowed, Refusal) else (narrowed, decision.policies)


async def _decision_problem(plan: ExchangePlan, parts: Parts) -> Refusal | None:
    """Use up the decision of a credential that is bound to one call.

    INVARIANT: one statement decides, and the id alone is its name: whoever presents it again, for
    whatever token, is too late.
    """
    if plan.binding != "call" or plan.kind != "tool_call":
        return None
    if plan.decision_id is None:
        return _NO_DECISION
    until = plan.now + DECISION_MEMORY_SECONDS
    used = UsedOnce(OnceKind.DECISION, "", plan.decision_id, until)
    return None if await parts.replay.use((used,), plan.now) is None else _DECISION_USED

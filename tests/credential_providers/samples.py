"""A plan as `token_exchange.exchange` makes it, and the parts of a process that issues."""

from typing import Any, Literal

from joserfc.jwk import ECKey

from credential_providers.parts import CredentialParts
from credential_providers.request import CredentialRequest
from registry.snapshot import CredentialProviderEntry
from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    Attestation,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
    Refusal,
    UserContext,
)
from token_exchange.exchange_plan import ExchangePlan

NOW = 1_800_000_000
ISSUER = "http://127.0.0.1:8700"
GATEWAY = "gateway:demo"
TARGET = "https://crm.example.com"
VAULT_KEY = ECKey.generate_key("P-256")
GATEWAY_KEY = ECKey.generate_key("P-256")
AGENT_ACTOR = Actor(
    iss=f"{ISSUER}/attest/local",
    sub="unix:laptop/1000/-",
    sub_profile="ai_agent",
    agent="support-bot",
)
BLENDED = AccessTokenClaims(
    iss=ISSUER,
    aud="http://127.0.0.1:8701/crm/mcp",
    jti="tok_inbound",
    iat=NOW - 10,
    exp=NOW + 890,
    sub="usr_alice",
    sub_profile="user",
    client_id="support-bot",
    scope="mcp:tools",
    act=AGENT_ACTOR,
    cnf=Confirmation(JwkThumbprint("thumbprint")),
    sid="ses_1",
    gid="grt_1",
    txn="txn_1",
    inv="inv_1",
    attn=Attestation("local", "unix_process", 1, NOW - 10, NOW + 890, "sha-256:x"),
    uctx=UserContext(name="Alice", groups=("local/support",), acr="pwd"),
)
ALONE = AccessTokenClaims(
    iss=ISSUER,
    aud="http://127.0.0.1:8701/crm/mcp",
    jti="tok_alone",
    iat=NOW - 10,
    exp=NOW + 890,
    sub="agent:support-bot",
    sub_profile="ai_agent",
    client_id="support-bot",
    agent="support-bot",
    scope="mcp:tools",
)
CONTROL = AccessTokenClaims(
    iss=ISSUER,
    aud=f"{ISSUER}/control/v1",
    jti="tok_control",
    iat=NOW - 10,
    exp=NOW + 890,
    sub=GATEWAY,
    sub_profile="service",
    client_id=GATEWAY,
)


def gateway_actor(inner: Actor | None) -> Actor:
    return Actor(iss=ISSUER, sub=GATEWAY, sub_profile="service", act=inner)


def plan(
    subject: AccessTokenClaims = BLENDED,
    *,
    kind: Literal["tool_call", "discovery"] = "tool_call",
    **changes: Any,
) -> ExchangePlan:
    fields: dict[str, Any] = {
        "kind": kind,
        "server": "crm",
        "resource": f"{TARGET}/mcp",
        "audience": TARGET,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "binding": "run",
        "client_id": GATEWAY,
        "gateway_name": "demo",
        "subject": subject,
        "agent": "support-bot",
        "actor": gateway_actor(subject.act) if kind == "tool_call" else None,
        "scope": "mcp:tools" if kind == "tool_call" else "mcp:discover",
        "details": (AuthorizationDetail("mcp_tool", "crm", ("get_*",), ("call",)),),
        "expires_at": NOW + 300,
        "now": NOW,
        "user_context": UserContext(groups=("local/support",)),
    }
    return ExchangePlan(**(fields | changes))


def provider(
    of_type: str = "issued_token",
    settings: dict[str, Any] | None = None,
    *,
    binding: str = "run",
    lifetime_seconds: int = 300,
) -> CredentialProviderEntry:
    return CredentialProviderEntry(
        name=f"crm-{of_type}",
        type=of_type,
        binding=binding,
        lifetime_seconds=lifetime_seconds,
        version=1,
        settings=settings or {},
    )


def request(
    of: ExchangePlan | None = None, by: CredentialProviderEntry | None = None
) -> CredentialRequest:
    return CredentialRequest(
        issuer=ISSUER,
        provider=by or provider(),
        plan=of or plan(),
        recipient_key=GATEWAY_KEY.as_dict(private=False),
    )


class Secrets:
    """Secrets in memory, with a note of what was opened."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.opened: list[str] = []

    async def open(self, name: str) -> str | Refusal:
        self.opened.append(name)
        value = self.values.get(name)
        if value is None:
            return Refusal("invalid_target", "absent", "absent", "vault.absent")
        return value


def parts(secrets: Secrets | None = None) -> CredentialParts:
    return CredentialParts(
        random=lambda size: b"\x07" * size,
        pairwise_key=lambda: b"k" * 32,
        secrets=secrets or Secrets(),
    )

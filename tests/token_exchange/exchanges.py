"""One gateway, two servers, and the tokens that an exchange may start from."""

from typing import Any, Final

import msgspec

from tests.token_exchange.signing import ENDPOINT, ISSUER, NOW, access_token_claims
from token_exchange.claims import AccessTokenClaims, AuthorizationDetail, VerifiedClaims
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan, ExchangeRequest, Target

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
STATIC_SECRET: Final = "urn:countersign:params:oauth:token-type:static-secret"
AGENTS: Final = ("report-bot", "sub-agent", "support-bot")
AGENT: Final = {
    "iss": f"{ISSUER}/attest/local",
    "sub": "unix:host/1000/bot",
    "sub_profile": "ai_agent",
    "agent": "support-bot",
}
GATEWAY: Final = "gateway:demo"
CONTROL: Final = f"{ISSUER}/control/v1"
CRM: Final = Target(
    url="https://crm.internal/mcp",
    audience="https://crm.internal",
    provider_type="issued_token",
    binding="run",
    lifetime_seconds=300,
    person_attributes=("groups", "ticket"),
    approved_tools=frozenset(("get_account", "get_balance", "refund")),
)
NOTES: Final = Target(
    url="https://notes.internal/mcp",
    audience="https://notes.internal/mcp",
    provider_type="static_secret",
    binding="call",
    lifetime_seconds=120,
    approved_tools=frozenset(("get_account", "search")),
)
CALL: Final = AuthorizationDetail(
    "mcp_tool_call",
    "crm",
    tool="get_account",
    args_sha256="sha-256:ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0",
    decision="dec_aaaqeayeaudaocajbifqydiob4",
)
BOUND: Final = {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}
DISCOVERY: Final = AuthorizationDetail("mcp_discovery", "crm")
TOOLS: Final = AuthorizationDetail("mcp_tool", "crm", ("get_*",), ("call",))


def subject(**changes: Any) -> VerifiedClaims:
    """A verified token of an agent for a person at the crm endpoint, with changes."""
    claims = access_token_claims(
        **{
            "cnf": BOUND,
            "txn": "txn_1",
            "inv": "inv_1",
            "sid": "ses_1",
            "uctx": {"name": "Alice", "groups": ["local/support"], "acr": "pwd", "ticket": "T-1"},
            **changes,
        }
    )
    return VerifiedClaims(msgspec.convert(claims, AccessTokenClaims), "key")


def agent_alone(**changes: Any) -> VerifiedClaims:
    """A verified token of an agent without a person."""
    return subject(
        **{
            "sub": "agent:report-bot",
            "sub_profile": "ai_agent",
            "agent": "report-bot",
            "act": None,
            "uctx": None,
            **changes,
        }
    )


def control_token(**changes: Any) -> VerifiedClaims:
    """The verified control token of the gateway."""
    return subject(
        **{
            "aud": CONTROL,
            "sub": GATEWAY,
            "sub_profile": "service",
            "client_id": GATEWAY,
            "act": None,
            "scope": "",
            "authorization_details": [],
            "uctx": None,
            "txn": None,
            "inv": None,
            **changes,
        }
    )


def exchange(**changes: Any) -> ExchangeRequest:
    """A request for a credential at crm that is granted, with changes."""
    fields: dict[str, Any] = {
        "subject": subject(),
        "client_id": GATEWAY,
        "gateway_name": "demo",
        "gateway_endpoints": {ENDPOINT: "crm", ENDPOINT.replace("crm", "notes"): "notes"},
        "control_audience": CONTROL,
        "targets": {"crm": CRM, "notes": NOTES, "billing": CRM},
        "agent_tools": dict.fromkeys(AGENTS, ("crm/*", "notes/*")),
        "resource": (CRM.url,),
        "scope": "",
        "details": (CALL,),
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "issuer": ISSUER,
        "now": NOW,
    }
    return ExchangeRequest(**{**fields, **changes})


def discovery(**changes: Any) -> ExchangeRequest:
    """A request for a discovery credential at crm that is granted, with changes."""
    return exchange(**{"subject": control_token(), "details": (DISCOVERY,), **changes})


def planned(request: ExchangeRequest) -> ExchangePlan:
    """The plan of a request that is granted."""
    plan = plan_exchange(request)
    assert isinstance(plan, ExchangePlan), plan
    return plan

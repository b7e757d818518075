"""The budgets of the issue tracker's performance sheet, and what each says of a measurement."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`must` holds for a release, `goal` is where we want to be; None: measured, not promised."""

    name: str
    must: float | None = None
    goal: float | None = None
    is_ceiling: bool = False
    unit: str = "x"

    def is_met(self, value: float, limit: float) -> bool:
        return value <= limit if self.is_ceiling else value >= limit

    def verdict(self, value: float | None) -> str:
        """How a value stands: `goal`, `must`, `below`, `void` or, without a budget, nothing."""
        if value is None:
            return "void"
        if self.must is None:
            return ""
        if self.goal is not None and self.is_met(value, self.goal):
            return "goal"
        return "must" if self.is_met(value, self.must) else "below"


GATEWAY_TO_GO = Budget(
    name="gateway: requests/s at 16 connections / Go ReverseProxy", must=1.5, goal=2.5
)
GATEWAY_TO_NGINX = Budget(
    name="gateway: requests/s at 16 connections / nginx", must=0.25, goal=0.45
)
GATEWAY_P50_TO_NGINX = Budget(
    name="gateway: p50 at 1 connection / nginx", must=3.0, goal=1.3, is_ceiling=True
)
GATEWAY_P99_TO_GO = Budget(
    name="gateway: p99 at 16 connections / Go ReverseProxy", must=1.5, goal=1.0, is_ceiling=True
)
GATEWAY_CPU = Budget(name="gateway: CPU per call", unit="us")
AUTHORITY_CPU = Budget(name="gateway: CPU of the authorization server per call", unit="us")
PROVED_TO_GO = Budget(name="gateway with DPoP: requests/s at 16 connections / Go ReverseProxy")
PROVED_TO_NGINX = Budget(name="gateway with DPoP: requests/s at 16 connections / nginx")
PROVED_CPU = Budget(name="gateway with DPoP: CPU per call", unit="us")
TOKENS_TO_PROVIDER = Budget(name="token: tokens per CPU second / oidc-provider", must=1.0, goal=1.5)
BOUND_TO_PROVIDER = Budget(name="token: tokens per CPU second / oidc-provider with DPoP")
TOKEN_CPU = Budget(name="token: CPU per token", unit="us")
EXCHANGE_TO_TOKENS = Budget(
    name="exchange: tokens per CPU second / our own client_credentials", must=0.8, goal=1.0
)

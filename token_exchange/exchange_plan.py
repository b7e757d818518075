"""What an exchange is asked with, and the plan it ends in. A plan can only shrink."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    AuthorizationDetail,
    Refusal,
    UserContext,
    VerifiedClaims,
)
from token_exchange.exchange_refusals import REFUSALS
from token_exchange.narrowing import format_scope, scope_intersection

ExchangeKind = Literal["tool_call", "discovery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a server's credential is for and who makes it; values of the registry.

    `binding` is `run` or `call`; `person_attributes` are the `uctx` members it may see;
    `approved_tools` are the names in its approved catalogue. `url_since` is when it came to `url`
    (NumericDate seconds), 0 where it always was. `require_bound`: it takes no bearers.
    """

    url: str
    audience: str
    provider_type: str
    binding: str
    lifetime_seconds: int
    person_attributes: tuple[str, ...] = ()
    approved_tools: frozenset[str] = frozenset()
    url_since: int = 0
    require_bound: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRequest:
    """One exchange asked for by an authenticated gateway. `now` is NumericDate seconds.

    `gateway_endpoints` maps each endpoint audience of *this* Gateway to its server; `targets` maps
    servers to targets; `agent_tools` maps each agent to what it may ever use, as `server/pattern`.
    `resource` has every value sent. `revoked` says which block or epoch refuses
    the subject token, if any; `issuer` is ours and becomes the `iss` of the gateway's actor.
    """

    subject: VerifiedClaims
    client_id: str
    gateway_name: str
    gateway_endpoints: Mapping[str, str]
    control_audience: str
    targets: Mapping[str, Target]
    agent_tools: Mapping[str, tuple[str, ...]]
    resource: tuple[str, ...]
    scope: str
    details: tuple[AuthorizationDetail, ...]
    requested_token_type: str | None
    issuer: str
    now: int
    revoked: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangePlan:
    """The most a credential may say. Made by `plan_exchange` and `narrowed_to` only.

    `actor` is the chain with the gateway outermost; None for discovery, where `subject` is the
    gateway's own token. `details` bind to the call if the target does, else they are what the
    subject token grants at this server. `expires_at` and `now` are NumericDate seconds.
    """

    kind: ExchangeKind
    server: str
    resource: str
    audience: str
    issued_token_type: str
    binding: str
    client_id: str
    gateway_name: str
    subject: AccessTokenClaims
    agent: str | None
    actor: Actor | None
    scope: str
    details: tuple[AuthorizationDetail, ...]
    expires_at: int
    now: int
    tool: str | None = None
    decision_id: str | None = None
    args_sha256: str | None = None
    user_context: UserContext | None = None

    @property
    def lifetime_seconds(self) -> int:
        """How long the credential may live."""
        return self.expires_at - self.now

    @property
    def transaction(self) -> str | None:
        """`txn` of the subject token, unchanged."""
        return self.subject.txn

    @property
    def invocation(self) -> str | None:
        """`inv` of the subject token, unchanged."""
        return self.subject.inv

    def narrowed_to(
        self, ttl_seconds: int | None = None, scopes: Iterable[str] | None = None
    ) -> "ExchangePlan | Refusal":
        """The plan within what the policies allow; None leaves a bound as it is.

        INVARIANT: neither the scope nor the lifetime can grow. Refused when nothing is left.
        """
        expires_at = self.expires_at
        if ttl_seconds is not None:
            expires_at = min(expires_at, self.now + ttl_seconds)
        scope = frozenset(self.scope.split())
        if scopes is not None:
            scope = scope_intersection(scope, frozenset(scopes))
        if expires_at <= self.now:
            return REFUSALS["exchange.lifetime"]
        if self.scope and not scope:
            return REFUSALS["exchange.scope_narrowed"]
        return replace(self, expires_at=expires_at, scope=format_scope(scope))

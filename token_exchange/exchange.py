"""May a gateway turn this token into one for a target, and what may that one say at most?

The authorization server does not believe the gateway (docs/architecture.md, "Ways into the AS").
The ladder of `plan_exchange`, first failed rung wins:

 1. nothing the subject token depends on is blocked or before an epoch (found by the caller)
 2. the subject token's audience is an endpoint of this very Gateway, or control for discovery
 3. its holder has the form that audience is for: an agent, or this gateway itself
 4. exactly one `resource`, and it is the target of the server that audience names (discovery: of
    a server of this Gateway), where that server already was when the subject token was issued:
    whoever agreed to it agreed to that place
 5. exactly one authorization detail says what for, at that server
 6. the subject token grants that, by scope and by details, and what is declared now still does:
    `Agent.tools` and the approved catalogue may have shrunk since the token was issued
 7. the subject token is bound to a key, unless that server takes bearers: it may have come to
    require bound tokens since this one was issued
 8. the type of token asked for is the one the target's credential provider makes
 9. the scope asked for is within the subject's
10. the gateway can be wrapped around the actor chain
11. some lifetime is left

The result is a plan, not a token: the caller asks the policies, narrows the plan by what they say
(it can only shrink), checks blocks again and signs. The gateway's decision id and argument digest
are correlation. Left out: authentication of the gateway, single use of a decision id, policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from token_exchange.authorization_details import ACTION_CALL, is_well_formed
from token_exchange.claims import (
    Actor,
    AuthorizationDetail,
    Refusal,
    UserContext,
)
from token_exchange.delegation import acting_agent, wrap_actor
from token_exchange.exchange_plan import ExchangeKind, ExchangePlan, ExchangeRequest, Target
from token_exchange.exchange_refusals import REFUSALS
from token_exchange.narrowing import (
    details_cover,
    details_intersection,
    format_scope,
    parse_scope,
    scope_covers,
)
from token_exchange.token_types import (
    DETAIL_DISCOVERY,
    DETAIL_TOOL,
    DETAIL_TOOL_CALL,
    MAXIMUM_TARGET_LIFETIME_SECONDS,
    SCOPE_DISCOVER,
    SCOPE_TOOLS,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_STATIC_SECRET,
    SubjectProfile,
)

__all__ = ["ExchangePlan", "ExchangeRequest", "Target", "plan_exchange"]

MAXIMUM_DISCOVERY_LIFETIME_SECONDS: Final = 60

# What each provider type makes (RFC 8693 §2.1 `requested_token_type`).
TOKEN_TYPE_OF_PROVIDER: Final[Mapping[str, str]] = {
    "issued_token": TOKEN_TYPE_ACCESS_TOKEN,
    "static_secret": TOKEN_TYPE_STATIC_SECRET,
}

_DETAIL_TYPES: Final[Mapping[ExchangeKind, str]] = {
    "tool_call": DETAIL_TOOL_CALL,
    "discovery": DETAIL_DISCOVERY,
}
_LIFETIMES: Final[Mapping[ExchangeKind, int]] = {
    "tool_call": MAXIMUM_TARGET_LIFETIME_SECONDS,
    "discovery": MAXIMUM_DISCOVERY_LIFETIME_SECONDS,
}


@dataclass(frozen=True, slots=True)
class _Purpose:
    """What the credential is for, after rungs 2-8."""

    kind: ExchangeKind
    target: Target
    detail: AuthorizationDetail


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The most it may say, after rungs 9-11."""

    scope: frozenset[str]
    actor: Actor | None
    expires_at: int


def plan_exchange(request: ExchangeRequest) -> ExchangePlan | Refusal:
    """Climb the ladder of this module's docstring (RFC 8693 §2.1, §2.2.2).

    The refusals are `token_exchange.exchange_refusals.REFUSALS`, those of `wrap_actor` and of
    `parse_scope`.
    """
    if request.revoked is not None:
        return replace(REFUSALS["exchange.revoked"], detail=request.revoked)
    purpose = _purpose_of(request)
    if isinstance(purpose, Refusal):
        return purpose
    bounds = _bounds_of(request, purpose)
    if isinstance(bounds, Refusal):
        return bounds
    subject, target, detail = request.subject.token, purpose.target, purpose.detail
    return ExchangePlan(
        kind=purpose.kind,
        server=detail.server,
        resource=target.url,
        audience=target.audience,
        issued_token_type=TOKEN_TYPE_OF_PROVIDER[target.provider_type],
        binding=target.binding,
        client_id=request.client_id,
        gateway_name=request.gateway_name,
        subject=subject,
        agent=acting_agent(subject),
        actor=bounds.actor,
        scope=format_scope(bounds.scope),
        details=_details_of(request, purpose),
        expires_at=bounds.expires_at,
        now=request.now,
        tool=detail.tool,
        decision_id=detail.decision,
        args_sha256=detail.args_sha256,
        user_context=_cut(subject.uctx, target.person_attributes),
    )


def _purpose_of(request: ExchangeRequest) -> _Purpose | Refusal:
    kind = _kind_of(request)
    if isinstance(kind, Refusal):
        return kind
    targets = _targets_of(request, kind)
    if isinstance(targets, Refusal):
        return targets
    detail = _detail_of(request, kind, targets)
    if isinstance(detail, Refusal):
        return detail
    target = targets[detail.server]
    if kind == "tool_call" and target.require_bound and request.subject.token.cnf is None:
        return REFUSALS["exchange.unbound"]
    made = TOKEN_TYPE_OF_PROVIDER.get(target.provider_type)
    # Not asking is asking for an access token: a secret is never handed out by default.
    if made is None or (request.requested_token_type or TOKEN_TYPE_ACCESS_TOKEN) != made:
        return REFUSALS["exchange.token_type"]
    return _Purpose(kind, target, detail)


def _kind_of(request: ExchangeRequest) -> ExchangeKind | Refusal:
    subject = request.subject.token
    if subject.aud in request.gateway_endpoints:
        is_agent = acting_agent(subject) is not None
        return "tool_call" if is_agent else REFUSALS["exchange.subject_form"]
    if subject.aud != request.control_audience:
        return REFUSALS["exchange.subject_audience"]
    is_own = (
        subject.sub == subject.client_id == request.client_id
        and subject.sub_profile == SubjectProfile.SERVICE
        and subject.act is None
    )
    return "discovery" if is_own else REFUSALS["exchange.discovery_subject"]


def _targets_of(request: ExchangeRequest, kind: ExchangeKind) -> dict[str, Target] | Refusal:
    # RFC 8693 §2.1 allows several; one credential is for one target (RFC 8707 §2.2).
    if len(request.resource) != 1:
        return REFUSALS["exchange.resource_count"]
    subject = request.subject.token
    # INVARIANT: the subject token's audience names the server of a call, not the gateway.
    servers = (
        (request.gateway_endpoints[subject.aud],)
        if kind == "tool_call"
        else tuple(request.gateway_endpoints.values())
    )
    targets = {
        server: target
        for server in servers
        if (target := request.targets.get(server)) is not None and target.url == request.resource[0]
    }
    if not targets:
        return REFUSALS["exchange.resource"]
    # At or before, as with epochs: a token of the very second may be from before the move.
    if kind == "tool_call" and any(subject.iat <= each.url_since for each in targets.values()):
        return REFUSALS["exchange.resource_moved"]
    return targets


def _detail_of(
    request: ExchangeRequest, kind: ExchangeKind, targets: Mapping[str, Target]
) -> AuthorizationDetail | Refusal:
    if len(request.details) != 1:
        return REFUSALS["exchange.detail_form"]
    detail = request.details[0]
    if detail.type != _DETAIL_TYPES[kind] or not is_well_formed(detail):
        return REFUSALS["exchange.detail_form"]
    if detail.server not in targets:
        return REFUSALS["exchange.detail_server"]
    # Discovery is allowed by the audience of the gateway's own token, which has no details.
    if kind == "discovery":
        return detail
    return _call_problem(request, targets[detail.server], detail) or detail


def _call_problem(
    request: ExchangeRequest, target: Target, detail: AuthorizationDetail
) -> Refusal | None:
    """Rung 6: the call is in the token, and in what is declared now."""
    subject = request.subject.token
    if SCOPE_TOOLS not in subject.scope.split():
        return REFUSALS["exchange.subject_scope"]
    if not details_cover(subject.authorization_details, (detail,)):
        return REFUSALS["exchange.detail_widened"]
    is_approved = detail.tool in target.approved_tools
    if is_approved and details_cover(_ceiling(request, detail.server), (detail,)):
        return None
    return REFUSALS["exchange.tool"]


def _bounds_of(request: ExchangeRequest, purpose: _Purpose) -> _Bounds | Refusal:
    scope = _scope_of(request, purpose.kind)
    if isinstance(scope, Refusal):
        return scope
    actor = _actor_of(request, purpose.kind)
    if isinstance(actor, Refusal):
        return actor
    lifetime = min(purpose.target.lifetime_seconds, _LIFETIMES[purpose.kind])
    expires_at = min(request.subject.token.exp, request.now + lifetime)
    if expires_at <= request.now:
        return REFUSALS["exchange.lifetime"]
    return _Bounds(scope, actor, expires_at)


def _scope_of(request: ExchangeRequest, kind: ExchangeKind) -> frozenset[str] | Refusal:
    asked = parse_scope(request.scope)
    if isinstance(asked, Refusal):
        return asked
    # The discovery scope does not come from the subject token: its audience is what allows it.
    available = (
        frozenset(request.subject.token.scope.split())
        if kind == "tool_call"
        else frozenset((SCOPE_DISCOVER,))
    )
    if not scope_covers(available, asked):
        return REFUSALS["exchange.scope_widened"]
    return asked or available


def _actor_of(request: ExchangeRequest, kind: ExchangeKind) -> Actor | Refusal | None:
    if kind == "discovery":
        return None
    # The gateway's actor is its authenticated client, never something it sent.
    gateway = Actor(request.issuer, request.client_id, SubjectProfile.SERVICE.value)
    return wrap_actor(gateway, request.subject.token.act)


def _ceiling(request: ExchangeRequest, server: str) -> tuple[AuthorizationDetail, ...]:
    """What the acting agent may use of a server today, whatever its token says."""
    agent = acting_agent(request.subject.token)
    patterns = () if agent is None else request.agent_tools.get(agent, ())
    prefix = f"{server}/"
    tools = tuple(each.removeprefix(prefix) for each in patterns if each.startswith(prefix))
    return (AuthorizationDetail(DETAIL_TOOL, server, tools, (ACTION_CALL,)),)


def _details_of(request: ExchangeRequest, purpose: _Purpose) -> tuple[AuthorizationDetail, ...]:
    if purpose.kind == "discovery" or purpose.target.binding == "call":
        return (purpose.detail,)
    server = purpose.detail.server
    granted = tuple(
        detail
        for detail in request.subject.token.authorization_details
        if detail.type == DETAIL_TOOL
        and is_well_formed(detail)  # what grants nothing is not passed on as if it did
    )
    return details_intersection(granted, _ceiling(request, server))


def _cut(context: UserContext | None, attributes: tuple[str, ...]) -> UserContext | None:
    if context is None:
        return None
    values = msgspec.structs.asdict(context).items()
    kept = {name: value for name, value in values if name in attributes and value is not None}
    return UserContext(**kept) if kept else None

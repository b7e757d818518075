"""Damage to the authorization server and to what it issues.

Each function takes the module it breaks, already executed. What it needs of the product is
imported when it is used, by which time the product has loaded it itself.
"""
# ruff: noqa: PLC0415 - modules, whatever is in them; see above

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Self

HOUR = 3_600


def attest_without_key(listener: Any) -> None:
    """An attestation that whoever steals it can use."""
    claims_of = listener.attestation_claims

    class Unbound(dict[str, Any]):
        def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
            self.update({name: value for name, value in other.items() if name != "cnf"})
            return self

    listener.attestation_claims = lambda *given, **named: Unbound(claims_of(*given, **named))


def take_any_password(hashing: Any) -> None:
    """Every password is right."""

    async def right(*_: object) -> bool:
        return True

    hashing.PasswordHashing.verify = right


def skip_consent(flow: Any) -> None:
    """As if everybody had already agreed."""

    async def agreed(parts: Any, request: Any, session: Any, granted: Any) -> Any:
        now = int(parts.clock())
        return flow.Consent(
            gid="grt_" + "a" * 26,
            sub=session.sub,
            agent=request.agent,
            server=request.server,
            tools=granted.tools,
            scope=request.scope,
            created_at=now,
            expires_at=now + HOUR,
        )

    flow.stored_consent = agreed


def grant_more_than_consented(answers: Any) -> None:
    """The page names two tools, the code is good for every one the agent may have."""
    details_of = answers._details

    def wide(granted: Any) -> Any:
        from authz_server.requested_access import available_tools

        if granted.endpoint is None:
            return details_of(granted)
        tools = tuple(sorted(available_tools(granted.endpoint)))
        return details_of(dataclasses.replace(granted, tools=tools))

    answers._details = wide


def sign_wrong_audience(token: Any) -> None:
    """Tokens for crm's endpoint name the one of notes."""

    def damaged(claims: Any) -> Any:
        import msgspec

        return msgspec.structs.replace(claims, aud=claims.aud.replace("/crm/", "/notes/"))

    _sign_otherwise(token, damaged)


def sign_unbound(token: Any) -> None:
    """The answer says DPoP, the token is bound to no key."""

    def damaged(claims: Any) -> Any:
        import msgspec

        return msgspec.structs.replace(claims, cnf=None)

    _sign_otherwise(token, damaged, token_type="DPoP")


def _sign_otherwise(token: Any, damaged: Callable[[Any], Any], **more: Any) -> None:
    signed = token._signed

    def otherwise(parts: Any, plan: Any) -> Any:
        if plan.claims.act is not None and plan.claims.cnf is not None:
            plan = dataclasses.replace(plan, claims=damaged(plan.claims), **more)
        return signed(parts, plan)

    token._signed = otherwise


def live_an_hour(grant: Any) -> None:
    """Nothing shortens the life of an agent's token."""
    with_agent = grant._with_agent

    def long(claims: Any, now: int, *given: Any) -> Any:
        import msgspec

        return msgspec.structs.replace(with_agent(claims, now, *given), exp=now + HOUR)

    grant._with_agent = long


def let_target_tokens_live_an_hour(target_claims: Any) -> None:
    """Nothing shortens the life of a target's token."""
    target_claims.expiry = lambda request: request.plan.now + HOUR


def tell_targets_our_own_id(provider: Any) -> None:
    """Targets learn the one id that joins what all of them know."""
    provider.IssuedToken._subject = lambda _self, request: request.plan.subject.sub


def forget_actor(provider: Any) -> None:
    """A target's token looks as if the person had come alone."""
    claims_of = provider.target_claims

    def without(*given: Any, **named: Any) -> Any:
        import msgspec

        claims = claims_of(*given, **named)
        if claims.act is None:
            return claims
        return msgspec.structs.replace(claims, act=None, agent=None)

    provider.target_claims = without


def give_agents_target_tokens(token: Any) -> None:
    """An agent that asks for a target's token gets one."""
    plan_issuance = token.plan_issuance

    async def generous(incoming: Any, parts: Any) -> Any:
        planned = await plan_issuance(incoming, parts)
        resource = incoming.parameters.one("resource")
        if not isinstance(planned, token.Refused) or planned.client is None or not resource:
            return planned
        return _planned(incoming, parts, planned, resource)

    token.plan_issuance = generous


def _planned(incoming: Any, parts: Any, refused: Any, resource: str) -> Any:
    from authz_server.grants.catalog import GRANTS
    from authz_server.token_phases import Planned
    from authz_server.token_request import IssuancePlan, TokenRequest
    from token_exchange.claims import AccessTokenClaims
    from token_exchange.identifiers import new_id

    client, now = refused.client, incoming.now
    claims = AccessTokenClaims(
        iss=parts.issuer,
        aud=resource,
        jti=new_id("tok", parts.random),
        iat=now,
        nbf=now,
        exp=now + 300,
        sub=f"agent:{client.record.agent}",
        sub_profile="ai_agent",
        client_id=client.record.client_id,
        scope="mcp:tools",
        agent=client.record.agent,
    )
    request = TokenRequest(
        grant_type="client_credentials",
        parameters={},
        resource=(resource,),
        client=client,
        proof_thumbprint=None,
        now=now,
    )
    grant = refused.grant or GRANTS["client_credentials"]
    return Planned(IssuancePlan(claims=claims, client=client), grant, request, lambda: None)


def block_nobody(blocks: Any) -> None:
    """The authorization server does not look at blocks; gateways do."""
    if "authz-server" in sys.argv:
        blocks.BlockState.first_hit = lambda *_: None

"""The refresh_token grant (RFC 6749 §6): the same access again, never more, while all of it holds.

In this order:

1. the token is known; a used one ends its family and blocks the run it served (RFC 9700 §4.14.2)
2. it is this client's, by this key (RFC 9449 §5), of a living family, for this resource and no more
   scope than was granted
3. the identity provider still vouches for the person, and says with which groups
4. the agent, as it is attested in this very request, may still have some of the tools, and they
   are what the person was shown
5. in one write, which the shared phase asks for (`IssuancePlan.use_up`): one statement uses the
   token up, its successor is made and the issuance recorded

A wrong request leaves the token usable by the right one, and so does one that could not be
recorded: the agent's next try would look like a replay. Who presents a token after its use has it
from whoever used it: the whole family ends. It rotates, so that theft is noticed; it is bound to a
key, so that theft is worth nothing. What the person's provider cannot say now is
`temporarily_unavailable`, and burns nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import msgspec
from sqlalchemy import Connection

from authz_server.grants.person_token import (
    AgentAtServer,
    PersonGrant,
    agent_at_server,
    issuance,
)
from authz_server.grants.used_twice import block_yield
from authz_server.parts import Parts
from authz_server.requested_access import SCOPE_OFFLINE, shown_tools
from authz_server.revalidation import revalidated
from authz_server.store.digests import new_secret
from authz_server.store.refresh_tokens import RefreshGrant, StoredRefreshToken, revoke_in
from authz_server.store.sessions import Session
from authz_server.token_request import IssuancePlan, TokenRequest
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from registry.blocks import BlockKind
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id
from token_exchange.narrowing import format_scope, parse_scope, scope_covers


def _unusable(rule: str, detail: str) -> Refusal:
    # One sentence for all: which of the reasons it was helps only who tries tokens.
    description = "The refresh token cannot be used by this request."
    return Refusal("invalid_grant", description, detail, f"refresh.{rule}")


MISSING: Final = Refusal(
    "invalid_request", "refresh_token is missing.", "no refresh_token", "refresh.missing"
)
UNKNOWN: Final = _unusable("unknown", "no such refresh token")
REPLAYED: Final = _unusable("replayed", "used before; its family and its run end")
OTHER_CLIENT: Final = _unusable("client", "the token is another client's")
OTHER_KEY: Final = _unusable("key", "the family is bound to another key")
ENDED: Final = _unusable("ended", "family, session or consent ended")
OTHER_RESOURCE: Final = Refusal(
    "invalid_target", "The token is for another resource.", "resource", "refresh.resource"
)
WIDER_SCOPE: Final = Refusal(
    "invalid_scope", "The scope is wider than what was granted.", "scope", "refresh.scope"
)
NOT_NOW: Final = Refusal(
    "temporarily_unavailable",
    "The person's identity provider cannot be asked now. Try again.",
    "revalidation unavailable",
    "refresh.unavailable",
)


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
    """What a refresh token yields; the token is as good as before."""
    presented = request.parameters.get("refresh_token")
    stored = None if presented is None else await parts.refresh_tokens.find(presented)
    if stored is None:
        return MISSING if presented is None else UNKNOWN
    if stored.is_used:
        return await _end_family(stored, request, parts)
    granted = await _still_granted(request, stored, parts)
    if isinstance(granted, Refusal):
        return granted
    agent = agent_at_server(request, granted, parts, _unusable)
    if isinstance(agent, AgentAtServer):
        agent = await _as_consented(agent, granted, request.now, parts)
    if isinstance(agent, Refusal):
        return agent
    successor = new_secret(parts.random)
    plan = issuance(request, granted, agent, parts, successor)
    return replace(plan, use_up=partial(_use_up, stored, successor, request, parts))


async def _use_up(
    stored: StoredRefreshToken,
    successor: str,
    request: TokenRequest,
    parts: Parts,
    also: Callable[[Connection], None],
) -> Refusal | None:
    """Rotate the token; the end of its family, if somebody was first."""
    if await parts.refresh_tokens.rotate(stored, successor, request.now, also=also):
        return None
    return await _end_family(stored, request, parts)


async def _still_granted(
    request: TokenRequest, stored: StoredRefreshToken, parts: Parts
) -> PersonGrant | Refusal:
    """Steps 2 and 3."""
    scope = _granted_scope(request, stored)
    if isinstance(scope, Refusal):
        return scope
    session = await revalidated(parts, stored.grant.sid, request.now)
    if isinstance(session, LoginFailure):
        return await _not_vouched_for(session, stored, request, parts)
    return _granted(stored.grant, session, scope, request, parts)


def _granted_scope(request: TokenRequest, stored: StoredRefreshToken) -> str | Refusal:
    """Step 2: the scope of the new token, or what does not fit."""
    family = stored.grant
    rows = (
        (family.client_id != request.client.record.client_id, OTHER_CLIENT),
        (family.key != request.proof_thumbprint, OTHER_KEY),
        (stored.is_revoked or family.expires_at <= request.now, ENDED),
        # RFC 8707 §2.2: at the token endpoint a resource may be repeated, never replaced.
        (request.resource not in ((), (family.resource,)), OTHER_RESOURCE),
    )
    for is_wrong, refusal in rows:
        if is_wrong:
            return refusal
    asked = request.parameters.get("scope")
    scopes = parse_scope(family.scope if asked is None else asked)
    available = frozenset(family.scope.split())
    # RFC 6749 §6: at most what was granted. Fewer scopes hold for this access token alone.
    required = available - {SCOPE_OFFLINE, "openid"}
    if isinstance(scopes, Refusal) or not scope_covers(available, scopes):
        return WIDER_SCOPE
    return format_scope(scopes) if required <= scopes else WIDER_SCOPE


def _granted(
    family: RefreshGrant, session: Session, scope: str, request: TokenRequest, parts: Parts
) -> PersonGrant:
    return PersonGrant(
        client_id=family.client_id,
        agent=family.agent,
        resource=family.resource,
        scope=scope,
        details=family.details,
        nonce=None,  # OpenID Connect Core §12.2: not in a refreshed ID token
        sub=family.sub,
        person=session.person,
        sid=family.sid,
        session_created_at=family.session_created_at,
        claims_at=request.now,
        valid_until=min(family.expires_at, session.expires_at),
        gid=family.gid,
        invocation=family.invocation,
        token_id=new_id("tok", parts.random),
        transaction=family.transaction,
        created_at=family.created_at,
    )


async def _as_consented(
    agent: AgentAtServer, granted: PersonGrant, now: int, parts: Parts
) -> AgentAtServer | Refusal:
    """Step 4, too: a consent holds for exactly what was shown, however old the family is."""
    entry, server = agent.endpoint.agent.entry, agent.endpoint.server
    consents = await parts.consents.living(granted.sub, entry.name, server.name, now)
    consent = next((each for each in consents if each.gid == granted.gid), None)
    if consent is None:
        return _unusable("consent", "the consent ended")
    names = tuple(tool for detail in agent.details for tool in detail.tools)
    shown = shown_tools(agent.endpoint, names)
    same = consent.agreed(shown)
    details = tuple(
        msgspec.structs.replace(detail, tools=tuple(each for each in detail.tools if each in same))
        for detail in agent.details
    )
    left = tuple(detail for detail in details if detail.tools)
    if not left:
        return _unusable("consent", "everything changed since it was consented to")
    return replace(agent, details=left)


async def _not_vouched_for(
    failure: LoginFailure, stored: StoredRefreshToken, request: TokenRequest, parts: Parts
) -> Refusal:
    if failure.code is LoginFailureCode.UNAVAILABLE:
        return NOT_NOW
    await parts.refresh_tokens.revoke(stored.family_id, request.now)
    return _unusable("session", f"the session ended: {failure.detail}")


async def _end_family(stored: StoredRefreshToken, request: TokenRequest, parts: Parts) -> Refusal:
    """End the family, and block the run its tokens served: who holds them is not known."""
    family = stored.grant
    if stored.is_revoked or family.invocation is None:
        await parts.refresh_tokens.revoke(stored.family_id, request.now)
        return REPLAYED

    def end_family(connection: Connection) -> None:
        revoke_in(connection, stored.family_id, request.now)

    await block_yield(
        parts,
        BlockKind.INVOCATION,
        family.invocation,
        family,
        reason="refresh token used twice",
        refusal=REPLAYED,
        # INVARIANT: family, run and record in one transaction: an ended family is not looked at
        # again.
        anyway=end_family,
    )
    return REPLAYED

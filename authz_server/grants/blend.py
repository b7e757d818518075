"""Token exchange (RFC 8693), the agent's: a person's token becomes a blended one.

An attested agent presents a token that the person's identity provider issued to an application the
Agent lists, and gets a token for one endpoint that names both. In this order:

1. the client is an attested agent; what it asks for is within what it may use today
   (`token_exchange.blend`)
2. an `actor_token`, if there is one, is the agent itself (`actor_token`)
3. the person's token is one the Agent lists (`presented_person`)
4. the person consented to this agent at this server, and to these tools as they are today; or the
   Agent has a mandate
5. nothing was reported of the person, the session or everybody since the token was issued, whether
   or not either was known here then
6. the token: as after a login (`person_token`), but it ends with the person's token, has no
   refresh token, and its session is the provider's

Nobody is asked here. Without a consent the agent gets RFC 8693's error and no word of it; the audit
gets the link at which the person can give it. What is issued rests on a token the provider signed,
so that token's age meets every block and epoch, less what the two clocks may differ by.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final
from urllib.parse import urlencode

from authz_server.grants.actor_token import actor_problem
from authz_server.grants.person_token import PersonGrant, agent_at_server, issuance
from authz_server.grants.presented_person import presented_person, unusable
from authz_server.parts import Parts
from authz_server.requested_access import (
    ServerAtEndpoint,
    available_tools,
    reachable_endpoint,
    shown_tools,
)
from authz_server.revoked import refused_as_revoked
from authz_server.standing_consents import standing_consents
from authz_server.store.upstream_sessions import UpstreamSession
from authz_server.token_request import IssuancePlan, RefusedForPerson, TokenRequest
from idp_connectors.workforce.login import PersonToken
from registry.snapshot import AgentRecord
from token_exchange.blend import (
    RESOURCE,
    BlendRequest,
    ConsentedTools,
    GrantedAccess,
    asked_access,
    granted_access,
)
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.identifiers import new_id
from token_exchange.token_types import SCOPE_TOOLS, TOKEN_TYPE_ACCESS_TOKEN

CONSENTS_PATH: Final = "/oauth/consents/new"

_NOBODY: Final = Refusal(
    "unauthorized_client",
    "Only an attested agent may exchange a person's token.",
    "no such agent, or no evidence",
    "blend.client",
)
_CHANGED: Final = unusable("changed", "Agent or server changed meanwhile")
_EXPIRED: Final = unusable("expired", "the person's token ends now")
_OUTDATED: Final = refused_as_revoked(
    "the provider reported a change of session, person or everybody since it was issued",
    "blend.outdated",
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Steps 1 to 3: who asks, for what, with whose token."""

    agent: AgentRecord
    endpoint: ServerAtEndpoint
    access: AuthorizationDetail
    token: PersonToken


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal | RefusedForPerson:
    """A blended token for a person who is not there."""
    asked = await _asked(request, parts)
    if not isinstance(asked, _Asked):
        return asked
    sub = await _subject(asked, parts)
    granted = None if sub is None else await _granted_access(asked, sub, request.now, parts)
    if sub is None or granted is None:
        return _without_consent(asked, sub, request, parts)
    sid = await _session(asked.token, sub, granted.until, request.now, parts)
    if isinstance(sid, Refusal):
        return RefusedForPerson(sid, sub, asked.token.person.name)
    person_grant = replace(_person_grant(request, asked, sub, granted, parts), sid=sid)
    agent = agent_at_server(request, person_grant, parts, unusable)
    if isinstance(agent, Refusal):
        return agent
    # INVARIANT: the consent was held against this very Agent, server and tools, whatever was
    # declared or approved while provider and database were asked.
    if agent.endpoint != asked.endpoint:
        return _CHANGED
    return replace(
        issuance(request, person_grant, agent, parts),
        issued_token_type=TOKEN_TYPE_ACCESS_TOKEN,
        basis=_basis(asked.token, request.now),
        mandate=f"Agent/{asked.agent.entry.name}" if granted.gid is None else None,
    )


async def _asked(request: TokenRequest, parts: Parts) -> _Asked | Refusal | RefusedForPerson:
    client, snapshot = request.client, parts.live.snapshot
    agent = snapshot.agents.get(client.record.agent or "")
    if agent is None or client.evidence is None:
        return _NOBODY
    resource = request.resource[0] if len(request.resource) == 1 else ""
    endpoint = reachable_endpoint(snapshot, client.record, agent, resource)
    if endpoint is None:
        return RESOURCE
    access = asked_access(_blend_request(request, endpoint))
    if isinstance(access, Refusal):
        return access
    problem = await actor_problem(request, parts)
    if problem is not None:
        return problem
    token = await presented_person(request, agent, parts)
    # Read again after the wait: what the Agent lists, and its mandate, hold as of now.
    if isinstance(token, PersonToken) and agent == parts.live.snapshot.agents.get(agent.entry.name):
        return _Asked(agent, endpoint, access, token)
    return _CHANGED if isinstance(token, PersonToken) else token


def _blend_request(request: TokenRequest, endpoint: ServerAtEndpoint) -> BlendRequest:
    return BlendRequest(
        resource=request.resource,
        server=endpoint.server.name,
        tools=available_tools(endpoint),
        requested_token_type=request.parameters.get("requested_token_type"),
        scope=request.parameters.get("scope", ""),
        encoded_details=request.parameters.get("authorization_details"),
    )


async def _subject(asked: _Asked, parts: Parts) -> str | None:
    """The person's `sub`; None for somebody who was never here, unless a mandate needs none.

    Whoever is seen for the first time is as old as their token: what is reported of them from then
    on concerns them.
    """
    known = await parts.persons.known(asked.token.person)
    if known is None and asked.agent.by_mandate:
        known = await parts.persons.remember(asked.token.person, _made_at(asked.token))
    return None if known is None else known.sub


async def _granted_access(asked: _Asked, sub: str, now: int, parts: Parts) -> GrantedAccess | None:
    """Step 4. A stored consent of the person, by whichever door it was given, or a mandate."""
    consents = None if asked.agent.by_mandate else await _consented(asked, sub, now, parts)
    return granted_access(asked.access, consents, asked.token.expires_at)


async def _consented(asked: _Asked, sub: str, now: int, parts: Parts) -> list[ConsentedTools]:
    agent, server = asked.agent.entry.name, asked.endpoint.server.name
    shown = shown_tools(asked.endpoint, asked.access.tools)
    standing = await standing_consents(
        parts.consents, parts.live, sub=sub, agent=agent, server=server, now=now
    )
    return [
        ConsentedTools(each.gid, each.agreed(shown), each.expires_at)
        for each in standing
        if SCOPE_TOOLS in each.scope.split()
    ]


def _without_consent(
    asked: _Asked, sub: str | None, request: TokenRequest, parts: Parts
) -> RefusedForPerson:
    query = {"client_id": request.client.record.client_id, "resource": request.resource[0]}
    link = f"{parts.issuer}{CONSENTS_PATH}?{urlencode(query)}"
    detail = f"no stored consent of the person; they can give it at {link}"
    return RefusedForPerson(unusable("no_consent", detail), sub, asked.token.person.name)


async def _session(
    token: PersonToken, sub: str, until: int, now: int, parts: Parts
) -> str | Refusal | None:
    """The `sid` of what comes of the token's session, if it still counts; None if it says none."""
    if until <= now:
        return _EXPIRED
    sid = await _noted_session(token, sub, now, parts)
    # INVARIANT: after person and session were noted, or a change in between would be missed.
    is_outdated = await parts.reported_changes.concern(
        token.person.identity_provider,
        _made_at(token),
        subject=token.person.subject,
        upstream_session=token.upstream_session,
    )
    return _OUTDATED if is_outdated else sid


async def _noted_session(token: PersonToken, sub: str, now: int, parts: Parts) -> str | None:
    """The `sid` of whatever comes of one session at the provider, noted so that its end counts.

    The same for all tokens of that session: who blocks it blocks all of them.
    """
    if token.upstream_session is None:
        return None
    person = token.person
    named = (person.identity_provider, person.issuer, sub, token.upstream_session)
    message = "\x1f".join(("upstream session", *named)).encode()
    digest = hmac.new(parts.keys.form_key(), message, sha256).digest()
    sid = new_id("ses", _from(digest))
    await parts.upstream_sessions.note(
        UpstreamSession(sid, sub, person.identity_provider, token.upstream_session), now
    )
    return sid


def _from(digest: bytes) -> Callable[[int], bytes]:
    return lambda count: digest[:count]


def _person_grant(
    request: TokenRequest,
    asked: _Asked,
    sub: str,
    granted: GrantedAccess,
    parts: Parts,
) -> PersonGrant:
    """The person's grant, as yet without a session."""
    made_at = _made_at(asked.token)
    return PersonGrant(
        client_id=request.client.record.client_id,
        agent=asked.agent.entry.name,
        resource=request.resource[0],
        scope=SCOPE_TOOLS,
        details=granted.details,
        nonce=None,
        sub=sub,
        person=asked.token.person,
        sid=None,
        session_created_at=made_at,
        claims_at=made_at,
        valid_until=granted.until,
        gid=granted.gid,
        invocation=new_id("inv", parts.random),
        token_id=new_id("tok", parts.random),
        transaction=new_id("txn", parts.random),
        created_at=made_at,
    )


def _made_at(token: PersonToken) -> int:
    """When the token was issued, at the earliest, by our clock.

    INVARIANT: a provider whose clock is ahead must not carry a token over an epoch.
    """
    return token.issued_at - token.clock_leeway_seconds


def _basis(token: PersonToken, now: int) -> str:
    """What the token rests on, for the audit."""
    age = max(now - token.issued_at, 0)
    provider = token.person.identity_provider
    return f"a token of IdentityProvider/{provider} for its client {token.client_id}, {age} s old"

"""The authorization_code grant (RFC 6749 §4.1.3): a person's consent becomes one token.

The code is read; the request is held against it (client, redirect URI, verifier: RFC 6749 and
RFC 7636, by Authlib; resource, key, agent, tools: here); then a plan is returned, which names the
code and the login session as things the token depends on, so that the shared phase holds their
times against blocks and epochs. That phase has the code used up (`IssuancePlan.use_up`): one
statement consumes it, and in the same write the refresh token family begins and the issuance is
recorded. Nothing is signed.

A wrong request leaves the code usable by the right one, and so does one that could not be
recorded. A right request for a used code means that two parties hold everything the code needs, so
whatever the first use yielded is blocked (RFC 6749 §4.1.2, RFC 9700 §2.1.1).

The token is *agent for a person*: `sub` the person, `act` the agent as it is attested in this
very request, bound to the attested key. Only `countersign-cli` gets *person directly*, for the
administration interface and nothing else.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from sqlalchemy import Connection

from authz_server.authlib_bridge import validate_code_request
from authz_server.authorize_flow import is_provider_same
from authz_server.clients.self_declared import SELF_DECLARED_KINDS
from authz_server.compiled_snapshot import admin_audience
from authz_server.grants.person_token import PersonGrant, agent_at_server, issuance
from authz_server.grants.used_twice import block_yield
from authz_server.parts import Parts
from authz_server.requested_access import SCOPE_OFFLINE
from authz_server.store.codes import CodeGrant, StoredCode
from authz_server.store.digests import new_secret
from authz_server.store.refresh_tokens import RefreshGrant, begin_in
from authz_server.token_request import IssuancePlan, TokenRequest
from registry.blocks import BlockKind
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id
from token_exchange.token_types import GRANT_REFRESH_TOKEN


def _unusable(rule: str, detail: str) -> Refusal:
    # One sentence for all: which of the reasons it was helps only who tries codes.
    description = "The code cannot be used by this request."
    return Refusal("invalid_grant", description, detail, f"code.{rule}")


UNKNOWN: Final = _unusable("unknown", "no such code")
EXPIRED: Final = _unusable("expired", "code, session or consent ended")
REPLAYED: Final = _unusable("replayed", "used before; what it yielded is blocked now")
PROVIDER_GONE: Final = _unusable(
    "provider_gone", "the person's provider is not declared, or another"
)
NOT_COMMAND_LINE: Final = _unusable("not_command_line", "person directly, but not for admin")
OTHER_RESOURCE: Final = Refusal(
    "invalid_target", "The code is for another resource.", "resource", "code.resource"
)
NO_PROOF: Final = Refusal(
    "invalid_dpop_proof", "A DPoP proof is required.", "no proof", "code.proof_missing"
)
OTHER_KEY: Final = Refusal(
    "invalid_dpop_proof", "The code is bound to another key.", "dpop_jkt", "code.dpop_jkt"
)


DOCUMENT_CHANGED: Final = Refusal(
    "invalid_grant",
    "The client's metadata document has changed since the person was asked.",
    "another document_digest than when the request was accepted",
    "code.document_changed",
)


async def grant(request: TokenRequest, parts: Parts) -> IssuancePlan | Refusal:
    """What a code yields; the code is as good as before."""
    stored = await parts.codes.find(request.parameters.get("code", ""))
    refusal = validate_code_request(request, stored, parts.issuer)
    if refusal is not None:
        return refusal
    if stored is None:  # the bridge refused this already; kept so that no change there opens it
        return UNKNOWN
    if stored.used_at is not None:
        return await _revoke(stored.grant, parts)
    plan = _plan(request, stored, parts)
    if isinstance(plan, Refusal):
        return plan
    return replace(plan, use_up=partial(_use_up, request, stored, plan.refresh_token, parts))


async def _use_up(
    request: TokenRequest,
    stored: StoredCode,
    refresh_token: str | None,
    parts: Parts,
    also: Callable[[Connection], None],
) -> Refusal | None:
    """Consume the code and begin its family; a replay, if somebody was first."""
    begin_family = _new_family(request, stored.grant, refresh_token, parts)

    def in_transaction(connection: Connection) -> None:
        begin_family(connection)
        also(connection)

    if await parts.codes.consume(stored.digest, request.now, also=in_transaction):
        return None
    return await _revoke(stored.grant, parts)


async def _revoke(code: CodeGrant, parts: Parts) -> Refusal:
    """Block what the first use of this code yielded: the agent's run, or the one token."""
    kind, subject_id = BlockKind.TOKEN, code.token_id
    if code.invocation is not None:
        kind, subject_id = BlockKind.INVOCATION, code.invocation
    reason = "authorization code used twice"
    await block_yield(parts, kind, subject_id, code, reason=reason, refusal=REPLAYED)
    return REPLAYED


def _plan(request: TokenRequest, stored: StoredCode, parts: Parts) -> IssuancePlan | Refusal:
    """Everything but the use of the code. Pure of effects: may be asked any number of times."""
    refusal = _mismatch(request, stored, parts)
    if refusal is not None:
        return refusal
    granted = _granted(stored.grant)
    if granted.agent is None:
        is_admin = granted.resource == admin_audience(parts.issuer)
        if request.client.record.kind != "cli" or not is_admin:
            return NOT_COMMAND_LINE
        return issuance(request, granted, None, parts)
    agent = agent_at_server(request, granted, parts, _unusable)
    if isinstance(agent, Refusal):
        return agent
    return issuance(request, granted, agent, parts, _refresh_token(request, granted, parts))


def _granted(code: CodeGrant) -> PersonGrant:
    return PersonGrant(
        client_id=code.client_id,
        agent=code.agent,
        resource=code.resource,
        scope=code.scope,
        details=code.details,
        nonce=code.nonce,
        sub=code.sub,
        person=code.person,
        sid=code.sid,
        session_created_at=code.session_created_at,
        claims_at=code.session_created_at,
        valid_until=code.valid_until,
        gid=code.gid,
        invocation=code.invocation,
        token_id=code.token_id,
        transaction=code.transaction,
        created_at=code.requested_at,
    )


def _refresh_token(request: TokenRequest, granted: PersonGrant, parts: Parts) -> str | None:
    """A new refresh token, where one was asked for and the client may use it."""
    wants_one = SCOPE_OFFLINE in granted.scope.split()
    if not wants_one or GRANT_REFRESH_TOKEN not in request.client.record.grant_types:
        return None
    return new_secret(parts.random)


def _new_family(
    request: TokenRequest, code: CodeGrant, token: str | None, parts: Parts
) -> Callable[[Connection], None]:
    """What begins the family of a refresh token inside a write; without one, nothing."""
    if token is None:
        return lambda _: None
    if code.agent is None:
        raise AssertionError("only an agent has a refresh token")
    family_id = new_id("fam", parts.random)
    granted = RefreshGrant(
        client_id=code.client_id,
        agent=code.agent,
        resource=code.resource,
        scope=code.scope,
        details=code.details,
        key=request.proof_thumbprint,
        sub=code.sub,
        sid=code.sid,
        session_created_at=code.session_created_at,
        gid=code.gid,
        invocation=code.invocation,
        transaction=code.transaction,
        created_at=request.now,
        expires_at=code.valid_until,
    )
    return lambda connection: begin_in(connection, family_id, token, granted)


def _mismatch(request: TokenRequest, stored: StoredCode, parts: Parts) -> Refusal | None:
    code, now, proof = stored.grant, request.now, request.proof_thumbprint
    kind = request.client.record.kind
    rows = (
        (stored.expires_at <= now or code.valid_until <= now, EXPIRED),
        (not is_provider_same(parts, code.person), PROVIDER_GONE),
        # RFC 8707 §2.2: at the token endpoint a resource may be repeated, never replaced.
        (request.resource not in ((), (code.resource,)), OTHER_RESOURCE),
        # Whether a server takes bearers of a client that proves no key is asked where it is known.
        (proof is None and kind not in SELF_DECLARED_KINDS, NO_PROOF),
        (code.document_digest != request.client.record.document_digest, DOCUMENT_CHANGED),
        (code.dpop_jkt not in (None, proof), OTHER_KEY),  # RFC 9449 §10
    )
    return next((refusal for is_wrong, refusal in rows if is_wrong), None)

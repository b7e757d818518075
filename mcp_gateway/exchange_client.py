"""Step 8: the blended token becomes the target's credential, at the authority (RFC 8693).

Cached only where the provider's binding is `run`, by everything the token says but its own id and
times, the target, the provider's version and the epochs of all it depends on; life <= credential
- 30 s. `binding: call` is never cached: its decision id is good once. Concurrent calls of one
identity wait for one exchange. A revocation drops what depends on its subject, and an exchange
that was under way then is not kept.

What a server was given before, it may still echo: a renewed credential has the traces of those
that went before it and are valid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self
from urllib.parse import urlencode

import msgspec

from mcp_gateway.audit_trail import Intent
from mcp_gateway.authority import (
    Authority,
    AuthorityRequest,
    AuthorityUnreachableError,
)
from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.caller import Caller
from mcp_gateway.clock import Clock
from mcp_gateway.credential import Credential, holder_of
from mcp_gateway.enforcement import Enforcement
from mcp_gateway.exchange_answer import ExchangeRefusal, credential_in
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.single_flight import SingleFlight
from registry.blocks import BlockState, RevocationEvent, Subject
from registry.snapshot import ServerEntry
from token_exchange.claims import AccessTokenClaims, AuthorizationDetail
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    DETAIL_TOOL_CALL,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
    TOKEN_TYPE_STATIC_SECRET,
)

MAXIMUM_CREDENTIALS: Final = 16_384
MAXIMUM_ANSWER_BYTES: Final = 65_536
EXCHANGE_SECONDS: Final = 10.0
REMEMBERED_CREDENTIALS: Final = 4  # of one identity, while they are valid
SAFETY_SECONDS: Final = 30  # a credential must outlive the call it is given to
BINDING_RUN: Final = "run"
REQUESTED_TYPES: Final[Mapping[str, str]] = {
    "issued_token": TOKEN_TYPE_ACCESS_TOKEN,
    "static_secret": TOKEN_TYPE_STATIC_SECRET,
}


@dataclass(frozen=True, slots=True)
class CredentialNeed:
    """For whom, for which server, and which decision is to be honoured."""

    caller: Caller
    server: ServerEntry
    tool: str
    argument_digest: str
    decision_id: str

    @classmethod
    def of(cls, intent: Intent) -> Self:
        """What a call needs that was decided and recorded."""
        return cls(
            caller=intent.caller,
            server=intent.endpoint.server,
            tool=intent.tool,
            argument_digest=intent.argument_digest,
            decision_id=intent.decision_id,
        )


@dataclass(frozen=True, slots=True)
class _Identity:
    """INVARIANT: what a target could see or a block could hit is in here."""

    principal: AccessTokenClaims
    url: str
    audience: str
    provider: str
    provider_version: int
    epochs: tuple[tuple[Subject, int], ...]


@dataclass(frozen=True, slots=True)
class _Cached:
    """The credential handed out, and those exchanged so far, newest first, with their own traces.

    A server that was given several of them (a renewal, a legacy session) may echo any.
    """

    credential: Credential
    given: tuple[Credential, ...]
    subjects: frozenset[Subject]
    usable_until: int


class ExchangeClient:
    """Asks the authority for credentials, on behalf of one gateway."""

    def __init__(
        self,
        *,
        authority: Authority,
        key: GatewayKey,
        enforcement: Enforcement,
        clock: Clock,
        capacity: int = MAXIMUM_CREDENTIALS,
    ) -> None:
        """Take the authority, our key to prove ourselves with, and the blocks to key by."""
        self._authority = authority
        self._key = key
        self._enforcement = enforcement
        self._clock = clock
        self._cache: LeastRecentlyUsed[_Identity, _Cached] = LeastRecentlyUsed(capacity)
        self._flights: SingleFlight[_Identity] = SingleFlight()

    async def credential_for(self, need: CredentialNeed) -> Credential | ExchangeRefusal:
        """The credential for one call."""
        if need.server.credential.binding != BINDING_RUN:
            return await self._exchange(need)
        identity = _identity_of(need, self._enforcement.blocks)
        cached = self._cache.get(identity)
        if cached is not None and self._clock() < cached.usable_until:
            return cached.credential
        async with self._flights.of(identity):
            cached = self._cache.get(identity)
            if cached is not None and self._clock() < cached.usable_until:
                return cached.credential
            given = () if cached is None else cached.given
            return await self._exchange_and_keep(need, identity, given)

    async def renewed(
        self, need: CredentialNeed, stale: Credential
    ) -> Credential | ExchangeRefusal:
        """Another credential, because the target refused `stale`, which it may echo now."""
        identity = _identity_of(need, self._enforcement.blocks)
        cached = self._cache.get(identity)
        if cached is not None and cached.credential is stale:
            self._cache.put(identity, replace(cached, usable_until=0))
        fresh = await self.credential_for(need)
        return fresh if isinstance(fresh, ExchangeRefusal) else fresh.after((stale,))

    def forget(self, event: RevocationEvent) -> int:
        """Drop every credential that depends on a revoked subject; how many that were."""
        subject = Subject(event.kind, event.id)
        return self._cache.drop_where(lambda cached: subject in cached.subjects)

    def forget_all(self) -> None:
        """Drop every credential."""
        self._cache.clear()

    async def exchange_own_token(
        self, own_token: str, server: ServerEntry, detail: AuthorizationDetail
    ) -> Credential | ExchangeRefusal:
        """A credential without a person, for discovery (docs/architecture.md, "Discovery")."""
        credential = await self._request(own_token, server, detail)
        if isinstance(credential, ExchangeRefusal):
            return credential
        made = (server.url, server.audience, server.credential.name, server.credential.version)
        return credential.for_sessions_of((detail.type, server.name, *made), frozenset())

    async def _exchange_and_keep(
        self, need: CredentialNeed, identity: _Identity, given: tuple[Credential, ...]
    ) -> Credential | ExchangeRefusal:
        sequence = self._enforcement.blocks.sequence
        fresh = await self._exchange(need)
        if isinstance(fresh, ExchangeRefusal):
            return fresh
        now = self._clock()
        valid = (each for each in given if each.expires_at is not None and each.expires_at > now)
        given = (fresh, *valid)[:REMEMBERED_CREDENTIALS]
        credential = fresh.after(given)
        if credential.expires_at is not None:
            usable_until = credential.expires_at - SAFETY_SECONDS
            # A revocation while we waited may have meant this very identity: use once, at most.
            if usable_until > now and sequence == self._enforcement.blocks.sequence:
                subjects = frozenset(need.caller.subjects)
                self._cache.put(identity, _Cached(credential, given, subjects, usable_until))
        return credential

    async def _exchange(self, need: CredentialNeed) -> Credential | ExchangeRefusal:
        detail = AuthorizationDetail(
            type=DETAIL_TOOL_CALL,
            server=need.server.name,
            tool=need.tool,
            args_sha256=need.argument_digest,
            decision=need.decision_id,
        )
        credential = await self._request(need.caller.token, need.server, detail)
        if isinstance(credential, ExchangeRefusal):
            return credential
        identity = _identity_of(need, self._enforcement.blocks)
        holder = holder_of(need.caller.claims)
        return credential.for_sessions_of(identity, frozenset(need.caller.subjects), holder)

    async def _request(
        self, subject_token: str, server: ServerEntry, detail: AuthorizationDetail
    ) -> Credential | ExchangeRefusal:
        view = self._enforcement.view
        requested = REQUESTED_TYPES.get(server.credential.type)
        if view is None or requested is None:
            return ExchangeRefusal("invalid_request", "The credential type is not known here.", 0)
        now = int(self._clock())
        issuer, client_id = view.view.issuer, view.view.gateway.client_id
        form = {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "client_id": client_id,
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": self._key.client_assertion(
                client_id=client_id, issuer=issuer, now=now
            ),
            "subject_token": subject_token,
            "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "resource": server.url,
            "requested_token_type": requested,
            "authorization_details": msgspec.json.encode((detail,)).decode(),
        }
        request = AuthorityRequest(
            method="POST",
            url=f"{issuer}/oauth/token",
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/json",
            },
            body=urlencode(form).encode("ascii"),
            timeout_seconds=EXCHANGE_SECONDS,
            maximum_bytes=MAXIMUM_ANSWER_BYTES,
        )
        try:
            answer = await self._authority.ask(request)
        except AuthorityUnreachableError:
            description = "The authorization server could not be reached."
            return ExchangeRefusal("temporarily_unavailable", description, 0)
        return credential_in(answer, requested, self._key, now)


def _identity_of(need: CredentialNeed, blocks: BlockState) -> _Identity:
    entries = blocks.entries
    found = ((subject, entries.get((subject.kind, subject.id))) for subject in need.caller.subjects)
    return _Identity(
        principal=msgspec.structs.replace(need.caller.claims, jti="", iat=0, nbf=0, exp=0),
        url=need.server.url,
        audience=need.server.audience,
        provider=need.server.credential.name,
        provider_version=need.server.credential.version,
        epochs=tuple((subject, entry.not_before) for subject, entry in found if entry is not None),
    )

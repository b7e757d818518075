"""Whether a JWT of an OpenID provider is what it should be. Gathers keys, then decides.

The ladder, first failed rung wins: 1 form · 2 algorithm, from the operator's list, before anything
is fetched · 3 issuer · 4 header parameters, `typ`, key, signature (`token_exchange.verify`) ·
5 the claim table · 6 times. Audience, nonce and ages are the caller's: a login and a token somebody
else presents need different ones.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from idp_connectors.workforce.claim_tables import ClaimTable
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_metadata import OpenIdMetadata, openid_metadata
from idp_connectors.workforce.parts import WorkforceParts
from token_exchange.claims import Refusal
from token_exchange.compact_jws import parse_json_object
from token_exchange.keys import KeyTable
from token_exchange.signed_jws import verify_jws
from token_exchange.verify import unverified_claims

LEEWAY_SECONDS: Final = 30  # between the provider's clock and ours

_DESCRIPTIONS: Final = {
    "person_token.algorithm": "The token's algorithm is not accepted here.",
    "person_token.issuer": "The token is from another issuer.",
    "person_token.claim": "The token's claims are not acceptable.",
    "person_token.expired": "The token has expired.",
    "person_token.future": "The token is not valid yet.",
    "person_token.audience": "The token is for another audience.",
    "person_token.party": "The token was issued to another client.",
    "person_token.kind": "Tokens of this type are not accepted from a person.",
    "person_token.age": "The token is older than accepted.",
    "person_token.login_age": "The login behind the token is too long ago, or not said when.",
    "person_token.acr": "The login behind the token is not strong enough.",
    "person_token.bound": "The token is bound to a key.",
    "person_token.unavailable": "The identity provider cannot be reached now.",
}


class OpenIdTokens:
    """The tokens of one provider. Holds no state: the caches are shared by the process."""

    def __init__(self, settings: OidcSettings, parts: WorkforceParts) -> None:
        self._settings = settings
        self._policy = settings.policy
        self._discovery = parts.discovery
        self._jwks = parts.jwks

    async def metadata(self) -> OpenIdMetadata:
        """The provider's endpoints.

        Raises:
            FetchError: not to be had.
        """
        found = await self._discovery.metadata(self._settings.issuer, self._policy)
        return openid_metadata(found, self._policy)

    async def keys(self, unverified_token: str, *, refuse_as: str) -> KeyTable | Refusal:
        """The keys a token of this provider may be signed with; rungs 1 to 3.

        Raises:
            FetchError: metadata or keys are not to be had.
        """
        unverified = unverified_claims(unverified_token, refuse_as=refuse_as)
        if isinstance(unverified, Refusal):
            return unverified
        if unverified.header.get("alg") not in self._settings.algorithms:
            return refused("person_token.algorithm", refuse_as)
        if unverified.issuer != self._settings.issuer:
            return refused("person_token.issuer", refuse_as)
        metadata = await self.metadata()
        return await self._jwks.keys(
            metadata.jwks_uri, self._policy, kid=unverified.header.get("kid")
        )

    async def verify(
        self,
        unverified_token: str,
        *,
        typ: frozenset[str | None],
        table: ClaimTable,
        now: int,
        refuse_as: str,
    ) -> Mapping[str, Any] | Refusal:
        """The claims of a token this provider signed and that is valid now.

        Raises:
            FetchError: metadata or keys are not to be had.
        """
        keys = await self.keys(unverified_token, refuse_as=refuse_as)
        if isinstance(keys, Refusal):
            return keys
        jws = verify_jws(
            unverified_token,
            keys=keys,
            algorithms=frozenset(self._settings.algorithms),
            typ=typ,
            refuse_as=refuse_as,
        )
        if isinstance(jws, Refusal):
            return jws
        claims = parse_json_object(jws.payload) or {}
        return _judged(claims, self._settings.issuer, table, now, refuse_as)


def refused(rule: str, code: str, detail: str | None = None) -> Refusal:
    """A refusal of a provider's token."""
    description = _DESCRIPTIONS[rule]
    return Refusal(code, description, detail or description, rule)


def party_problem(claims: Mapping[str, Any], client_ids: Collection[str]) -> str | None:
    """Which rule an ID token breaks that should be for one of `client_ids` (OpenID Core §3.1.3.7).

    Steps 3 to 5: we are among the audiences; with several, and whenever it is said, the authorized
    party is ours too.
    """
    audience = claims["aud"]
    audiences = [audience] if isinstance(audience, str) else audience
    if not set(audiences) & set(client_ids):
        return "person_token.audience"
    party = claims.get("azp")
    if party is None:
        return "person_token.party" if len(audiences) > 1 else None
    return None if party in client_ids else "person_token.party"


def _judged(
    claims: Mapping[str, Any], issuer: str, table: ClaimTable, now: int, refuse_as: str
) -> Mapping[str, Any] | Refusal:
    problem = table.problem(claims)
    if problem is not None:
        return refused("person_token.claim", refuse_as, f"claim {problem}")
    if claims["iss"] != issuer:
        return refused("person_token.issuer", refuse_as)
    if now >= claims["exp"] + LEEWAY_SECONDS:
        return refused("person_token.expired", refuse_as)
    if max(claims["iat"], claims.get("nbf", 0)) > now + LEEWAY_SECONDS:
        return refused("person_token.future", refuse_as)
    return claims

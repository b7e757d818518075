"""Whether a token of an OpenID provider, presented by somebody else, speaks for a person.

Two kinds: ID tokens and RFC 9068 access tokens; which one it is says its own `typ`, never what it
is presented as (RFC 8725 §3.11). After the ladder of `openid_tokens`: 1 audience: a listed client
for an ID token, this authorization server for an access token, because a token for some API is that
API's to use, not to act here with · 2 issued to a listed client · 3 not bound to a key, whose proof
nobody has shown · 4 young enough · 5 `acr` as the operator wants it.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from idp_connectors.workforce.claim_tables import ACCESS_TOKEN, ID_TOKEN
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_login_checks import is_strong
from idp_connectors.workforce.openid_tokens import OpenIdTokens, party_problem, refused
from outbound.fetcher import FetchError
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN

# OpenID Core says nothing of `typ`; RFC 9068 §2.1 gives access tokens their own.
ID_TOKEN_TYPES: Final[frozenset[str | None]] = frozenset(("JWT", None))
ACCESS_TOKEN_TYPES: Final[frozenset[str | None]] = frozenset(("at+jwt", "application/at+jwt"))

_KINDS: Final = {
    TOKEN_TYPE_ID_TOKEN: (ID_TOKEN_TYPES, ID_TOKEN),
    TOKEN_TYPE_ACCESS_TOKEN: (ACCESS_TOKEN_TYPES, ACCESS_TOKEN),
}
_REFUSED_AS: Final = "invalid_request"  # RFC 8693 §2.2.2


async def person_claims(
    unverified_token: str,
    token_type: str,
    *,
    tokens: OpenIdTokens,
    settings: OidcSettings,
    own_issuer: str,
    client_ids: Collection[str],
    maximum_age_seconds: int,
    now: int,
) -> Mapping[str, Any] | Refusal:
    """The claims of an acceptable token. `own_issuer` is the authorization server's."""
    kind = _KINDS.get(token_type)
    if kind is None:
        return refused("person_token.kind", _REFUSED_AS)
    typ, table = kind
    try:
        claims = await tokens.verify(
            unverified_token, typ=typ, table=table, now=now, refuse_as=_REFUSED_AS
        )
    except FetchError as error:
        return refused("person_token.unavailable", "temporarily_unavailable", str(error))
    if isinstance(claims, Refusal):
        return claims
    if token_type == TOKEN_TYPE_ID_TOKEN:
        problem = party_problem(claims, client_ids)
    else:
        problem = _access_problem(claims, client_ids, own_issuer)
    if problem is None and "cnf" in claims:
        problem = "person_token.bound"
    if problem is None and now - claims["iat"] > maximum_age_seconds:
        problem = "person_token.age"
    if problem is None and not is_strong(settings, claims):
        problem = "person_token.acr"
    return claims if problem is None else refused(problem, _REFUSED_AS)


def _access_problem(
    claims: Mapping[str, Any], client_ids: Collection[str], own_issuer: str
) -> str | None:
    audience = claims["aud"]
    if own_issuer not in ([audience] if isinstance(audience, str) else audience):
        return "person_token.audience"
    return None if claims["client_id"] in client_ids else "person_token.party"

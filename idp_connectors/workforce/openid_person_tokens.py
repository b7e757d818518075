"""Whether a token of an OpenID provider, presented by somebody else, speaks for a person.

Two kinds, and which one a token is says the token itself, never what it is presented as
(RFC 8725 §3.11): its header's `typ`, and of providers that name the kind in the payload that as
well. After the ladder of `openid_tokens`, in this order:

1. nothing in it belongs to another kind: a token with a scope is no ID token
2. audience and party. An ID token is for listed clients and nobody else, issued to one of them
   (OpenID Core §3.1.3.7, steps 3 to 5). An access token is for this authorization server, by its
   issuer, and was issued to a listed client: a token for some API is that API's to use
3. not bound to a key, whose proof nobody has shown
4. young enough: issued (`iat`) as lately as the Agent asks, on a login (`auth_time`) as recent as
   the IdentityProvider asks of every login
5. `acr` as the operator wants it

`at_hash`, `c_hash` and `nonce` tie an ID token to an answer that its client alone has seen; here
they must only be of their form. Refresh tokens are of no kind, so they are never accepted.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from idp_connectors.evidence import Person
from idp_connectors.workforce.claim_tables import (
    ACCESS_TOKEN,
    ID_TOKEN,
    ClaimTable,
    is_session,
)
from idp_connectors.workforce.login import PersonToken
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_login_checks import is_strong
from idp_connectors.workforce.openid_tokens import LEEWAY_SECONDS, OpenIdTokens, refused
from outbound.fetcher import FetchError
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN, TOKEN_TYPE_ID_TOKEN

# OpenID Core says nothing of the header's `typ`; RFC 9068 §2.1 gives access tokens their own.
ID_TOKEN_TYPES: Final[frozenset[str | None]] = frozenset(("JWT", None))
ACCESS_TOKEN_TYPES: Final[frozenset[str | None]] = frozenset(("at+jwt", "application/at+jwt"))

# What access tokens (RFC 9068 §2.2, and what came before it) and event tokens (RFC 8417 §2.2) say
# and ID tokens do not. Without it an access token whose audience is a client would be one.
NOT_IN_ID_TOKENS: Final = frozenset(("cid", "client_id", "events", "scope", "scp"))

_REFUSED_AS: Final = "invalid_request"  # RFC 8693 §2.2.2


@dataclass(frozen=True, slots=True)
class PersonTokenKind:
    """One kind of token: the `typ` of its header, its claims, and whose it must be.

    `whose` gets the claims, the listed clients and our issuer, and says the rule it breaks.
    """

    typ: frozenset[str | None]
    table: ClaimTable
    whose: Callable[[Mapping[str, Any], Collection[str], str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTokens:
    """What the presenter's Agent accepts. `own_issuer` is the authorization server's."""

    client_ids: Collection[str]
    maximum_age_seconds: int
    own_issuer: str


async def person_claims(
    unverified_token: str,
    kind: PersonTokenKind | None,
    *,
    tokens: OpenIdTokens,
    settings: OidcSettings,
    accepted: AcceptedTokens,
    now: int,
) -> Mapping[str, Any] | Refusal:
    """The claims of an acceptable token. `now` is NumericDate seconds."""
    if kind is None:
        return refused("person_token.kind", _REFUSED_AS)
    try:
        claims = await tokens.verify(
            unverified_token, typ=kind.typ, table=kind.table, now=now, refuse_as=_REFUSED_AS
        )
    except FetchError as error:
        return refused("person_token.unavailable", "temporarily_unavailable", str(error))
    if isinstance(claims, Refusal):
        return claims
    problem = kind.whose(claims, accepted.client_ids, accepted.own_issuer)
    if problem is None and "cnf" in claims:
        problem = "person_token.bound"
    if problem is None and not is_session(claims.get("sid", "none")):
        problem = "person_token.claim"  # what could not be noted could not be ended
    if problem is None:
        problem = _age_problem(claims, settings, accepted.maximum_age_seconds, now)
    if problem is None and not is_strong(settings, claims):
        problem = "person_token.acr"
    return claims if problem is None else refused(problem, _REFUSED_AS)


def id_token_problem(
    claims: Mapping[str, Any], client_ids: Collection[str], _own_issuer: str
) -> str | None:
    """Which rule an ID token breaks that should be for listed clients and nobody else."""
    if not NOT_IN_ID_TOKENS.isdisjoint(claims) or claims.get("token_use", "id") != "id":
        return "person_token.kind"
    audiences = _audiences(claims)
    # Step 3: an audience nobody listed is one nobody trusts.
    if not set(audiences) <= set(client_ids):
        return "person_token.audience"
    party = claims.get("azp")
    if party is None:
        return "person_token.party" if len(audiences) > 1 else None
    return None if party in client_ids else "person_token.party"


def access_token_problem(
    claims: Mapping[str, Any], client_ids: Collection[str], own_issuer: str
) -> str | None:
    """Which rule an access token breaks that should be for us and of a listed client.

    RFC 9068 names the client in `client_id`; providers that do not, in `azp`. Where both are said,
    both must be listed.
    """
    if own_issuer not in _audiences(claims):
        return "person_token.audience"
    parties = {claims[name] for name in ("client_id", "azp") if name in claims}
    return None if parties and parties <= set(client_ids) else "person_token.party"


def person_token(person: Person, claims: Mapping[str, Any], claims_seconds: int) -> PersonToken:
    """The acceptable token these claims are of, as its presenter may rely on it.

    Groups of whoever logs in are believed for `claims_seconds`; those of a token no longer.
    """
    return PersonToken(
        person=person,
        client_id=str(claims.get("client_id") or claims.get("azp") or _audiences(claims)[0]),
        issued_at=claims["iat"],
        expires_at=min(claims["exp"], claims["iat"] + claims_seconds),
        clock_leeway_seconds=LEEWAY_SECONDS,
        upstream_session=claims.get("sid"),
    )


KINDS: Final[Mapping[str, PersonTokenKind]] = {
    TOKEN_TYPE_ID_TOKEN: PersonTokenKind(ID_TOKEN_TYPES, ID_TOKEN, id_token_problem),
    TOKEN_TYPE_ACCESS_TOKEN: PersonTokenKind(
        ACCESS_TOKEN_TYPES, ACCESS_TOKEN, access_token_problem
    ),
}


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    audience = claims["aud"]
    return [audience] if isinstance(audience, str) else list(audience)


def _age_problem(
    claims: Mapping[str, Any], settings: OidcSettings, maximum_age_seconds: int, now: int
) -> str | None:
    if now - claims["iat"] > maximum_age_seconds:
        return "person_token.age"
    longest = settings.maximum_login_age_seconds
    if longest is None:
        return None
    # The same rule as for a login here: without `auth_time` nobody knows how long ago it was.
    logged_in_at = claims.get("auth_time")
    is_recent = logged_in_at is not None and (
        now - longest - LEEWAY_SECONDS <= logged_in_at <= now + LEEWAY_SECONDS
    )
    return None if is_recent else "person_token.login_age"

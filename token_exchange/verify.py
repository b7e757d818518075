"""Whether a JWT is what it claims to be: signature, kind, issuer, audience, times.

The ladder, first failed rung wins: 1-6 form, key and signature (`signed_jws`) · 7 payload as JSON
· 8 required claims · 9 issuer · 10 audience · 11 times · 12 shape. Left out: replay, blocks and
proof of possession, which need state or the request.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from token_exchange.claims import AccessTokenClaims, Refusal, VerifiedClaims, VerifiedJwt
from token_exchange.compact_jws import parse_compact_jws, parse_json_object
from token_exchange.delegation import depth_of
from token_exchange.keys import KeyTable, VerificationKeys
from token_exchange.signed_jws import verify_jws
from token_exchange.token_types import (
    ACCESS_TOKEN_TYP,
    MAXIMUM_ACTOR_DEPTH,
    MAXIMUM_LIFETIME_SECONDS,
    SIGNING_ALGORITHM,
)

ACCESS_TOKEN_ALGORITHMS: Final = frozenset((SIGNING_ALGORITHM,))
ACCESS_TOKEN_LEEWAY_SECONDS: Final = 5  # between our own clocks; never beyond `exp`
MAXIMUM_NUMERIC_DATE: Final = 253_402_300_799  # the last second of year 9999

_TEXT_CLAIMS: Final = ("iss", "sub", "jti")
_TIME_CLAIMS: Final = ("exp", "iat", "nbf")

_DESCRIPTIONS: Final = {
    "jwt.payload": "The token's claims are not acceptable JSON.",
    "jwt.missing": "A required claim is missing.",
    "jwt.claim": "A claim has the wrong type or range.",
    "jwt.issuer": "The token is from another issuer.",
    "jwt.audience": "The token is for another audience.",
    "jwt.expired": "The token has expired.",
    "jwt.future": "The token is not valid yet.",
    "jwt.lifetime": "The token lives longer than accepted.",
    "jwt.shape": "The token is not an access token of this product.",
    "jwt.actors": "The token's actor chain is too long.",
}


@dataclass(frozen=True, slots=True)
class UnverifiedClaims:
    """What a JWT says before anything is checked: good for choosing its verifier, only."""

    issuer: str
    header: dict[str, Any]
    subject: str = ""


def unverified_claims(
    unverified_token: str, *, refuse_as: str = "invalid_client", require_issuer: bool = True
) -> UnverifiedClaims | Refusal:
    """The issuer a JWT names, to choose the one verifier that will check it again.

    RFC 8725 §3.10: never to select a key or an issuer that is not configured.
    """
    jws = parse_compact_jws(unverified_token, refuse_as=refuse_as)
    if isinstance(jws, Refusal):
        return jws
    claims = parse_json_object(jws.payload)
    if claims is None:
        return _refusal("jwt.payload", refuse_as)
    issuer, subject = claims.get("iss", ""), claims.get("sub", "")
    if not isinstance(issuer, str) or (require_issuer and not issuer):
        return _refusal("jwt.missing", refuse_as, "iss")
    return UnverifiedClaims(issuer, jws.header, subject if isinstance(subject, str) else "")


def verify_jwt(
    unverified_token: str,
    *,
    keys: KeyTable,
    algorithms: frozenset[str],
    typ: str | frozenset[str | None],
    issuer: str | None,
    audience: str | None,
    now: int,
    leeway_seconds: int = 5,
    maximum_lifetime_seconds: int | None = None,
    require: tuple[str, ...] = ("exp", "iat"),
    refuse_as: str = "invalid_client",
) -> VerifiedJwt | Refusal:
    """Check a JWT that is not an access token: attestation, client assertion (RFC 7523 §3).

    Args:
        unverified_token: a compact JWS of at most `MAXIMUM_TOKEN_BYTES`.
        keys: the keys of this issuer only.
        algorithms: what may be used, explicitly; never taken from the token.
        typ: the exact `typ` header (RFC 8725 §3.11); of a set any, None standing for its absence.
        issuer: the exact `iss`; None where the keys alone say whose it is (JWT-SVID §3).
        audience: the only audience, as a text or an array of just it; None refuses a token that
            has any (RFC 7519 §4.1.3).
        now: NumericDate seconds.
        leeway_seconds: how far the other clock may be off, in both directions.
        maximum_lifetime_seconds: bound of `exp - iat`, or of `exp - now` without `iat`.
        require: claims that must be there.
        refuse_as: the OAuth error code of a refusal.
    """
    jws = verify_jws(
        unverified_token, keys=keys, algorithms=algorithms, typ=typ, refuse_as=refuse_as
    )
    if isinstance(jws, Refusal):
        return jws
    claims = parse_json_object(jws.payload)
    if claims is None:
        return _refusal("jwt.payload", refuse_as)
    refusal = _claims_refusal(claims, require, issuer, refuse_as)
    if refusal is None and claims.get("aud") not in _spellings(audience):
        refusal = _refusal("jwt.audience", refuse_as)
    if refusal is None:
        refusal = _times_refusal(
            claims,
            now=now,
            past_leeway=leeway_seconds,
            future_leeway=leeway_seconds,
            maximum_lifetime=maximum_lifetime_seconds,
            refuse_as=refuse_as,
        )
    return VerifiedJwt(jws.header, claims) if refusal is None else refusal


def verify_access_token(
    unverified_token: str,
    *,
    keys: VerificationKeys,
    issuer: str,
    audiences: Container[str],
    now: int,
    refuse_as: str = "invalid_token",
    even_expired: bool = False,
) -> VerifiedClaims | Refusal:
    """Check an access token of ours (RFC 9068 §4): ES256, `typ` at+jwt, one audience.

    `exp` is exact; `iat` and `nbf` may be `ACCESS_TOKEN_LEEWAY_SECONDS` ahead. `refuse_as` is
    `invalid_token` for a bearer (RFC 6750 §3.1), `invalid_request` for a subject token
    (RFC 8693 §2.2.2). `even_expired` leaves out `exp` alone: for a token that is to say what it was
    for, as an `id_token_hint` does, and opens nothing.
    """
    jws = verify_jws(
        unverified_token,
        keys=keys,
        algorithms=ACCESS_TOKEN_ALGORITHMS,
        typ=ACCESS_TOKEN_TYP,
        refuse_as=refuse_as,
    )
    if isinstance(jws, Refusal):
        return jws
    claims = parse_json_object(jws.payload)
    if claims is None:
        return _refusal("jwt.payload", refuse_as)
    # A text is a container of its own substrings: it stands for itself alone here.
    allowed = (audiences,) if isinstance(audiences, str) else audiences
    refusal = _claims_refusal(claims, ("exp", "iat", "jti", "sub"), issuer, refuse_as)
    if refusal is None and not _is_allowed(claims.get("aud"), allowed):
        refusal = _refusal("jwt.audience", refuse_as)
    if refusal is None:
        refusal = _times_refusal(
            claims,
            now=min(now, claims["exp"] - 1) if even_expired else now,
            past_leeway=0,
            future_leeway=ACCESS_TOKEN_LEEWAY_SECONDS,
            maximum_lifetime=MAXIMUM_LIFETIME_SECONDS,
            refuse_as=refuse_as,
        )
    return _shaped(claims, jws.key_id, refuse_as) if refusal is None else refusal


def _shaped(claims: dict[str, Any], key_id: str, refuse_as: str) -> VerifiedClaims | Refusal:
    try:
        token = msgspec.convert(claims, AccessTokenClaims)
    except msgspec.ValidationError as problem:
        return _refusal("jwt.shape", refuse_as, str(problem))
    if depth_of(token.act) > MAXIMUM_ACTOR_DEPTH:
        return _refusal("jwt.actors", refuse_as)
    return VerifiedClaims(token, key_id)


def _refusal(rule: str, code: str, detail: str | None = None) -> Refusal:
    return Refusal(code, _DESCRIPTIONS[rule], detail or _DESCRIPTIONS[rule], rule)


def _claims_refusal(
    claims: Mapping[str, Any], require: tuple[str, ...], issuer: str | None, refuse_as: str
) -> Refusal | None:
    for name in require:
        if name not in claims:
            return _refusal("jwt.missing", refuse_as, name)
    for name in _TEXT_CLAIMS:
        value = claims.get(name, name)
        if not isinstance(value, str) or not value:
            return _refusal("jwt.claim", refuse_as, name)
    for name in _TIME_CLAIMS:
        # Exactly int: bool is a subclass, and a float or text has more than one reading.
        value = claims.get(name, 0)
        if type(value) is not int or not 0 <= value <= MAXIMUM_NUMERIC_DATE:
            return _refusal("jwt.claim", refuse_as, name)
    return None if issuer in (None, claims.get("iss")) else _refusal("jwt.issuer", refuse_as)


def _spellings(audience: str | None) -> tuple[object, ...]:
    return (None,) if audience is None else (audience, [audience])


def _is_allowed(audience: object, allowed: Container[str]) -> bool:
    return isinstance(audience, str) and audience in allowed


def _times_refusal(
    claims: Mapping[str, Any],
    *,
    now: int,
    past_leeway: int,
    future_leeway: int,
    maximum_lifetime: int | None,
    refuse_as: str,
) -> Refusal | None:
    expires_at = claims.get("exp")
    if expires_at is not None and now >= expires_at + past_leeway:
        return _refusal("jwt.expired", refuse_as)
    if max(claims.get("iat", 0), claims.get("nbf", 0)) > now + future_leeway:
        return _refusal("jwt.future", refuse_as)
    if maximum_lifetime is not None and (
        expires_at is None or expires_at - claims.get("iat", now) > maximum_lifetime
    ):
        return _refusal("jwt.lifetime", refuse_as)
    return None

"""Whether a DPoP proof shows the sender's key for exactly this request (RFC 9449 §4.3).

The checks follow that section's numbers; 1 (one header field) is the caller's. A proof brings its
own key, so only here is `jwk` allowed in a header. Left out: replay. `DpopProof.replay_key` must
be consumed once by the caller, and kept until `expires_at`.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from token_exchange.claims import JwkThumbprint, Refusal
from token_exchange.compact_jws import encode_base64url, parse_compact_jws, parse_json_object
from token_exchange.keys import public_key_of
from token_exchange.signed_jws import FORBIDDEN_HEADERS
from token_exchange.token_types import DPOP_PROOF_TYP, SIGNING_ALGORITHM
from token_exchange.verify import MAXIMUM_NUMERIC_DATE

MAXIMUM_PROOF_BYTES: Final = 4096  # about six times the usual
MAXIMUM_PROOF_AGE_SECONDS: Final = 60
PROOF_LEEWAY_SECONDS: Final = 5  # how far the sender's clock may be ahead
MINIMUM_PROOF_ID_LENGTH: Final = 8
MAXIMUM_PROOF_ID_LENGTH: Final = 128  # a UUID has 36

_FORBIDDEN_HEADERS: Final = FORBIDDEN_HEADERS - {"jwk"}
_VISIBLE_ASCII: Final = re.compile(r"[\x21-\x7e]+")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED: Final = re.compile(rb"[A-Za-z0-9._~-]")  # RFC 3986 §2.3
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_DESCRIPTIONS: Final = {
    "dpop.type": "The proof's typ is not dpop+jwt.",
    "dpop.algorithm": "The proof is not signed with ES256.",
    "dpop.header": "The proof's header has a parameter that is not accepted.",
    "dpop.key": "The proof's jwk is not a public P-256 key.",
    "dpop.signature": "The proof's signature is not valid.",
    "dpop.payload": "The proof's claims are not acceptable JSON.",
    "dpop.claim": "A claim of the proof is missing or out of range.",
    "dpop.method": "The proof is for another method.",
    "dpop.uri": "The proof is for another URI.",
    "dpop.nonce": "The proof must contain the nonce of the server.",
    "dpop.age": "The proof is too old or from the future.",
    "dpop.token": "The proof is for another access token.",
    "dpop.binding": "The proof is by another key.",
}


@dataclass(frozen=True, slots=True)
class DpopProof:
    """A verified proof. Times are NumericDate seconds; the proof is refused from `expires_at` on.

    `replay_key` is 43 characters, whatever the `jti` is.
    """

    jkt: JwkThumbprint
    jti: str
    issued_at: int
    replay_key: str
    expires_at: int


def verify_dpop_proof(
    unverified_proof: str,
    *,
    method: str,
    uri: str,
    now: int,
    access_token: str | None,
    expected_thumbprint: str | None,
    maximum_age_seconds: int = MAXIMUM_PROOF_AGE_SECONDS,
    nonce: str | None = None,
) -> DpopProof | Refusal:
    """Check everything about a proof but replay (RFC 9449 §4.3).

    Args:
        unverified_proof: the value of the one `DPoP` header field.
        method: the request's method, as sent.
        uri: the request's URI from our own configuration, never from the `Host` header.
        now: NumericDate seconds.
        access_token: the token sent along, whose hash `ath` must be; None when there is none.
        expected_thumbprint: `cnf.jkt` of that token, or of a code; None when nothing is bound yet.
        maximum_age_seconds: how old `iat` may be.
        nonce: the nonce we demanded, if any (RFC 9449 §8).

    The refusal's code is `invalid_dpop_proof`, or `use_dpop_nonce` for the nonce alone.
    """
    signed = _signed_claims(unverified_proof)
    if isinstance(signed, Refusal):
        return signed
    jkt, claims = signed
    rule = (
        _request_problem(claims, method, uri)
        or _age_problem(claims["iat"], now, maximum_age_seconds)
        or _binding_problem(claims, jkt, access_token, expected_thumbprint)
    )
    if rule is not None:
        return _refusal(rule)
    if nonce is not None and not _equal(claims.get("nonce"), nonce):
        return _refusal("dpop.nonce", "use_dpop_nonce")
    # Method and URI are left out: one key uses an id once, whatever for.
    replay_key = encode_base64url(hashlib.sha256(f"{jkt} {claims['jti']}".encode()).digest())
    issued_at = claims["iat"]
    return DpopProof(jkt, claims["jti"], issued_at, replay_key, issued_at + maximum_age_seconds + 1)


def access_token_hash(access_token: str) -> str:
    """The `ath` of an access token (RFC 9449 §4.2)."""
    return encode_base64url(hashlib.sha256(access_token.encode()).digest())


def normalised_uri(uri: object) -> str | None:
    """A URI without query and fragment, in the one form for comparison; None if it is no http URI.

    RFC 9449 §4.3 check 9 with RFC 3986 §6.2.2 and §6.2.3: case of scheme, host and escapes,
    needless escapes, default port, empty path. Dot segments and userinfo are refused.
    """
    if not isinstance(uri, str) or _VISIBLE_ASCII.fullmatch(uri) is None:
        return None
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if default_port is None or not parts.hostname or "@" in parts.netloc:
        return None
    path = _ESCAPE.sub(_normalised_escape, parts.path) or "/"
    if not {".", ".."}.isdisjoint(path.split("/")):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    suffix = "" if port is None or port == default_port else f":{port}"
    return f"{parts.scheme}://{host}{suffix}{path}"


def _signed_claims(unverified_proof: str) -> tuple[JwkThumbprint, dict[str, Any]] | Refusal:
    proof = parse_compact_jws(
        unverified_proof, refuse_as="invalid_dpop_proof", maximum_bytes=MAXIMUM_PROOF_BYTES
    )
    if isinstance(proof, Refusal):
        return proof
    problem = _header_problem(proof.header)
    if problem is not None:
        return _refusal(problem)
    key = public_key_of(proof.header.get("jwk"))
    if isinstance(key, Refusal):
        return _refusal("dpop.key", detail=key.rule)
    if not key.verifies(proof.signing_input, proof.signature):
        return _refusal("dpop.signature")
    claims = parse_json_object(proof.payload)
    if claims is None:
        return _refusal("dpop.payload")
    claim = _misshapen_claim(claims)
    return (key.thumbprint, claims) if claim is None else _refusal("dpop.claim", detail=claim)


def _refusal(rule: str, code: str = "invalid_dpop_proof", detail: str | None = None) -> Refusal:
    description = _DESCRIPTIONS[rule]
    return Refusal(code, description, detail or description, rule)


def _header_problem(header: dict[str, Any]) -> str | None:
    if header.get("typ") != DPOP_PROOF_TYP:
        return "dpop.type"
    if header.get("alg") != SIGNING_ALGORITHM:
        return "dpop.algorithm"
    return None if _FORBIDDEN_HEADERS.isdisjoint(header) else "dpop.header"


def _misshapen_claim(claims: dict[str, Any]) -> str | None:
    proof_id, issued_at = claims.get("jti"), claims.get("iat")
    if not isinstance(proof_id, str) or not (
        MINIMUM_PROOF_ID_LENGTH <= len(proof_id) <= MAXIMUM_PROOF_ID_LENGTH
    ):
        return "jti"
    # Exactly int: bool is a subclass, and a float or text has more than one reading.
    if type(issued_at) is not int or not 0 <= issued_at <= MAXIMUM_NUMERIC_DATE:
        return "iat"
    return None


def _request_problem(claims: dict[str, Any], method: str, uri: str) -> str | None:
    if claims.get("htm") != method:
        return "dpop.method"
    claimed = normalised_uri(claims.get("htu"))
    return "dpop.uri" if claimed is None or claimed != normalised_uri(uri) else None


def _age_problem(issued_at: int, now: int, maximum_age_seconds: int) -> str | None:
    is_current = now - maximum_age_seconds <= issued_at <= now + PROOF_LEEWAY_SECONDS
    return None if is_current else "dpop.age"


def _binding_problem(
    claims: dict[str, Any], jkt: str, access_token: str | None, expected_thumbprint: str | None
) -> str | None:
    if access_token is not None and not _equal(claims.get("ath"), access_token_hash(access_token)):
        return "dpop.token"
    if expected_thumbprint is not None and not _equal(jkt, expected_thumbprint):
        return "dpop.binding"
    return None


def _equal(claimed: object, expected: str) -> bool:
    return isinstance(claimed, str) and hmac.compare_digest(claimed.encode(), expected.encode())


def _normalised_escape(match: re.Match[str]) -> str:
    byte = unquote_to_bytes(match.group())
    return byte.decode("ascii") if _UNRESERVED.fullmatch(byte) else match.group().upper()

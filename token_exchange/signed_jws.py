"""Whether a document is signed as its reader accepts: by which algorithm, of which kind, by whom.

The ladder, first failed rung wins: 1 form and size (`compact_jws`) · 2 algorithm, from the caller's
explicit list · 3 header parameters that would bring their own key or rules · 4 `typ` · 5 `kid`
· 6 signature. Nothing is looked up before the algorithm is accepted; nothing is ever fetched. Left
out: what the payload says; if it is a JWT, `verify` climbs on.
"""

from dataclasses import dataclass
from typing import Any, Final

from token_exchange.claims import Refusal
from token_exchange.compact_jws import UnverifiedJws, parse_compact_jws
from token_exchange.keys import KeyTable, VerifyingKey
from token_exchange.token_types import MAXIMUM_TOKEN_BYTES

# RFC 7515 §4.1.2-4.1.6, §4.1.11, RFC 7797 §3: a token may not choose its key, nor the rules.
FORBIDDEN_HEADERS: Final = frozenset(("crit", "b64", "jku", "jwk", "x5u", "x5c"))

_DESCRIPTIONS: Final = {
    "jwt.algorithm": "The token's algorithm is not accepted here.",
    "jwt.header": "The token's header has a parameter that is not accepted.",
    "jwt.type": "The token is of another type.",
    "jwt.key": "The token's key is not known.",
    "jwt.signature": "The token's signature is not valid.",
}


@dataclass(frozen=True, slots=True)
class VerifiedJws:
    """A payload whose signature, `typ` and algorithm were checked."""

    header: dict[str, Any]
    payload: bytes
    key_id: str


def verify_jws(
    unverified_jws: str,
    *,
    keys: KeyTable,
    algorithms: frozenset[str],
    typ: str | frozenset[str | None],
    refuse_as: str = "invalid_request",
    maximum_bytes: int = MAXIMUM_TOKEN_BYTES,
) -> VerifiedJws | Refusal:
    """Check a signed document that need not be a JWT, such as a snapshot (RFC 7515 §5.2).

    `typ` is compared exactly (RFC 8725 §3.11): one value, or a set in which None stands for its
    absence. `maximum_bytes` bounds the compact form.
    """
    jws = parse_compact_jws(unverified_jws, refuse_as=refuse_as, maximum_bytes=maximum_bytes)
    if isinstance(jws, Refusal):
        return jws
    key = _key_of(jws, keys, algorithms, typ, refuse_as)
    if isinstance(key, Refusal):
        return key
    if not key.verifies(jws.signing_input, jws.signature):
        return _refusal("jwt.signature", refuse_as)
    return VerifiedJws(jws.header, jws.payload, jws.header["kid"])


def _key_of(
    jws: UnverifiedJws,
    keys: KeyTable,
    algorithms: frozenset[str],
    typ: str | frozenset[str | None],
    refuse_as: str,
) -> VerifyingKey | Refusal:
    algorithm = jws.header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        return _refusal("jwt.algorithm", refuse_as)
    if not FORBIDDEN_HEADERS.isdisjoint(jws.header):
        return _refusal("jwt.header", refuse_as)
    if not _is_typ(jws.header.get("typ"), typ):
        return _refusal("jwt.type", refuse_as)
    key = keys.find(jws.header.get("kid"))
    if key is None:
        return _refusal("jwt.key", refuse_as)
    # INVARIANT: a key is used with its own algorithm, whatever the caller's list allows.
    return key if key.algorithm == algorithm else _refusal("jwt.algorithm", refuse_as)


def _is_typ(stated: object, wanted: str | frozenset[str | None]) -> bool:
    accepted = (wanted,) if isinstance(wanted, str) else wanted  # what is unhashable is in none
    return (stated is None or isinstance(stated, str)) and stated in accepted


def _refusal(rule: str, code: str) -> Refusal:
    return Refusal(code, _DESCRIPTIONS[rule], _DESCRIPTIONS[rule], rule)

"""A client's own key as its authentication: private_key_jwt (RFC 7523 §3).

`aud` is our issuer and nothing else, the assertion is single use. Ours (gateways, declared clients)
say their `typ` and live a minute; a client that describes itself has its keys in its document or
at its own origin, and makes assertions as its library does. Left out: every other algorithm than
ES256, which the metadata says.
"""

from typing import Final

from authz_server.clients.presented import Authenticated, Presented, failed
from authz_server.clients.resolving import document_of_holder
from authz_server.compiled_snapshot import CompiledSnapshot
from authz_server.parts import Parts
from authz_server.store.replay import OnceKind, UsedOnce
from authz_server.token_request import AuthenticatedClient
from registry.clients import DOCUMENT_CLIENT, PRIVATE_KEY_JWT
from registry.snapshot import ClientRecord
from token_exchange.claims import Refusal
from token_exchange.keys import KeyTable, PublicKey, VerificationKeys
from token_exchange.token_types import CLIENT_ASSERTION_TYP, SIGNING_ALGORITHM
from token_exchange.verify import unverified_claims, verify_jwt

MAXIMUM_ASSERTION_SECONDS: Final = 60  # a client signs a fresh one for each request
MAXIMUM_FOREIGN_ASSERTION_SECONDS: Final = 300  # what libraries make; single use all the same
# RFC 7523 names no `typ`; the keys are this client's alone, so nothing else can be meant.
DOCUMENT_ASSERTION_TYPS: Final = frozenset({None, "JWT", CLIENT_ASSERTION_TYP})
ASSERTION_LEEWAY_SECONDS: Final = 5
MAXIMUM_PROOF_ID: Final = 256

_NO_KEYS: Final = VerificationKeys.of(())


async def private_key_jwt(
    presented: Presented, parts: Parts, compiled: CompiledSnapshot
) -> Authenticated | Refusal:
    """An assertion by the client's own key (RFC 7523 §3): aud is the issuer and nothing else."""
    record = compiled.snapshot.clients.get(presented.unverified_issuer)
    if record is None:
        return await _document_assertion(presented, parts)
    return _by_its_key(
        presented, parts, record, compiled.client_keys.get(record.client_id, _NO_KEYS)
    )


async def _document_assertion(presented: Presented, parts: Parts) -> Authenticated | Refusal:
    """The same by a client that describes itself: its keys are where its document says."""
    document = await document_of_holder(parts, presented.unverified_issuer, presented.parameters)
    if document is None:
        return failed("client.unknown", "no client or trust provider is this issuer")
    if isinstance(document, Refusal):
        return document
    unverified = unverified_claims(presented.unverified_assertion)
    if isinstance(unverified, Refusal):
        return unverified
    keys = await parts.client_documents.keys(document, unverified.header.get("kid"))
    if isinstance(keys, Refusal):
        return keys
    return _by_its_key(presented, parts, document.client, keys)


def _by_its_key(
    presented: Presented, parts: Parts, record: ClientRecord, keys: KeyTable
) -> Authenticated | Refusal:
    is_document = record.kind == DOCUMENT_CLIENT
    verified = verify_jwt(
        presented.unverified_assertion,
        keys=keys,
        algorithms=frozenset((SIGNING_ALGORITHM,)),
        typ=DOCUMENT_ASSERTION_TYPS if is_document else CLIENT_ASSERTION_TYP,
        issuer=record.client_id,
        audience=parts.issuer,
        now=presented.now,
        leeway_seconds=ASSERTION_LEEWAY_SECONDS,
        maximum_lifetime_seconds=(
            MAXIMUM_FOREIGN_ASSERTION_SECONDS if is_document else MAXIMUM_ASSERTION_SECONDS
        ),
        require=("iss", "sub", "exp", "iat", "jti"),
    )
    if isinstance(verified, Refusal):
        return verified
    claims = verified.claims
    if claims["sub"] != record.client_id:
        return failed("client.subject", "iss and sub of the assertion differ")
    if len(claims["jti"]) > MAXIMUM_PROOF_ID:
        return failed("client.jti", "the jti is too long")
    key = keys.find(verified.header["kid"])
    # A foreign key binds nothing: its client may bind its tokens to another (RFC 9449 §5).
    thumbprint = key.thumbprint if isinstance(key, PublicKey) else None
    used = UsedOnce(
        OnceKind.CLIENT_ASSERTION,
        record.client_id,
        claims["jti"],
        claims["exp"] + ASSERTION_LEEWAY_SECONDS,
    )
    return Authenticated(
        AuthenticatedClient(
            record,
            PRIVATE_KEY_JWT,
            key_thumbprint=thumbprint,
            proved_at=claims["iat"],
        ),
        (used,),
    )

"""The one `DPoP` header of a request, verified; and the single use it has to be remembered as.

RFC 9449 §4.3 check 1: exactly one header field. An empty one is an error, never "no proof", so a
bound request cannot be turned into an unbound one by emptying a header (RFC 9449 §11.4).
"""

from collections.abc import Sequence

from authz_server.store.replay import OnceKind, ReplayStore, UsedOnce
from token_exchange.claims import Refusal
from token_exchange.proof_of_possession import DpopProof, verify_dpop_proof


def proof_in(
    headers: Sequence[str],
    *,
    method: str,
    uri: str,
    now: int,
    access_token: str | None = None,
    expected_thumbprint: str | None = None,
) -> DpopProof | Refusal | None:
    """The proof in all the `DPoP` header values of a request; None when there is no header.

    `uri` is built from our configured issuer, never from the `Host` header.
    """
    if not headers:
        return None
    if len(headers) > 1 or not headers[0].strip():
        return _refused("There must be exactly one DPoP proof.", "dpop.header_count")
    return verify_dpop_proof(
        headers[0].strip(" \t"),
        method=method,
        uri=uri,
        now=now,
        access_token=access_token,
        expected_thumbprint=expected_thumbprint,
    )


async def used_proof_in(
    headers: Sequence[str],
    replay: ReplayStore,
    *,
    method: str,
    uri: str,
    now: int,
    expected_thumbprint: str,
    access_token: str | None = None,
) -> DpopProof | Refusal:
    """The proof a request must have, by this very key, used up: where nothing else decides."""
    proof = proof_in(
        headers,
        method=method,
        uri=uri,
        now=now,
        access_token=access_token,
        expected_thumbprint=expected_thumbprint,
    )
    if proof is None:
        return _refused("A DPoP proof is required.", "dpop.missing")
    if isinstance(proof, Refusal):
        return proof
    replayed = await replay.use((use_of_proof(proof),), now)
    return proof if replayed is None else _refused("This proof was used before.", "replay.dpop")


def use_of_proof(proof: DpopProof) -> UsedOnce:
    """What to remember of a proof, so that it is good once."""
    return UsedOnce(OnceKind.DPOP_PROOF, proof.jkt, proof.replay_key, proof.expires_at)


def _refused(description: str, rule: str) -> Refusal:
    return Refusal("invalid_dpop_proof", description, description, rule)

"""The shape of a workload verifier, and what every verifier is built from.

A verifier belongs to exactly one assertion issuer: the unverified `iss` selects it, and it then
checks that very issuer again with the keys of its own (docs/architecture.md, "Attestation").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from idp_connectors.evidence import Evidence
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from token_exchange.claims import Refusal
from token_exchange.keys import VerificationKeys


class WorkloadVerifier(Protocol):
    """Verifies the proofs of exactly one assertion issuer."""

    issuer: str

    async def verify(self, unverified_assertion: str, now: int) -> Evidence | Refusal:
        """Check everything but replay; the caller consumes `Evidence.proof_id` once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadParts:
    """What the verifiers of this process share.

    `issuer` is the authorization server's. `attestation_keys` gives the public keys that may have
    signed our own attestations, read at each use so that a rotation needs no restart. `fetcher`
    and `jwks` are the process's own; `clock` gives seconds.
    """

    issuer: str
    attestation_keys: Callable[[], VerificationKeys]
    fetcher: Fetcher
    jwks: JwksCache
    clock: Callable[[], float]

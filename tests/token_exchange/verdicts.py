"""What the verifiers answer, as short as a test wants to say it."""

from tests.token_exchange.signing import ENDPOINT, ISSUER, KEYS, NOW
from token_exchange.claims import Refusal, VerifiedClaims
from token_exchange.verify import verify_access_token

ES256 = frozenset(("ES256",))


def verified_token(token: str, now: int = NOW) -> VerifiedClaims | Refusal:
    """What our verifier says of an access token at its endpoint."""
    return verify_access_token(
        token, keys=KEYS, issuer=ISSUER, audiences=frozenset((ENDPOINT,)), now=now
    )


def rule_of(result: object) -> str | None:
    """The rule of a refusal, None of anything else."""
    return result.rule if isinstance(result, Refusal) else None


def detail_of(result: object) -> str | None:
    """The detail of a refusal, None of anything else."""
    return result.detail if isinstance(result, Refusal) else None

"""Which agent's run a token of ours belongs to, said by the token itself.

Order: our signature, `typ` and issuer → an endpoint's audience → one Agent holds it → it names a
run and the key it is bound to. Who presents it has proved nothing yet: the caller wants the proof
of that key. An expired token still says whose run it was, so that an agent that slept can end its
run or go on with it; blocks and epochs are the caller's to ask, where they matter.
"""

from dataclasses import dataclass

from authz_server.compiled_snapshot import CompiledSnapshot
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.parts import Parts
from token_exchange.claims import AccessTokenClaims, JwkThumbprint, Refusal
from token_exchange.delegation import acting_agent
from token_exchange.token_types import AudienceClass
from token_exchange.verify import verify_access_token


@dataclass(frozen=True, slots=True)
class RunToken:
    """A verified token of one agent's run, expired or not. `key` is still to be proved."""

    claims: AccessTokenClaims
    agent: str
    invocation: str
    key: JwkThumbprint


def run_token(
    unverified_token: str, parts: Parts, compiled: CompiledSnapshot, now: int
) -> RunToken | Refusal:
    """The run behind a token. `now` is NumericDate seconds."""
    verified = verify_access_token(
        unverified_token,
        keys=parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=parts.issuer,
        audiences=compiled.endpoints,
        now=now,
        even_expired=True,
    )
    if isinstance(verified, Refusal):
        return verified
    claims = verified.token
    agent, key = acting_agent(claims), claims.cnf
    is_endpoint = compiled.audience_class(claims.aud) is AudienceClass.ENDPOINT
    if not is_endpoint or agent is None or claims.inv is None or key is None:
        detail = "no agent's token for an endpoint, of a run and bound to a key"
        return Refusal("invalid_token", "The token is no run's.", detail, "run.token")
    return RunToken(claims, agent, claims.inv, key.jkt)

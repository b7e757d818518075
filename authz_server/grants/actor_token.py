"""Whether an `actor_token` is the authenticated agent (RFC 8693 §2.1).

The actor is who authenticated; naming it again changes nothing, naming anybody else is refused. So
the token is verified like a client assertion, must be of the very same workload, and must carry no
`act`: an agent has no chain behind it here, and what it claims of one would be invented. Nothing
comes of the token, so it is not used up.
"""

from typing import Final

from authz_server.clients.authentication import assertion_issuer
from authz_server.parts import Parts
from authz_server.token_request import TokenRequest
from token_exchange.claims import Refusal
from token_exchange.compact_jws import parse_compact_jws, parse_json_object
from token_exchange.token_types import TOKEN_TYPE_JWT


def _refused(rule: str, detail: str) -> Refusal:
    description = "The actor_token is not the authenticated client's."
    return Refusal("invalid_request", description, detail, f"blend.actor_{rule}")


TYPE: Final = _refused("type", "actor_token without its type, a type alone, or another type")
UNREADABLE: Final = _refused("form", "no JWT")
HAS_CHAIN: Final = _refused("chain", "the actor_token has an act")
NO_VERIFIER: Final = _refused("issuer", "no trust provider has its issuer")
ANOTHER: Final = _refused("other", "it is of another workload than the client")


async def actor_problem(request: TokenRequest, parts: Parts) -> Refusal | None:
    """Why the actor of a request is not who asks, or None."""
    token = request.parameters.get("actor_token")
    token_type = request.parameters.get("actor_token_type")
    if token is None and token_type is None:
        return None
    if token is None or token_type != TOKEN_TYPE_JWT:
        return TYPE
    jws = parse_compact_jws(token, refuse_as="invalid_request")
    claims = None if isinstance(jws, Refusal) else parse_json_object(jws.payload)
    if claims is None:
        return UNREADABLE
    if "act" in claims:
        return HAS_CHAIN
    return await _same_workload_problem(token, request, parts)


async def _same_workload_problem(
    unverified_token: str, request: TokenRequest, parts: Parts
) -> Refusal | None:
    issuer = assertion_issuer(unverified_token)
    verifier = None if isinstance(issuer, Refusal) else parts.workload_verifier(issuer)
    if verifier is None:
        return NO_VERIFIER
    actor, client = await verifier.verify(unverified_token, request.now), request.client.evidence
    if isinstance(actor, Refusal):
        return _refused("invalid", f"{actor.rule}: {actor.detail}")
    is_client = client is not None and (
        (actor.provider, actor.issuer, actor.subject, actor.claims)
        == (client.provider, client.issuer, client.subject, client.claims)
    )
    return None if is_client else ANOTHER

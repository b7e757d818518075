"""Which Gateway is calling on the control channel, proved on every request.

Order: one `Authorization: DPoP` header → our signature, `typ`, issuer and exactly the control
audience → a service's own token, bound to a key → the Gateway is declared and that key still
enrolled → nothing is blocked → one DPoP proof for this method and URI, with `ath`, by that key,
used once.
"""

from dataclasses import dataclass

from starlette.requests import Request

from authz_server.clients.presented_token import presented_token
from authz_server.clients.proof_header import used_proof_in
from authz_server.compiled_snapshot import control_audience
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.parts import Parts
from authz_server.revoked import what_revokes
from registry.blocks import subjects_of
from registry.snapshot import GatewayEntry
from token_exchange.claims import AccessTokenClaims, JwkThumbprint, Refusal
from token_exchange.token_types import SubjectProfile
from token_exchange.verify import verify_access_token


@dataclass(frozen=True, slots=True)
class ControlCaller:
    """A Gateway that proved a control token and the key it is bound to."""

    gateway: GatewayEntry
    token: AccessTokenClaims
    key: JwkThumbprint


async def control_caller(parts: Parts, request: Request, now: int) -> ControlCaller | Refusal:
    """The Gateway behind this request. `now` is NumericDate seconds."""
    unverified_token = presented_token(request.headers.getlist("authorization"))
    if unverified_token is None:
        return _refused("control.authorization", "not exactly one DPoP Authorization header")
    audience = control_audience(parts.issuer)
    caller = _caller_of(parts, unverified_token, audience, now)
    if isinstance(caller, Refusal):
        return caller
    proof = await used_proof_in(
        request.headers.getlist("dpop"),
        parts.replay,
        method=request.method,
        # The path is what was routed; scheme, host and prefix are the configured issuer's.
        uri=f"{audience}/{request.url.path.rpartition('/')[2]}",
        now=now,
        access_token=unverified_token,
        expected_thumbprint=caller.key,
    )
    return proof if isinstance(proof, Refusal) else caller


def what_revokes_caller(parts: Parts, caller: ControlCaller) -> str | None:
    """Why a caller that was accepted would not be now; asked again while a stream is open."""
    gateway = parts.live.snapshot.gateways.get(caller.gateway.name)
    if gateway is None or not _is_enrolled(gateway, caller.key):
        return f"gateway {caller.gateway.name} or its key is gone"
    return what_revokes(parts.live.blocks, subjects_of(caller.token, {}), caller.token.iat)


def _caller_of(
    parts: Parts, unverified_token: str, audience: str, now: int
) -> ControlCaller | Refusal:
    verified = verify_access_token(
        unverified_token,
        keys=parts.keys.verification_keys(KeyPurpose.TOKENS),
        issuer=parts.issuer,
        audiences=(audience,),
        now=now,
    )
    if isinstance(verified, Refusal):
        return verified
    caller = _gateway_of(parts, verified.token)
    if isinstance(caller, Refusal):
        return caller
    revoked = what_revokes_caller(parts, caller)
    return caller if revoked is None else _refused("control.revoked", revoked)


def _gateway_of(parts: Parts, token: AccessTokenClaims) -> ControlCaller | Refusal:
    client = parts.live.snapshot.clients.get(token.client_id)
    gateway = parts.live.snapshot.gateways.get("" if client is None else client.gateway or "")
    is_own = token.sub == token.client_id and token.sub_profile == SubjectProfile.SERVICE
    if gateway is None or not is_own or token.act is not None:
        return _refused("control.gateway", "the token is no gateway's own")
    if token.cnf is None or not _is_enrolled(gateway, token.cnf.jkt):
        return _refused("control.key", "not bound to a key enrolled into this gateway")
    return ControlCaller(gateway, token, token.cnf.jkt)


def _is_enrolled(gateway: GatewayEntry, key: JwkThumbprint) -> bool:
    # The registry computed every `kid`: it is the key's RFC 7638 thumbprint.
    return any(jwk.get("kid") == key for jwk in gateway.jwks)


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal("invalid_token", "The control token is not accepted.", detail, rule)

"""Who is calling the admin API.

Two doors. Over the local socket the kernel says who connected; the listener has judged the peer
before (same user, no Agent, no descendant of one) and put it into the scope, where no network
client can put anything. Over HTTP: exactly one `Authorization: DPoP` header → an access token of
ours for the admin audience → of a person, by the command line's client, never of an agent, nor
on behalf of one → bound to the key of exactly one fresh DPoP proof for this very request → not
revoked → the person's provider still is the issuer they are of → the person's role, looked up now.
A role is never in a token.
"""

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from admin_console.errors import AdminError
from admin_console.parts import AdminParts, PersonKey
from admin_console.roles import ROLES, Access
from idp_connectors.workforce.vouching import is_vouched_for
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.peer_http import PEER_EXTENSION, PEER_REFUSAL_EXTENSION
from registry.blocks import subjects_of
from registry.references import CLI_CLIENT_ID
from token_exchange.claims import AccessTokenClaims, Refusal
from token_exchange.proof_of_possession import verify_dpop_proof
from token_exchange.token_types import SubjectProfile
from token_exchange.verify import verify_access_token

ADMIN_PATH: Final = "/admin/v1"
MAXIMUM_STALENESS_SECONDS: Final = 3.0  # without the revocations of the last moments: refuse


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who calls. `author` is what history and audit keep: `local:UID` or `PROVIDER/SUBJECT`."""

    author: str
    access: Access
    sub: str | None = None
    person: PersonKey | None = None
    token_id: str | None = None

    @property
    def role(self) -> str | None:
        """The name of the role held."""
        return next((name for name, access in ROLES.items() if access is self.access), None)


async def authenticate(request: Request, parts: AdminParts) -> Administrator:
    """The caller.

    Raises:
        AdminError: 401 or 403; nothing was proved.
    """
    extensions = request.scope.get("extensions") or {}
    peer, refusal = extensions.get(PEER_EXTENSION), extensions.get(PEER_REFUSAL_EXTENSION)
    if isinstance(refusal, Refusal):
        raise AdminError(403, refusal.code, refusal.description, refusal.rule, refusal.detail)
    if isinstance(peer, PeerIdentity):
        return Administrator(f"local:{peer.uid}", Access.ADMIN)
    token, unverified_token = _verified_token(request, parts)
    _require_person(token)
    await _require_proof(request, parts, token, unverified_token)
    _require_not_revoked(parts, token)
    person = await parts.person_of(token.sub)
    if person is None:
        raise _unauthorized("The person is not known here.", "admin.unknown_person")
    _require_same_issuer(parts, person)
    author = f"{person.identity_provider}/{person.subject}"
    return Administrator(author, _access_of(parts, person), token.sub, person, token.jti)


def _verified_token(request: Request, parts: AdminParts) -> tuple[AccessTokenClaims, str]:
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise _unauthorized("Exactly one Authorization header is needed.", "admin.no_token")
    scheme, _, unverified_token = headers[0].partition(" ")
    if scheme.lower() != "dpop" or not unverified_token:
        # RFC 9449 §7.1: a bound token presented as Bearer is a stolen one.
        raise _unauthorized("The token must be presented as DPoP.", "admin.scheme")
    verified = verify_access_token(
        unverified_token,
        keys=parts.token_keys(),
        issuer=parts.issuer,
        audiences=(f"{parts.issuer}/admin",),
        now=int(parts.clock()),
    )
    if isinstance(verified, Refusal):
        raise _unauthorized(verified.description, verified.rule, verified.detail)
    return verified.token, unverified_token


def _require_person(token: AccessTokenClaims) -> None:
    """INVARIANT: no agent administers, however its token came to have this audience."""
    if (
        token.act is not None
        or token.agent is not None
        or token.inv is not None
        or token.sub_profile != SubjectProfile.USER
    ):
        raise AdminError(
            403, "access_denied", "An agent's token is refused here.", "admin.agent_token"
        )
    if token.client_id != CLI_CLIENT_ID:
        raise AdminError(403, "access_denied", "The token is of another client.", "admin.client")


async def _require_proof(
    request: Request, parts: AdminParts, token: AccessTokenClaims, unverified_token: str
) -> None:
    proofs = request.headers.getlist("dpop")
    if token.cnf is None or len(proofs) != 1:
        raise _unproved("Exactly one DPoP proof of the token's key is needed.", "dpop.missing")
    proof = verify_dpop_proof(
        proofs[0],
        method=request.method,
        uri=_own_uri(request, parts.issuer),
        now=int(parts.clock()),
        access_token=unverified_token,
        expected_thumbprint=token.cnf.jkt,
    )
    if isinstance(proof, Refusal):
        raise _unproved(proof.description, proof.rule, proof.detail)
    if not await parts.use_proof(proof):
        raise _unproved("The proof was used before.", "dpop.replay")


def _require_not_revoked(parts: AdminParts, token: AccessTokenClaims) -> None:
    if parts.live.is_stale(MAXIMUM_STALENESS_SECONDS):
        raise AdminError(
            503,
            "temporarily_unavailable",
            "Revocations are not known at the moment; try again.",
            "admin.stale",
            headers={"Retry-After": "1"},
        )
    hit = parts.live.blocks.first_hit(subjects_of(token, {}), token.iat)
    if hit is not None:
        detail = f"{hit.subject.kind} {hit.subject.id}"
        raise _unauthorized("The token is revoked.", "admin.revoked", detail)


def _require_same_issuer(parts: AdminParts, person: PersonKey) -> None:
    """INVARIANT: a role is of a subject at one issuer, not of whoever the name led to before."""
    providers = parts.live.snapshot.identity_providers
    is_same = is_vouched_for(
        providers, parts.issuer, name=person.identity_provider, issuer=person.issuer
    )
    if not is_same:
        raise _unauthorized(
            "The identity provider is not declared, or with another issuer; log in again.",
            "admin.provider_changed",
        )


def _access_of(parts: AdminParts, person: PersonKey) -> Access:
    """The highest role the person holds now."""
    held = [
        ROLES[role.role]
        for role in parts.live.snapshot.admin_roles
        if (role.identity_provider, role.subject) == (person.identity_provider, person.subject)
    ]
    return max(held, default=Access.PERSON)


def _own_uri(request: Request, issuer: str) -> str:
    """This request's URI from our configuration; of the request only what follows our prefix."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw.decode("ascii", "replace").partition("?")[0]
    _, found, rest = path.partition(ADMIN_PATH)
    return f"{issuer}{ADMIN_PATH}{rest if found else path}"


def _unauthorized(description: str, rule: str, detail: str | None = None) -> AdminError:
    return _challenged("invalid_token", description, rule, detail)


def _unproved(description: str, rule: str, detail: str | None = None) -> AdminError:
    return _challenged("invalid_dpop_proof", description, rule, detail)


def _challenged(code: str, description: str, rule: str, detail: str | None) -> AdminError:
    challenge = f'DPoP error="{code}", error_description="{description}", algs="ES256"'
    return AdminError(401, code, description, rule, detail, headers={"WWW-Authenticate": challenge})

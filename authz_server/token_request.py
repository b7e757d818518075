"""What the token endpoint hands to a grant, and what a grant hands back. Frozen values only.

Each value says what has been proved: a `TokenRequest` exists only after the form was parsed once,
the client authenticated, the DPoP proof checked against replay, and the parameters filtered to
those the grant owns.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from idp_connectors.evidence import Evidence, Person
from registry.blocks import Subject
from registry.snapshot import ClientRecord
from token_exchange.claims import AccessTokenClaims, JwkThumbprint, Refusal

# Uses up what a token is made from, and does what it is given in the same write. A refusal: it was
# used meanwhile, and nothing was done.
UseUp = Callable[[Callable[[Connection], None]], Awaitable[Refusal | None]]


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """A client whose authentication succeeded.

    `method` is workload_assertion | workload_certificate | private_key_jwt | none. `evidence`
    accompanies the first two. `key_thumbprint` is the key it proved (assertion key or attested
    `cnf.jkt`); a platform's proof may have named none. `proved_at` (NumericDate) is when its proof
    was made, for epochs; None without a proof.
    """

    record: ClientRecord
    method: str
    evidence: Evidence | None = None
    key_thumbprint: JwkThumbprint | None = None
    proved_at: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One token request after the shared phases. `now` is NumericDate seconds.

    `resource` has every value sent, in order (RFC 8707 §2). `proof_thumbprint` is the key of the
    verified DPoP proof, if one was sent.
    """

    grant_type: str
    parameters: Mapping[str, str]
    resource: tuple[str, ...]
    client: AuthenticatedClient
    proof_thumbprint: JwkThumbprint | None
    now: int


@dataclass(frozen=True, slots=True)
class IdTokenRequest:
    """What an ID token beside the access token must say (OpenID Connect Core §2)."""

    person: Person
    nonce: str | None


@dataclass(frozen=True, slots=True)
class IssuancePlan:
    """A token that may be issued: every rule passed, nothing signed yet.

    `claims` are complete. `refresh_token` is new; only its digest is stored. `credential_value`,
    `issued_token_type` and `token_type` are set only when a credential provider made something
    other than our own access token. `subject_token` is the token an exchange started from:
    `claims.sub` may then be pairwise, so blocks are checked against this one too.
    `depends_on` are further things with a block or epoch, each with the time (NumericDate) it was
    made: a code, a login session. `basis` is what else it rests on, in words for the audit;
    `mandate` the object that lets an agent act for a person who was not asked. `use_up` is for what
    is good once, a code or a refresh token: whoever records the issuance calls it, once.
    """

    claims: AccessTokenClaims
    client: AuthenticatedClient
    id_token: IdTokenRequest | None = None
    refresh_token: str | None = field(default=None, repr=False)
    issued_token_type: str | None = None
    token_type: str | None = None
    credential_value: str | None = None
    policy_matched: tuple[str, ...] = ()
    decision_id: str | None = None
    argument_digest: str | None = None
    tool: str | None = None
    target_service: str | None = None
    subject_token: AccessTokenClaims | None = None
    depends_on: tuple[tuple[Subject, int], ...] = ()
    basis: str | None = None
    mandate: str | None = None
    use_up: UseUp | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RefusedForPerson:
    """A refused request for a person who was recognised: the audit names them.

    `user` is None for somebody who was never here.
    """

    refusal: Refusal
    user: str | None
    user_name: str

"""What the authorization server asks of an identity provider, in four small protocols.

A provider either takes a username and a password itself (`PersonLogin`) or sends the browser to a
site of its own and back (`RedirectLogin`). It may also answer whether a person is still there
(`Revalidates`) and judge tokens it issued to others (`VerifiesPersonTokens`). A failure is a value:
the page shows one sentence for every cause, so that nobody learns from it whether an account
exists.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from idp_connectors.evidence import Person
from token_exchange.claims import Refusal


class LoginFailureCode(StrEnum):
    """Why a login failed, as far as anybody outside the audit may know."""

    INVALID_CREDENTIALS = "invalid_credentials"
    LOCKED = "locked"  # too many attempts for this name, whether or not it exists
    BUSY = "busy"  # more logins at once than we are willing to hash
    UNAVAILABLE = "unavailable"  # the provider cannot be asked now; nothing is known
    REFUSED = "refused"  # the provider, or the person there, said no
    INVALID_RESPONSE = "invalid_response"  # what came back is not acceptable
    ENDED = "ended"  # the provider no longer vouches for this person


@dataclass(frozen=True, slots=True)
class LoginFailure:
    """A refused login. `description` may be shown; `detail` is for the audit only.

    `retry_after_seconds` is set when waiting helps.
    """

    code: LoginFailureCode
    description: str
    detail: str
    retry_after_seconds: int | None = None


@runtime_checkable
class PersonLogin(Protocol):
    """One declared IdentityProvider that checks a password itself."""

    async def authenticate(self, username: str, password: str, now: int) -> Person | LoginFailure:
        """Check a person's proof. `now` is NumericDate seconds and becomes `auth_time`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAttempt:
    """One login at a redirecting provider: the same on the way there and on the way back.

    `state`, `nonce` and `code_verifier` are secrets of this attempt alone. The person must have
    logged in at `login_not_before` (NumericDate seconds, 0: any) or later; `must_log_in`: even
    with a session there.
    """

    redirect_uri: str
    state: str
    nonce: str
    code_verifier: str
    login_not_before: int
    must_log_in: bool


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """Where the browser goes: the provider's authorization endpoint with everything asked."""

    url: str


@dataclass(frozen=True, slots=True)
class UpstreamLogin:
    """A person, and what is needed to ask the provider about them again.

    `upstream` is the connector's own, secret state (such as a refresh token), None if there is
    none. The claims may be used for `claims_seconds` before they must be asked for again.
    `upstream_session` is the provider's own name of the session there (`sid`), if it said one: by
    it the provider will say that it ended.
    """

    person: Person
    upstream: bytes | None
    claims_seconds: int
    upstream_session: str | None = None


@runtime_checkable
class RedirectLogin(Protocol):
    """One declared IdentityProvider that sends the browser to a login page of its own."""

    @property
    def label(self) -> str:
        """What the button on the login page calls it."""

    @property
    def registration(self) -> tuple[str, str]:
        """The issuer, and the client we are there: who gets the code and the PKCE verifier."""

    async def begin(self, attempt: LoginAttempt, now: int) -> AuthorizationRequest | LoginFailure:
        """Where to send the browser. `now` is NumericDate seconds."""

    async def finish(
        self, attempt: LoginAttempt, response: Mapping[str, str], now: int
    ) -> UpstreamLogin | LoginFailure:
        """Judge the parameters the browser came back with, and ask the provider who it is.

        The caller has proved that `response["state"]` is `attempt.state` and this browser's, and
        has used it up.
        """


@runtime_checkable
class Revalidates(Protocol):
    """One declared IdentityProvider that can be asked about a person again."""

    async def revalidate(
        self, person: Person, upstream: bytes | None, now: int
    ) -> Person | UpstreamLogin | LoginFailure:
        """Whether this person is still there, and with which groups.

        `upstream` is what the login (or the revalidation before) returned, opened. An
        `UpstreamLogin` replaces it. `UNAVAILABLE` says nothing about the person; any other
        failure ends the session. At most one call at a time for one session: refresh tokens may
        be good for one use.
        """


@dataclass(frozen=True, slots=True)
class PersonToken:
    """A verified token of a provider that speaks for a person. Times are NumericDate seconds.

    `issued_at` is by the provider's clock, which may be ahead by `clock_leeway_seconds`.
    `expires_at` is its own end, or that of what it says of the person if that is earlier.
    `client_id` is the provider's client it was issued to, `upstream_session` the provider's own
    name of the session it came from, if it said one.
    """

    person: Person
    client_id: str
    issued_at: int
    expires_at: int
    clock_leeway_seconds: int
    upstream_session: str | None = None


@runtime_checkable
class VerifiesPersonTokens(Protocol):
    """One declared IdentityProvider whose own tokens may speak for a person (RFC 8693)."""

    async def verify_person_token(
        self,
        unverified_token: str,
        token_type: str,
        client_ids: Collection[str],
        maximum_age_seconds: int,
        now: int,
    ) -> PersonToken | Refusal:
        """Check a token the provider issued to one of `client_ids`, at most so long ago.

        `token_type` is the RFC 8693 §3 URN the caller presented it as. Left out: whether the
        person consented, and blocks.
        """

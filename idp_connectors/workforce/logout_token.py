"""Judges a logout token: an identity provider's word that a person's session there has ended.

OpenID Connect Back-Channel Logout 1.0 §2.6, in its order: signature by a key of the issuer with
one of the algorithms the operator lists, explicit type, issuer, audience, times, then whose
session, then that it says logout and is no ID token in disguise. That it is used once is for the
caller, who has the memory. Pure: keys and time are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from token_exchange.claims import Refusal
from token_exchange.keys import KeyTable
from token_exchange.verify import verify_jwt

TYP: Final = "logout+jwt"  # §2.4, against a token of another purpose (RFC 8725 §3.11)
EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
# §2.4 wants at most two minutes; ten leave room for those that take more, and bound the memory.
MAXIMUM_LIFETIME_SECONDS: Final = 600
LEEWAY_SECONDS: Final = 30
MAXIMUM_ID_LENGTH: Final = 512

_DESCRIPTIONS: Final = {
    "logout.session": "The logout token names neither a person nor a session.",
    "logout.id": "The logout token has no usable jti.",
    "logout.event": "The logout token does not say that it is about logout.",
    "logout.nonce": "A logout token has no nonce.",
}


@dataclass(frozen=True, slots=True)
class LogoutClaims:
    """A verified logout token. At least one of `subject` and `upstream_session` is there.

    Times are NumericDate; from `expires_at` on it is refused for its age.
    """

    token_id: str
    issued_at: int
    expires_at: int
    subject: str | None
    upstream_session: str | None


class LogoutUnavailableError(Exception):
    """The provider's keys are not to be had now. `code` is the fetcher's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@runtime_checkable
class VerifiesLogoutTokens(Protocol):
    """A declared IdentityProvider that may tell us of logouts."""

    async def verify_logout_token(self, unverified_token: str, now: int) -> LogoutClaims | Refusal:
        """Check everything but single use. `now` is NumericDate seconds.

        Raises:
            LogoutUnavailableError: its keys could not be fetched.
        """


def judge_logout_token(
    unverified_token: str,
    *,
    keys: KeyTable,
    algorithms: frozenset[str],
    issuer: str,
    client_id: str,
    now: int,
) -> LogoutClaims | Refusal:
    """Back-Channel Logout 1.0 §2.6 but for step 7 (single use)."""
    verified = verify_jwt(
        unverified_token,
        keys=keys,
        algorithms=algorithms,
        typ=TYP,
        issuer=issuer,
        audience=client_id,
        now=now,
        leeway_seconds=LEEWAY_SECONDS,
        maximum_lifetime_seconds=MAXIMUM_LIFETIME_SECONDS,
        require=("exp", "iat", "jti"),
        refuse_as="invalid_request",
    )
    if isinstance(verified, Refusal):
        return verified
    claims = verified.claims
    subject, session = claims.get("sub"), claims.get("sid")
    # Each may be absent, not both; what is there must be a name, or we would end the wrong thing.
    if (subject, session) == (None, None) or not (_is_absent_or_id(subject, session)):
        return _refusal("logout.session")
    events = claims.get("events")
    if not isinstance(events, Mapping) or not isinstance(events.get(EVENT), Mapping):
        return _refusal("logout.event")
    if "nonce" in claims:
        return _refusal("logout.nonce")
    if not _is_id(claims["jti"]):
        return _refusal("logout.id")
    return LogoutClaims(
        token_id=claims["jti"],
        issued_at=int(claims["iat"]),
        expires_at=int(claims["exp"]) + LEEWAY_SECONDS + 1,
        subject=subject,
        upstream_session=session,
    )


def _is_absent_or_id(*values: object) -> bool:
    return all(value is None or _is_id(value) for value in values)


def _is_id(value: Any) -> bool:  # noqa: ANN401 - a claim may be anything
    return isinstance(value, str) and 1 <= len(value) <= MAXIMUM_ID_LENGTH


def _refusal(rule: str) -> Refusal:
    description = _DESCRIPTIONS[rule]
    return Refusal("invalid_request", description, description, rule)

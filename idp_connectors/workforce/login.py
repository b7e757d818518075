"""What the login page asks of an identity provider that takes a username and a password itself.

A failure is a value: the page shows one sentence for every cause, so that nobody learns from it
whether an account exists. Providers that redirect to another site are a different protocol.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from idp_connectors.evidence import Person


class LoginFailureCode(StrEnum):
    """Why a login failed, as far as anybody outside the audit may know."""

    INVALID_CREDENTIALS = "invalid_credentials"
    LOCKED = "locked"  # too many attempts for this name, whether or not it exists
    BUSY = "busy"  # more logins at once than we are willing to hash


@dataclass(frozen=True, slots=True)
class LoginFailure:
    """A refused login. `description` may be shown; `detail` is for the audit only.

    `retry_after_seconds` is set when waiting helps.
    """

    code: LoginFailureCode
    description: str
    detail: str
    retry_after_seconds: int | None = None


class PersonLogin(Protocol):
    """One declared IdentityProvider that checks a password itself."""

    async def authenticate(self, username: str, password: str, now: int) -> Person | LoginFailure:
        """Check a person's proof. `now` is NumericDate seconds and becomes `auth_time`."""

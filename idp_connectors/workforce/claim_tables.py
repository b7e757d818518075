"""Which claims of an identity provider we look at, and what each must be. Pure.

One table per kind of document. A *required* claim must be there and of its shape; an *optional*
one must be of its shape if it is there; an *ignored* one is known and deliberately without effect.
A document with anything wrong in it is refused whole. Claims in no table have no effect either
(OpenID Core §3.1.3.7 asks for that); a setting that wants one names it (`groups_claim`).

INVARIANT: nothing ignored here ever finds a person. E-mail addresses and usernames are reassigned,
and some providers let people choose them: whoever links by them hands one person's tokens to
another. A person is (`iss`, `sub`) and nothing else (OpenID Core §5.7).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MAXIMUM_TEXT: Final = 2048
MAXIMUM_SUBJECT: Final = 255  # OpenID Core §2
MAXIMUM_SESSION: Final = 512
MAXIMUM_LISTED: Final = 1000  # values of one claim; a person is in fewer groups
MAXIMUM_NUMERIC_DATE: Final = 253_402_300_799  # the last second of year 9999

_SUBJECT: Final = re.compile(r"[\x20-\x7e]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Check = Callable[[object], bool]


def is_text(value: object) -> bool:
    """A short text without control characters."""
    return (
        isinstance(value, str) and 0 < len(value) <= MAXIMUM_TEXT and _CONTROL.search(value) is None
    )


def is_subject(value: object) -> bool:
    """Up to 255 ASCII characters, compared byte for byte."""
    return (
        isinstance(value, str)
        and len(value) <= MAXIMUM_SUBJECT
        and _SUBJECT.fullmatch(value) is not None
    )


def is_session(value: object) -> bool:
    """A provider's name of a session (`sid`), short enough to be kept: by it the session ends."""
    return is_text(value) and isinstance(value, str) and len(value) <= MAXIMUM_SESSION


def is_numeric_date(value: object) -> bool:
    """Whole seconds. Exactly int: bool is a subclass, and a float has more than one reading."""
    return type(value) is int and 0 <= value <= MAXIMUM_NUMERIC_DATE


def is_id(value: object) -> bool:
    """Keycloak says in the payload what a token is: ID, Bearer, Refresh, Offline, Logout."""
    return value == "ID"


def is_bearer(value: object) -> bool:
    """As `is_id`, of an access token that is bound to nothing."""
    return value == "Bearer"


def is_texts(value: object) -> bool:
    """A list of short texts."""
    return isinstance(value, list) and len(value) <= MAXIMUM_LISTED and all(map(is_text, value))


def is_audience(value: object) -> bool:
    """One audience, or a list of at least one (RFC 7519 §4.1.3)."""
    return is_text(value) or (is_texts(value) and value != [])


@dataclass(frozen=True, slots=True)
class ClaimTable:
    """What one kind of document must say."""

    required: Mapping[str, Check]
    optional: Mapping[str, Check]

    def problem(self, claims: Mapping[str, object]) -> str | None:
        """The first claim that is missing or not of its shape, or None."""
        for name, check in self.required.items():
            if name not in claims or not check(claims[name]):
                return name
        for name, check in self.optional.items():
            if name in claims and not check(claims[name]):
                return name
        return None


# OpenID Core §5.1: what people are called and where they are reached. Never a key, never a group.
IGNORED: Final = frozenset(
    (
        "address",
        "birthdate",
        "email",
        "email_verified",
        "gender",
        "nickname",
        "oid",
        "phone_number",
        "phone_number_verified",
        "picture",
        "preferred_username",
        "profile",
        "tid",
        "unique_name",
        "upn",
        "website",
        "zoneinfo",
    )
)

# OpenID Core §2.
ID_TOKEN: Final = ClaimTable(
    required={
        "iss": is_text,
        "sub": is_subject,
        "aud": is_audience,
        "exp": is_numeric_date,
        "iat": is_numeric_date,
    },
    optional={
        "acr": is_text,
        "at_hash": is_text,
        "auth_time": is_numeric_date,
        "azp": is_text,
        "c_hash": is_text,
        "name": is_text,
        "nbf": is_numeric_date,
        "nonce": is_text,
        "typ": is_id,
    },
)

# RFC 9068 §2.2.
ACCESS_TOKEN: Final = ClaimTable(
    required={
        "iss": is_text,
        "sub": is_subject,
        "aud": is_audience,
        "exp": is_numeric_date,
        "iat": is_numeric_date,
        "jti": is_text,
        "client_id": is_text,
    },
    optional={
        "acr": is_text,
        "auth_time": is_numeric_date,
        "azp": is_text,
        "name": is_text,
        "nbf": is_numeric_date,
    },
)

# OpenID Core §5.3.2.
USERINFO: Final = ClaimTable(required={"sub": is_subject}, optional={"name": is_text})

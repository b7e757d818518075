"""What a username, a password and a group name must be. Pure.

Usernames are ASCII and case-folded, so that no two look alike. Passwords follow NIST SP 800-63B
§3.1.1: length counts, composition rules do not exist, any character goes; they are compared in
Unicode NFC (RFC 8265 §4.2).
"""

import re
import unicodedata
from collections.abc import Collection
from typing import Final

from token_exchange.claims import Refusal

MAXIMUM_PASSWORD_BYTES: Final = 1024  # hashing cost must not depend on what a stranger sends
MAXIMUM_GROUPS: Final = 64
MINIMUM_DISTINCT_CHARACTERS: Final = 6

_USERNAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")
_GROUP: Final = re.compile(r"[^\s/\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,126}")


def username_of(text: str) -> str | None:
    """The one spelling of a username, or None if no account can have it."""
    folded = text.strip().lower() if text.isascii() else ""
    return folded if _USERNAME.fullmatch(folded) else None


def password_of(text: str) -> str | None:
    """The one spelling of a password, or None if no account can have it."""
    if len(text) > MAXIMUM_PASSWORD_BYTES:  # before normalisation, which costs
        return None
    normalised = unicodedata.normalize("NFC", text)
    try:
        size = len(normalised.encode())
    except UnicodeEncodeError:
        return None
    return normalised if 0 < size <= MAXIMUM_PASSWORD_BYTES else None


def password_problem(password: str, username: str, minimum_length: int) -> Refusal | None:
    """Why this may not become the password of this account, if so."""
    if password_of(password) is None:
        return _refused("account.password", "A password must be text of at most 1024 bytes.")
    if len(password) < minimum_length:
        return _refused(
            "account.password", f"A password must have at least {minimum_length} characters."
        )
    lowered = password.lower()
    if len(set(lowered)) < MINIMUM_DISTINCT_CHARACTERS:
        return _refused("account.password", "This password repeats too few characters.")
    if len(username) > 2 and username in lowered:  # noqa: PLR2004 - shorter names are in any word
        return _refused("account.password", "A password may not contain the username.")
    return None


def groups_problem(groups: Collection[str], permitted: Collection[str]) -> Refusal | None:
    """Why an account of this provider may not be in these groups, if so."""
    if len(groups) > MAXIMUM_GROUPS:
        return _refused("account.groups", f"At most {MAXIMUM_GROUPS} groups.")
    for group in groups:
        if _GROUP.fullmatch(group) is None:
            return _refused("account.groups", "A group is named without its provider's prefix.")
        if not may_assert(group, permitted):
            return _refused("account.groups", f"The provider may not assert the group {group}.")
    return None


def may_assert(group: str, permitted: Collection[str]) -> bool:
    """Whether an IdentityProvider with `groups: permitted` may assert this group (`*`: any)."""
    return "*" in permitted or group in permitted


def _refused(rule: str, description: str) -> Refusal:
    return Refusal(code="invalid_request", description=description, detail=description, rule=rule)

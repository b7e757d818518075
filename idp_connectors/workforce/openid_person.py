"""From verified claims to a person. Pure.

The person is (`iss`, `sub`). The name is for reading only. Groups get the provider's prefix and are
cut to what the IdentityProvider object may assert; a group that no policy could name is left out,
and too many are a refusal, because a group that were silently dropped could be the one a guard
forbids.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from idp_connectors.evidence import Person
from idp_connectors.workforce.account_rules import may_assert
from idp_connectors.workforce.claim_tables import is_texts

MAXIMUM_GROUPS: Final = 256  # of one person, after the cut; tokens and policies carry them
ACR_UNSPECIFIED: Final = "unspecified"

_GROUP: Final = re.compile(r"[^\s/\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,126}")  # as in registry.objects
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class UnusableGroupsError(Exception):
    """The groups of a person are not of the expected form, or too many."""


def groups_of(
    claims: Mapping[str, Any], claim: str | None, provider: str, permitted: Collection[str]
) -> tuple[str, ...]:
    """The groups `claim` lists, as this product names them. A claim that is absent lists none.

    Raises:
        UnusableGroupsError: no list of texts, or too many.
    """
    listed = [] if claim is None else claims.get(claim, [])
    if not is_texts(listed):
        raise UnusableGroupsError("no list of texts")
    groups = dict.fromkeys(
        f"{provider}/{group}"
        for group in listed
        if _GROUP.fullmatch(group) is not None and may_assert(group, permitted)
    )
    if len(groups) > MAXIMUM_GROUPS:
        raise UnusableGroupsError("too many; list those that matter in the IdentityProvider")
    return tuple(groups)


def person_of(
    claims: Mapping[str, Any], *, provider: str, issuer: str, groups: tuple[str, ...], now: int
) -> Person:
    """The person of verified claims. `auth_time` 0 means the provider did not say."""
    return Person(
        identity_provider=provider,
        issuer=issuer,
        subject=claims["sub"],
        name=display_name(claims),
        groups=groups,
        acr=claims.get("acr", ACR_UNSPECIFIED),
        auth_time=min(claims.get("auth_time", 0), now),
    )


def display_name(claims: Mapping[str, Any]) -> str:
    """What to call the person on our pages; never what they are found by."""
    for name in ("name", "preferred_username", "sub"):
        value = claims.get(name)
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
    return "somebody"

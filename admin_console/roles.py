"""Who may call what, as an order of four roles, and what only an admin may declare."""

from enum import IntEnum
from typing import Final


class Access(IntEnum):
    """What a caller must be at least. `PERSON`: logged in, with or without a role."""

    ANYONE = 0
    PERSON = 1
    VIEWER = 2
    OPERATOR = 3
    ADMIN = 4


ROLES: Final = {"viewer": Access.VIEWER, "operator": Access.OPERATOR, "admin": Access.ADMIN}

# Attack: an operator who may declare these makes themself admin, directly (a role) or by an
# identity provider or attestation that vouches for whom they like.
ADMIN_KINDS: Final = frozenset({"AdminRole", "IdentityProvider", "TrustProvider"})

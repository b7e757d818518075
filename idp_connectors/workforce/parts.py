"""What the identity providers of one process share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from database.engine import Database
from idp_connectors.workforce.password_hashing import PasswordHashing
from outbound.discovery import DiscoveryCache
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from token_exchange.claims import Refusal


class SecretSource(Protocol):
    """Opens one sealed secret at the moment it is needed."""

    async def open(self, name: str) -> str | Refusal:
        """The newest version of the secret, or why it cannot be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkforceParts:
    """`issuer` is the authorization server's; `clock` gives Unix seconds."""

    issuer: str
    database: Database
    hashing: PasswordHashing
    random: Callable[[int], bytes]
    clock: Callable[[], float]
    fetcher: Fetcher
    discovery: DiscoveryCache
    jwks: JwksCache
    secrets: SecretSource

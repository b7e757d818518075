"""What every credential provider is built from: random ids, the pairwise key and the vault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from token_exchange.claims import Refusal


class SecretSource(Protocol):
    """Opens one sealed secret at the moment it is needed."""

    async def open(self, name: str) -> str | Refusal:
        """The newest version of the secret, or why it cannot be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialParts:
    """The parts the providers of one process share.

    `random` gives that many unpredictable bytes. `pairwise_key` gives the HMAC key (>= 32 bytes)
    that pairwise subjects are derived with; read at each use, kept nowhere.
    """

    random: Callable[[int], bytes]
    pairwise_key: Callable[[], bytes]
    secrets: SecretSource

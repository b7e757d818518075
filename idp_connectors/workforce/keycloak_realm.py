"""Which realm of which Keycloak, and who may read it."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAccess:
    """Which realm, and the service account that may read it."""

    base_url: str  # without /realms/...
    realm: str
    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"AdminAccess({self.base_url!r}, {self.realm!r}, {self.client_id!r})"


def realm_of(issuer: str) -> tuple[str, str] | None:
    """The base URL and the realm of a Keycloak issuer, or None if it is no such issuer."""
    before, separator, realm = issuer.rpartition("/realms/")
    is_plain = separator and realm and "/" not in realm and not urlsplit(issuer).query
    return (before, realm) if is_plain else None

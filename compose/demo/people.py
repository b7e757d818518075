"""Who the people of the demo are, and who says so: accounts of our own, or a real Keycloak."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compose.demo.stack import Stack
from compose.services.keycloak import Keycloak

PASSWORDS = {
    "alice": "wander-copper-lantern-52",
    "bob": "mosaic-thimble-orchard-19",
    "olga": "granite-sparrow-velvet-73",
}
GROUPS = {"alice": ("support", "staff"), "bob": ("staff",), "olga": ("operators",)}
KEYCLOAK_OBJECTS = Path(__file__).parent.parent / "keycloak"


class People(Protocol):
    """Where the people of the demo log in."""

    provider: str
    label: str

    def shown(self, person: str) -> str:
        """What the product calls a person."""

    def declare(self, stack: Stack) -> None:
        """Declare their identity provider and whatever it needs, by the local admin socket."""


class LocalPeople:
    """Accounts kept by the product itself."""

    provider = "local"
    label = "local accounts"

    def shown(self, person: str) -> str:
        return person

    def declare(self, stack: Stack) -> None:
        apply_people(stack)
        for name, groups in GROUPS.items():
            options = [part for group in groups for part in ("--group", group)]
            stack.command("account", "add", name, *options, stdin=PASSWORDS[name], socket=True)


@dataclass
class KeycloakPeople:
    """A realm of a real Keycloak, with secrets made for this run."""

    keycloak: Keycloak
    client_secret: str
    watch_secret: str
    provider: str = "keycloak"
    label: str = "Keycloak's own login page"
    _names: dict[str, str] = field(
        default_factory=lambda: {
            "alice": "Alice Archer",
            "bob": "Bob Baker",
            "olga": "Olga Orlova",
        }
    )

    def shown(self, person: str) -> str:
        return self._names[person]

    def join(self, stack: Stack) -> None:
        """Have the stack declare the realm instead of local accounts."""
        stack.people = self.provider
        stack.object_folders += (KEYCLOAK_OBJECTS,)
        stack.values |= {
            "keycloak_issuer": self.keycloak.issuer,
            "keycloak_host": f"127.0.0.1:{self.keycloak.port}",
        }

    def declare(self, stack: Stack) -> None:
        for name, value in self.secrets().items():
            stack.command("secret", "set", name, stdin=value, socket=True)
        apply_people(stack)

    def secrets(self) -> dict[str, str]:
        """What the vault holds, by the names the objects say."""
        return {"keycloak-client": self.client_secret, "keycloak-watch": self.watch_secret}


def new_keycloak_people(directory: Path, port: int, issuer: str) -> KeycloakPeople:
    """A realm whose client is the authorization server at `issuer`; not started yet."""
    client_secret, watch_secret = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    values = {
        "client_secret": client_secret,
        "watch_secret": watch_secret,
        "other_secret": secrets.token_urlsafe(24),
        "redirect_uri": f"{issuer}/oauth/callback/keycloak",
        "backchannel_logout_uri": f"{issuer}/oauth/backchannel-logout/keycloak",
    }
    return KeycloakPeople(Keycloak(directory, port, values), client_secret, watch_secret)


@contextlib.contextmanager
def keycloak_people(directory: Path, port: int, issuer: str) -> Iterator[KeycloakPeople]:
    """A running Keycloak with the people of the demo."""
    people = new_keycloak_people(directory, port, issuer)
    with people.keycloak.running():
        yield people


def apply_people(stack: Stack) -> None:
    """Declare the identity provider."""
    stack.command("apply", "-f", str(stack.objects() / "10-people.yaml"), "--yes", socket=True)

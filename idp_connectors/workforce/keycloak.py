"""`keycloak`: people of a Keycloak realm. The `oidc` connector, and what only Keycloak has.

Groups are the full paths of the realm, `/support/night` as `support/night` (a group's bare name
could be that of another group elsewhere in the tree, so a claim without paths is refused); roles
of the realm and of named clients can count as groups of their own kind. What changes in the realm
is read from its event feeds (`keycloak_watch`). Asked again about a person (`revalidate`, of the
`oidc` connector), Keycloak refuses the refresh token of a session that ended or of somebody who
was disabled, and says the groups of now.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from idp_connectors.evidence import Person
from idp_connectors.workforce.claim_tables import (
    ACCESS_TOKEN,
    ClaimTable,
    is_bearer,
    is_text,
    is_texts,
)
from idp_connectors.workforce.keycloak_directory import (
    AdminAccess,
    KeycloakDirectory,
    realm_of,
)
from idp_connectors.workforce.keycloak_watch import KeycloakWatch
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.oidc_settings import OidcSettings, Printable, SecretName
from idp_connectors.workforce.openid_person import UnusableGroupsError
from idp_connectors.workforce.openid_person_tokens import (
    ACCESS_TOKEN_TYPES,
    PersonTokenKind,
    access_token_problem,
)
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.person_changes import (
    ChangeReport,
    ChangesUnavailableError,
    FeedCursor,
)
from token_exchange.claims import Refusal
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN

REALM_ROLE: Final = "realm-role:"
CLIENT_ROLE: Final = "client-role:"
MAXIMUM_EVENTS_BYTES: Final = 4_194_304  # a page of events, each with what was saved

# Keycloak says in the payload that it is an access token, in the header only where it is set so,
# and names the client in `azp`.
_ACCESS_TOKEN: Final = PersonTokenKind(
    ACCESS_TOKEN_TYPES | {"JWT"},
    ClaimTable(
        required={
            **{name: check for name, check in ACCESS_TOKEN.required.items() if name != "client_id"},
            "azp": is_text,
            "typ": is_bearer,
        },
        optional={**ACCESS_TOKEN.optional, "client_id": is_text},
    ),
    access_token_problem,
)

ClientId = Annotated[str, StringConstraints(pattern=r"^[^\s/:\x00-\x1f\x7f]{1,64}$")]


class KeycloakWatchSettings(BaseModel):
    """The service account that reads the realm's events, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: Printable = Field(
        description="A client of the realm with a service account that has `view-events`."
    )
    client_secret: SecretName = Field(description="Name of its secret in the vault.")
    poll_seconds: float = Field(default=2.0, ge=0.5, le=5.0, description="Between two polls.")
    blind_after_seconds: float = Field(
        default=120.0,
        ge=10.0,
        le=900.0,
        description="When the events could not be read for so long, what was issued for the "
        "realm's people is out of date and nobody logs in by it until they can be.",
    )


class KeycloakSettings(OidcSettings):
    """Settings of an IdentityProvider of type `keycloak`: those of `oidc`, and these."""

    realm_roles: bool = Field(
        default=False, description="Roles of the realm count as groups `realm-role:NAME`."
    )
    client_roles: tuple[ClientId, ...] = Field(
        default=(),
        description="Roles of these clients count as groups `client-role:CLIENT:NAME`.",
    )
    watch: KeycloakWatchSettings | None = Field(
        default=None,
        description="Reads what changes. Without it groups change at login and refresh only.",
    )

    @field_validator("issuer")
    @classmethod
    def _is_a_realm(cls, issuer: str) -> str:
        if realm_of(issuer) is None:
            raise ValueError("the issuer of a realm is https://HOST/realms/REALM")
        return issuer


class KeycloakProvider(OidcProvider):
    """One declared IdentityProvider of type `keycloak`."""

    def __init__(
        self,
        name: str,
        settings: KeycloakSettings,
        permitted_groups: Collection[str],
        parts: WorkforceParts,
    ) -> None:
        super().__init__(name, settings, permitted_groups, parts)
        self._realm_settings = settings
        self._secrets = parts.secrets
        policy = replace(settings.policy, maximum_bytes=MAXIMUM_EVENTS_BYTES)
        directory = KeycloakDirectory(self._access, parts.fetcher, policy)
        self._watch = KeycloakWatch(directory, parts.clock)

    @property
    def poll_seconds(self) -> float | None:
        """How often to ask what changed; None without a service account."""
        watch = self._realm_settings.watch
        return None if watch is None else watch.poll_seconds

    @property
    def blind_after_seconds(self) -> float:
        """After how long without an answer nobody of the realm is believed any more."""
        watch = self._realm_settings.watch
        return float("inf") if watch is None else watch.blind_after_seconds

    async def changes(self, cursors: Mapping[str, FeedCursor], start_ms: int) -> ChangeReport:
        """What changed in the realm since the cursors.

        Raises:
            ChangesUnavailableError: see there.
        """
        return await self._watch.changes(cursors, start_ms)

    def _person(self, claims: Mapping[str, Any], now: int) -> Person:
        claim = self._realm_settings.groups_claim
        listed = list(groups_listed(claims, self._realm_settings))
        return super()._person({**claims, claim: listed} if claim else claims, now)

    def _person_token_kind(self, token_type: str) -> PersonTokenKind | None:
        if token_type == TOKEN_TYPE_ACCESS_TOKEN:
            return _ACCESS_TOKEN
        return super()._person_token_kind(token_type)

    async def _access(self) -> AdminAccess:
        watch, realm = self._realm_settings.watch, realm_of(self._realm_settings.issuer)
        if watch is None or realm is None:
            raise ChangesUnavailableError("not_declared")
        secret = await self._secrets.open(watch.client_secret)
        if isinstance(secret, Refusal):
            raise ChangesUnavailableError("no_secret")
        base_url, name = realm
        return AdminAccess(
            base_url=base_url, realm=name, client_id=watch.client_id, client_secret=secret
        )


def groups_listed(claims: Mapping[str, Any], settings: KeycloakSettings) -> Iterator[str]:
    """The groups of verified claims of a realm, without the provider's prefix; pure.

    Raises:
        UnusableGroupsError: a claim has another form, or a group could be taken for a role.
    """
    paths = [] if settings.groups_claim is None else claims.get(settings.groups_claim, [])
    for path in _texts(paths, "groups"):
        group = path.removeprefix("/")
        if group == path:
            raise UnusableGroupsError("no full paths; set `Full group path` in the mapper")
        if group.startswith((REALM_ROLE, CLIENT_ROLE)):
            raise UnusableGroupsError("the name of a group reads like a role")
        yield group
    if settings.realm_roles:
        for role in _roles(claims.get("realm_access", {}), "realm_access"):
            yield f"{REALM_ROLE}{role}"
    access = claims.get("resource_access", {}) if settings.client_roles else {}
    if not isinstance(access, Mapping):
        raise UnusableGroupsError("resource_access is no object")
    for client in settings.client_roles:
        for role in _roles(access.get(client, {}), "resource_access"):
            yield f"{CLIENT_ROLE}{client}:{role}"


def _roles(access: object, claim: str) -> list[str]:
    if not isinstance(access, Mapping):
        message = f"{claim} is no object"
        raise UnusableGroupsError(message)
    return _texts(access.get("roles", []), claim)


def _texts(value: object, claim: str) -> list[str]:
    if not is_texts(value) or not isinstance(value, list):
        message = f"{claim} is no list of texts"
        raise UnusableGroupsError(message)
    return value

"""Type name → settings model and factory, for people and for workloads. Nothing else.

Adding a connector is one file and one row here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from idp_connectors.workforce.keycloak import KeycloakProvider, KeycloakSettings
from idp_connectors.workforce.local_accounts import LocalAccounts, LocalAccountsSettings
from idp_connectors.workforce.login import PersonLogin, RedirectLogin
from idp_connectors.workforce.oidc import OidcProvider
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workload.platform_token import PlatformTokenSettings, PlatformTokenVerifier
from idp_connectors.workload.spiffe import SpiffeSettings, SpiffeVerifier, bundle_source
from idp_connectors.workload.unix_process import UnixProcessSettings, UnixProcessVerifier
from idp_connectors.workload.verifier import WorkloadParts, WorkloadVerifier
from registry.snapshot import ProviderRecord


@dataclass(frozen=True, slots=True)
class WorkforceType:
    """One type of IdentityProvider. `build` gets the record and its validated settings."""

    settings: type[BaseModel]
    build: Callable[[ProviderRecord, Any, WorkforceParts], PersonLogin | RedirectLogin]


@dataclass(frozen=True, slots=True)
class WorkloadType:
    """One type of TrustProvider. `build` gets the record and its validated settings."""

    settings: type[BaseModel]
    build: Callable[[ProviderRecord, Any, WorkloadParts], WorkloadVerifier]


def _local_accounts(
    record: ProviderRecord, settings: LocalAccountsSettings, parts: WorkforceParts
) -> LocalAccounts:
    return LocalAccounts(record.name, settings, record.groups, parts)


def _oidc(record: ProviderRecord, settings: OidcSettings, parts: WorkforceParts) -> OidcProvider:
    return OidcProvider(record.name, settings, record.groups, parts)


def _keycloak(
    record: ProviderRecord, settings: KeycloakSettings, parts: WorkforceParts
) -> KeycloakProvider:
    return KeycloakProvider(record.name, settings, record.groups, parts)


def _unix_process(
    record: ProviderRecord, settings: UnixProcessSettings, parts: WorkloadParts
) -> UnixProcessVerifier:
    return UnixProcessVerifier(record.name, settings, parts)


def _platform_token(
    record: ProviderRecord, settings: PlatformTokenSettings, parts: WorkloadParts
) -> PlatformTokenVerifier:
    return PlatformTokenVerifier(record.name, settings, parts)


def _spiffe(
    record: ProviderRecord, settings: SpiffeSettings, parts: WorkloadParts
) -> SpiffeVerifier:
    return SpiffeVerifier(record.name, settings, parts.issuer, bundle_source(settings, parts))


WORKFORCE: Final[Mapping[str, WorkforceType]] = {
    "keycloak": WorkforceType(KeycloakSettings, _keycloak),
    "local_accounts": WorkforceType(LocalAccountsSettings, _local_accounts),
    "oidc": WorkforceType(OidcSettings, _oidc),
}

WORKLOAD: Final[Mapping[str, WorkloadType]] = {
    "platform_token": WorkloadType(PlatformTokenSettings, _platform_token),
    "spiffe": WorkloadType(SpiffeSettings, _spiffe),
    "unix_process": WorkloadType(UnixProcessSettings, _unix_process),
}


def settings_models() -> dict[tuple[str, str], type[BaseModel]]:
    """(kind, type) → settings model, for the registry to name a bad field at apply."""
    people = {("IdentityProvider", name): row.settings for name, row in WORKFORCE.items()}
    workloads = {("TrustProvider", name): row.settings for name, row in WORKLOAD.items()}
    return {**people, **workloads}

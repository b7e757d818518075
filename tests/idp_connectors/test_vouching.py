"""Whose persons a provider's are: what the registry says is what its connector will say."""

import pytest

from idp_connectors.workforce.catalog import PersonLogins
from idp_connectors.workforce.login import RedirectLogin
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.vouching import is_vouched_for, issuer_of, local_issuer
from registry.snapshot import ProviderRecord
from tests.idp_connectors.openid import settings_of
from tests.idp_connectors.samples import ISSUER

OIDC = settings_of().model_dump(mode="json")
REALM = "https://idp.example.com/realms/staff"
PROVIDERS = {
    "local": ProviderRecord("local", "local_accounts", {}),
    "partner": ProviderRecord("partner", "oidc", OIDC),
    "staff": ProviderRecord("staff", "keycloak", {**OIDC, "issuer": REALM}),
}


def test_issuer_of_a_provider_is_the_one_its_connector_believes(parts: WorkforceParts) -> None:
    logins = PersonLogins(lambda: PROVIDERS, parts)()
    assert set(logins) == set(PROVIDERS)
    for name, login in logins.items():
        if isinstance(login, RedirectLogin):
            assert issuer_of(PROVIDERS[name], ISSUER) == login.registration[0]
    assert issuer_of(PROVIDERS["local"], ISSUER) == local_issuer(ISSUER, "local")


@pytest.mark.parametrize(
    ("name", "issuer", "expected"),
    [
        ("local", f"{ISSUER}/identity/local", True),
        ("local", f"{ISSUER}/identity/other", False),
        ("local", "https://elsewhere.example/identity/local", False),
        ("staff", REALM, True),
        ("staff", OIDC["issuer"], False),
        ("partner", OIDC["issuer"], True),
        ("nobody", OIDC["issuer"], False),
    ],
)
def test_provider_vouches_for_persons_of_its_issuer_only(
    name: str, issuer: str, expected: bool
) -> None:
    assert is_vouched_for(PROVIDERS, ISSUER, name=name, issuer=issuer) is expected

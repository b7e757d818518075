"""What `apply` says of the settings of an OpenID provider."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.idp_connectors.openid import settings_of


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"client_secret": None},
        {"issuer": "https://login.example.com/tenant/v2.0"},
        {"issuer": "http://127.0.0.1:8080/realms/corp", "private_hosts": ["127.0.0.1:8080"]},
        {"groups_claim": None},
        {"maximum_login_age_seconds": None},
        {"label": "Example & Söhne"},
        {"ca_bundle": "/etc/ssl/corp.pem"},
    ],
    ids=str,
)
def test_sensible_settings_are_accepted(changes: dict[str, Any]) -> None:
    assert settings_of(**changes).scopes == ("openid", "profile")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"issuer": "idp.example.com"}, "issuer"),
        ({"issuer": "ftp://idp.example.com"}, "issuer"),
        ({"issuer": "https://idp.example.com?x=1"}, "issuer"),
        ({"issuer": "https://idp.example.com#x"}, "issuer"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "The Secret Itself"}, "client_secret"),
        ({"client_authentication": "none"}, "client_authentication"),
        ({"scopes": ["profile"]}, "scopes"),
        ({"scopes": ["openid profile"]}, "scopes"),
        ({"groups_claim": "email"}, "groups_claim"),
        ({"groups_claim": "sub"}, "groups_claim"),
        ({"algorithms": []}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"maximum_login_age_seconds": 1}, "maximum_login_age_seconds"),
        ({"claims_seconds": 86_400}, "claims_seconds"),
        ({"private_hosts": ["https://idp.example.com"]}, "private_hosts"),
        ({"ca_bundle": "relative.pem"}, "ca_bundle"),
        ({"issuers": []}, "issuers"),
    ],
    ids=str,
)
def test_wrong_setting_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_of(**changes)
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    "issuer", ["http://idp.example.com", "http://127.0.0.1:8080", "https://user@idp.example.com"]
)
def test_issuer_that_could_not_be_fetched_is_refused_at_once(issuer: str) -> None:
    with pytest.raises(ValidationError, match="issuer"):
        settings_of(issuer=issuer)

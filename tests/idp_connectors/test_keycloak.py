"""The Keycloak connector: whose groups, which roles, and what an operator may say of a realm."""

from typing import Any

import pytest
from pydantic import ValidationError

from idp_connectors.workforce.keycloak import KeycloakSettings, groups_listed
from idp_connectors.workforce.openid_person import UnusableGroupsError

ISSUER = "https://login.corp.example/realms/corp"


def settings(**changes: Any) -> KeycloakSettings:
    return KeycloakSettings.model_validate({"issuer": ISSUER, "client_id": "countersign"} | changes)


def groups(claims: dict[str, Any], **changes: Any) -> list[str]:
    return list(groups_listed(claims, settings(**changes)))


@pytest.mark.requirement("C34")
def test_groups_are_full_paths_without_their_first_slash() -> None:
    """`/support/night` and `/vendors/night` are two groups; their bare name would be one."""
    claims = {"groups": ["/support", "/support/night", "/vendors/night", "/a~/b"]}
    assert groups(claims) == ["support", "support/night", "vendors/night", "a~/b"]


@pytest.mark.requirement("C34")
@pytest.mark.parametrize("listed", [["support"], ["/support", "night"], [""]])
def test_groups_without_paths_are_refused(listed: list[str]) -> None:
    with pytest.raises(UnusableGroupsError):
        groups({"groups": listed})


@pytest.mark.parametrize("listed", ["/support", {"a": 1}, [1], [["/support"]], None])
def test_a_groups_claim_of_another_form_is_refused(listed: object) -> None:
    with pytest.raises(UnusableGroupsError):
        groups({"groups": listed})


def test_nobody_is_in_a_group_that_is_not_said() -> None:
    assert groups({}) == []
    assert groups({"groups": ["/support"]}, groups_claim=None) == []


def test_roles_count_only_where_the_operator_says_so() -> None:
    claims = {
        "groups": ["/support"],
        "realm_access": {"roles": ["employee"]},
        "resource_access": {
            "crm": {"roles": ["agent", "a:b"]},
            "payroll": {"roles": ["admin"]},
        },
    }
    assert groups(claims) == ["support"]
    assert groups(claims, realm_roles=True) == ["support", "realm-role:employee"]
    assert groups(claims, client_roles=("crm", "absent")) == [
        "support",
        "client-role:crm:agent",
        "client-role:crm:a:b",
    ]


@pytest.mark.parametrize("name", ["/realm-role:employee", "/client-role:crm:agent"])
def test_a_group_cannot_be_taken_for_a_role(name: str) -> None:
    with pytest.raises(UnusableGroupsError):
        groups({"groups": [name]})


@pytest.mark.parametrize(
    "claims",
    [
        {"realm_access": ["employee"]},
        {"realm_access": {"roles": "employee"}},
        {"resource_access": ["crm"]},
        {"resource_access": {"crm": ["agent"]}},
    ],
)
def test_roles_of_another_form_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(UnusableGroupsError):
        groups(claims, realm_roles=True, client_roles=("crm",))


@pytest.mark.parametrize(
    "issuer",
    [
        "https://login.corp.example",
        "https://login.corp.example/realms/",
        "https://login.corp.example/realms/corp/",
        "https://login.corp.example/realms/corp/protocol",
    ],
)
def test_an_issuer_that_is_no_realm_is_refused_at_apply(issuer: str) -> None:
    with pytest.raises(ValidationError):
        settings(issuer=issuer)


def test_a_realm_below_a_path_is_a_realm() -> None:
    issuer = "https://login.corp.example/auth/realms/corp"
    assert settings(issuer=issuer).issuer == issuer


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("poll_seconds", 0.1),
        ("poll_seconds", 6),
        ("blind_after_seconds", 5),
        ("blind_after_seconds", 901),
        ("client_secret", "The Secret Itself"),
        ("colour", "red"),
    ],
)
def test_a_watch_that_cannot_keep_its_promise_is_refused_at_apply(field: str, value: Any) -> None:
    watch = {"client_id": "countersign-watch", "client_secret": "keycloak-watch"}
    assert settings(watch=watch).watch is not None
    with pytest.raises(ValidationError):
        settings(watch=watch | {field: value})

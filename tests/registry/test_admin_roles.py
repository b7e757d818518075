"""No role passes to somebody else because an identity provider got another issuer."""

import pytest

from registry.objects import DeclaredObject
from tests.registry.samples import Registry, declare, small_set

ROLE = declare("AdminRole", "alice", identity_provider="corp", subject="u-1", role="admin")


def corp(issuer: str, **spec: object) -> DeclaredObject:
    return declare("IdentityProvider", "corp", type="oidc", issuer=issuer, **spec)


def messages(registry: Registry, *objects: DeclaredObject, **changes: object) -> list[str]:
    plan = registry.plan(*objects, **changes)  # type: ignore[arg-type]
    return [f"{each.kind}/{each.name} {each.field} {each.message}" for each in plan.problems]


@pytest.fixture
def governed(registry: Registry) -> Registry:
    registry.apply(*small_set(), corp("https://one.example"), ROLE)
    return registry


@pytest.mark.requirement("admin-roles")
def test_provider_with_a_role_gets_no_other_issuer(governed: Registry) -> None:
    (problem,) = messages(governed, corp("https://two.example"))
    assert problem.startswith("AdminRole/alice spec.subject is somebody at the issuer")
    assert "'corp'" in problem
    # Another role for the same subject is the same mistake.
    viewer = declare("AdminRole", "alice", **{**ROLE.spec, "role": "viewer"})
    assert len(messages(governed, corp("https://two.example"), viewer)) == 1
    local = declare("IdentityProvider", "corp", type="local_accounts")
    assert len(messages(governed, local)) == 1


@pytest.mark.requirement("admin-roles")
def test_provider_gets_another_issuer_when_its_roles_go_or_name_somebody_else(
    governed: Registry,
) -> None:
    two = corp("https://two.example")
    assert messages(governed, two, delete=(("AdminRole", "alice"),)) == []
    renamed = declare("AdminRole", "alice", **{**ROLE.spec, "subject": "u-2"})
    assert messages(governed, two, renamed) == []
    assert messages(governed, two, declare("AdminRole", "bob", **ROLE.spec)) != []
    elsewhere = declare("AdminRole", "alice", **{**ROLE.spec, "identity_provider": "local"})
    assert messages(governed, two, elsewhere) == []


@pytest.mark.requirement("admin-roles")
def test_provider_with_a_role_may_change_otherwise(governed: Registry) -> None:
    assert messages(governed, corp("https://one.example", groups=["staff"])) == []
    other = declare("IdentityProvider", "other", type="oidc", issuer="https://two.example")
    assert messages(governed, other) == []
    assert messages(governed, corp("https://one.example"), ROLE) == []

"""Whose tokens an Agent may present: what apply says, and what the snapshot then holds."""

from typing import Any

import pytest

from registry.publisher import compile_snapshot
from registry.snapshot import RegistrySnapshot, SubjectTokenRule
from tests.registry.samples import (
    ISSUER,
    SETTINGS_MODELS,
    Registry,
    declare,
    replaced,
    small_set,
)
from token_exchange.token_types import GRANT_TOKEN_EXCHANGE

FIELD = "spec.acts_for.subject_tokens"
PROVIDERS = [
    declare("IdentityProvider", "partner", type="oidc", issuer="https://idp.example.com"),
    declare("IdentityProvider", "other", type="oidc", issuer="https://other.example.com"),
    declare("IdentityProvider", "twin", type="oidc", issuer="https://idp.example.com"),
]


def tokens(provider: str = "partner", **changes: Any) -> dict[str, Any]:
    return {"identity_provider": provider, "client_ids": ["portal"]} | changes


def agent(*subject_tokens: dict[str, Any], **acts_for: Any) -> list[Any]:
    groups = ["partner/staff", "other/staff", "twin/staff", "local/support"]
    spec = {"groups": groups, "subject_tokens": list(subject_tokens)} | acts_for
    return [*replaced(small_set(), "Agent", "support-bot", acts_for=spec), *PROVIDERS]


def snapshot_of(registry: Registry) -> RegistrySnapshot:
    return registry.database.read(
        lambda connection: compile_snapshot(
            connection, issuer=ISSUER, settings_models=SETTINGS_MODELS
        )
    )


@pytest.mark.parametrize(
    ("objects", "field", "sentence"),
    [
        (
            agent(tokens("partnr")),
            f"{FIELD}[0].identity_provider",
            "IdentityProvider 'partnr' does not exist; did you mean 'partner'?",
        ),
        (agent(tokens("local")), f"{FIELD}[0].identity_provider", "name an OpenID provider"),
        (agent(tokens(), tokens()), f"{FIELD}[1].identity_provider", "'partner' is named twice"),
        (
            agent(tokens(), tokens("twin")),
            f"{FIELD}[1].identity_provider",
            "has the issuer of 'partner'",
        ),
        (
            agent(tokens(), groups=["local/support"]),
            f"{FIELD}[0].identity_provider",
            "acts_for.groups has no group of 'partner'",
        ),
        (agent(tokens(client_ids=["a", "a"])), f"{FIELD}[0].client_ids", "named twice"),
        (agent(tokens(types=["id_token", "id_token"])), f"{FIELD}[0].types", "named twice"),
        (
            agent(consent="mandate"),
            "spec.acts_for.consent",
            "mandate is for subject_tokens, and there are none",
        ),
        (agent(tokens(client_ids=[])), f"{FIELD}[0].client_ids", "must not be empty"),
        (agent(tokens(types=[])), f"{FIELD}[0].types", "must not be empty"),
        (agent(tokens(types=["refresh_token"])), f"{FIELD}[0].types[0]", "'id_token'"),
        (agent(tokens(max_age_seconds=4)), f"{FIELD}[0].max_age_seconds", "at least 5"),
        (agent(tokens(max_age_seconds=3601)), f"{FIELD}[0].max_age_seconds", "at most 3600"),
        (agent(tokens(clients=["x"])), f"{FIELD}[0].clients", ""),
        (agent(consent="nobody"), "spec.acts_for.consent", "'mandate'"),
    ],
    ids=str,
)
def test_subject_tokens_that_could_not_work_or_work_for_anybody_are_refused(
    registry: Registry, objects: list[Any], field: str, sentence: str
) -> None:
    problems = [each for each in registry.plan(*objects).problems if each.field == field]
    assert problems, registry.plan(*objects).problems
    assert any(sentence in each.message for each in problems), problems


def test_subject_tokens_are_in_the_snapshot_and_give_the_agent_the_grant(
    registry: Registry,
) -> None:
    given = tokens(types=["access_token"], max_age_seconds=60)
    registry.apply(*agent(tokens("other"), given, consent="mandate"))
    record = snapshot_of(registry).agents["support-bot"]
    assert record.subject_tokens == (
        SubjectTokenRule("other", ("portal",), ("id_token",), 300),
        SubjectTokenRule("partner", ("portal",), ("access_token",), 60),
    )
    assert record.by_mandate
    assert GRANT_TOKEN_EXCHANGE in snapshot_of(registry).clients["support-bot"].grant_types


def test_agent_without_subject_tokens_exchanges_nothing(registry: Registry) -> None:
    registry.apply(*small_set())
    record = snapshot_of(registry).agents["support-bot"]
    assert (record.subject_tokens, record.by_mandate) == ((), False)
    assert GRANT_TOKEN_EXCHANGE not in snapshot_of(registry).clients["support-bot"].grant_types


def test_provider_whose_tokens_an_agent_lists_cannot_be_taken_away(registry: Registry) -> None:
    registry.apply(*agent(tokens()))
    plan = registry.plan(delete=(("IdentityProvider", "partner"),))
    assert any(FIELD in each.field for each in plan.problems)

"""Agents that prove no workload: programs nobody vouches for, and declared clients alone."""

from typing import Any

import pytest

from registry.objects import DeclaredObject
from registry.unattested import UNATTESTED_AGENT
from tests.registry.samples import Registry, declare, replaced, small_set
from tests.registry.test_publisher import published
from token_exchange.token_types import GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN

Objects = list[DeclaredObject]
SPEC = {
    "owner": "platform@example.com",
    "acts_for": {"groups": ["local/support"]},
    "tools": ["wiki/*"],
}


def objects(name: str = UNATTESTED_AGENT, **changes: Any) -> Objects:
    """The small set, a server that takes bearers, a declared client, and an Agent of that name."""
    spec = {key: value for key, value in (SPEC | changes).items() if value is not None}
    return [
        *small_set(),
        declare(
            "McpServer",
            "wiki",
            url="http://127.0.0.1:9009/mcp",
            credential={"provider": "wiki-token"},
            require_bound=False,
        ),
        declare("CredentialProvider", "wiki-token", type="issued_token"),
        declare(
            "OAuthClient", "tray", display_name="Tray", redirect_uris=["http://127.0.0.1:1/cb"]
        ),
        declare("Agent", name, **spec),
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attestation": {"providers": ["unix"], "match": {"a": "b"}}}, "spec.attestation"),
        ({"acts_for": None}, "spec.acts_for"),
        ({"acts_alone": True}, "spec.acts_alone"),
        ({"redirect_uris": ["http://127.0.0.1/cb"]}, "spec.redirect_uris"),
        ({"tools": ["wiki/*", "crm/get_account"]}, "spec.tools[1]"),
    ],
)
def test_agent_of_strangers_that_claims_more_is_refused(
    registry: Registry, changes: dict[str, Any], field: str
) -> None:
    plan = registry.plan(*objects(**changes))
    assert [(each.name, each.field) for each in plan.problems] == [(UNATTESTED_AGENT, field)]


def test_server_that_comes_to_require_bound_tokens_is_refused_while_strangers_have_it(
    registry: Registry,
) -> None:
    registry.apply(*objects())
    bound = replaced(objects(), "McpServer", "wiki", require_bound=True)
    fields = [each.field for each in registry.plan(*bound).problems]
    assert fields == ["spec.tools[0]"]


def test_agent_of_strangers_is_published_without_a_client_or_a_rule(registry: Registry) -> None:
    registry.apply(*objects(clients=["tray"], groups=["foreign"]))
    snapshot = published(registry)
    record = snapshot.agents[UNATTESTED_AGENT]
    assert (record.entry.minimum_level, record.entry.groups) == (0, ("foreign",))
    assert (record.providers, record.match, record.may_act_alone) == ((), {}, False)
    assert UNATTESTED_AGENT not in snapshot.clients
    tray = snapshot.clients["tray"]
    assert tray.agent == UNATTESTED_AGENT
    assert tray.grant_types == (GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "spec.attestation"),
        ({"clients": ["tray"], "redirect_uris": ["http://127.0.0.1/cb"]}, "spec.redirect_uris"),
    ],
)
def test_agent_that_nothing_can_be_is_refused(
    registry: Registry, changes: dict[str, Any], field: str
) -> None:
    plan = registry.plan(*objects("tray-helper", **changes))
    assert [(each.name, each.field) for each in plan.problems] == [("tray-helper", field)]


def test_agent_of_declared_clients_alone_is_accepted_and_may_have_bound_servers(
    registry: Registry,
) -> None:
    tools = ["wiki/*", "crm/get_account"]
    registry.apply(*objects("tray-helper", clients=["tray"], tools=tools))
    assert published(registry).clients["tray"].agent == "tray-helper"
    assert "tray-helper" not in published(registry).clients

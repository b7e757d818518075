"""A gateway's exchanges for itself: a short credential to list tools with, and nothing else."""

from dataclasses import replace

import msgspec
import pytest

from tests.token_exchange.exchanges import (
    ACCESS_TOKEN,
    AGENT,
    CALL,
    CRM,
    DISCOVERY,
    GATEWAY,
    NOTES,
    STATIC_SECRET,
    TOOLS,
    control_token,
    discovery,
    planned,
)
from tests.token_exchange.signing import NOW
from tests.token_exchange.verdicts import rule_of
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan
from token_exchange.exchange_refusals import REFUSALS


@pytest.mark.requirement("exchange-bound")
def test_discovery_asks_not_how_agents_must_prove_themselves() -> None:
    crm = replace(CRM, require_bound=True)
    request = discovery(subject=control_token(cnf=None), targets={"crm": crm})

    assert isinstance(plan_exchange(request), ExchangePlan)


def test_discovery_goes_on_where_the_server_is_now() -> None:
    moved = replace(CRM, url_since=NOW)

    assert isinstance(plan_exchange(discovery(targets={"crm": moved})), ExchangePlan)


def test_discovery_plans_a_short_token_of_the_gateway_itself() -> None:
    request = discovery()

    assert planned(request) == ExchangePlan(
        kind="discovery",
        server="crm",
        resource=CRM.url,
        audience=CRM.audience,
        issued_token_type=ACCESS_TOKEN,
        binding="run",
        client_id=GATEWAY,
        gateway_name="demo",
        subject=request.subject.token,
        agent=None,
        actor=None,
        scope="mcp:discover",
        details=(DISCOVERY,),
        expires_at=NOW + 60,
        now=NOW,
    )


def test_discovery_at_a_server_with_a_secret_is_planned() -> None:
    detail = msgspec.structs.replace(DISCOVERY, server="notes")

    plan = planned(
        discovery(resource=(NOTES.url,), details=(detail,), requested_token_type=STATIC_SECRET)
    )

    assert (plan.server, plan.issued_token_type) == ("notes", STATIC_SECRET)


def test_discovery_at_one_of_two_servers_of_the_same_target_is_planned() -> None:
    detail = msgspec.structs.replace(DISCOVERY, server="notes")

    plan = planned(discovery(targets={"crm": CRM, "notes": CRM}, details=(detail,)))

    assert plan.server == "notes"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "gateway:other"},
        {"client_id": "gateway:other"},
        {"sub": "gateway:other", "client_id": "gateway:other"},
        {"sub_profile": "user"},
        {"sub_profile": "ai_agent", "agent": "support-bot"},
        {"act": AGENT},
    ],
)
def test_discovery_with_a_token_that_is_not_the_gateways_own_is_refused(
    changes: dict[str, object],
) -> None:
    refusal = plan_exchange(discovery(subject=control_token(**changes)))

    assert refusal == REFUSALS["exchange.discovery_subject"]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"resource": ()}, "exchange.resource_count"),
        ({"resource": ("https://billing.internal/mcp",)}, "exchange.resource"),
        ({"details": (CALL,)}, "exchange.detail_form"),
        ({"details": (TOOLS,)}, "exchange.detail_form"),
        ({"details": ()}, "exchange.detail_form"),
        (
            {"details": (msgspec.structs.replace(DISCOVERY, server="billing"),)},
            "exchange.detail_server",
        ),
        (
            {"details": (msgspec.structs.replace(DISCOVERY, server="notes"),)},
            "exchange.detail_server",
        ),
        ({"requested_token_type": STATIC_SECRET}, "exchange.token_type"),
        ({"scope": "mcp:tools"}, "exchange.scope_widened"),
        ({"scope": "mcp:discover mcp:tools"}, "exchange.scope_widened"),
        ({"subject": control_token(exp=NOW)}, "exchange.lifetime"),
        ({"revoked": "blocked"}, "exchange.revoked"),
    ],
)
def test_discovery_beyond_its_bounds_is_refused(changes: dict[str, object], rule: str) -> None:
    assert rule_of(plan_exchange(discovery(**changes))) == rule


def test_discovery_may_name_its_scope() -> None:
    assert planned(discovery(scope="mcp:discover")).scope == "mcp:discover"


@pytest.mark.requirement("attack-16")
def test_discovery_is_no_way_to_call_a_tool() -> None:
    plan = planned(discovery())

    assert plan.scope.split() == ["mcp:discover"]
    assert all(detail.type == "mcp_discovery" for detail in plan.details)

"""Exchanges for a call: the most that the credential of the target may say, and every refusal."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.token_exchange.exchanges import (
    ACCESS_TOKEN,
    AGENT,
    BOUND,
    CALL,
    CONTROL,
    CRM,
    DISCOVERY,
    GATEWAY,
    NOTES,
    STATIC_SECRET,
    TOOLS,
    agent_alone,
    exchange,
    planned,
    subject,
)
from tests.token_exchange.signing import ENDPOINT, ISSUER, NOW
from tests.token_exchange.verdicts import rule_of
from token_exchange.claims import Actor, AuthorizationDetail, Refusal, UserContext, VerifiedClaims
from token_exchange.delegation import actors_of
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan, ExchangeRequest
from token_exchange.exchange_refusals import REFUSALS

NOTES_ENDPOINT = ENDPOINT.replace("crm", "notes")
OTHER_GATEWAY_ENDPOINT = "http://127.0.0.1:9999/crm/mcp"


def notes_call(**changes: Any) -> ExchangeRequest:
    """A granted request at the server whose provider hands out a secret, bound to the call."""
    granted = {"type": "mcp_tool", "server": "notes", "tools": ["*"], "actions": ["call"]}
    return exchange(
        **{
            "subject": subject(aud=NOTES_ENDPOINT, authorization_details=[granted]),
            "resource": (NOTES.url,),
            "details": (msgspec.structs.replace(CALL, server="notes"),),
            "requested_token_type": STATIC_SECRET,
            **changes,
        }
    )


@pytest.mark.requirement("RFC8693-2.1")
def test_exchange_for_a_person_plans_the_most_the_target_token_may_say() -> None:
    request = exchange()

    plan = planned(request)

    assert plan == ExchangePlan(
        kind="tool_call",
        server="crm",
        resource="https://crm.internal/mcp",
        audience="https://crm.internal",
        issued_token_type=ACCESS_TOKEN,
        binding="run",
        client_id=GATEWAY,
        gateway_name="demo",
        subject=request.subject.token,
        agent="support-bot",
        actor=Actor(ISSUER, GATEWAY, "service", act=request.subject.token.act),
        scope="mcp:tools",
        details=(TOOLS,),
        expires_at=NOW + 300,
        now=NOW,
        tool="get_account",
        decision_id=CALL.decision,
        args_sha256=CALL.args_sha256,
        user_context=UserContext(groups=("local/support",), ticket="T-1"),
    )
    assert plan.transaction == "txn_1"
    assert plan.invocation == "inv_1"
    assert plan.lifetime_seconds == 300


@pytest.mark.requirement("RFC8693-4.1")
def test_exchange_keeps_the_inbound_actor_chain_inside_the_gateway() -> None:
    chain = {**AGENT, "agent": "sub-agent", "act": AGENT}

    plan = planned(exchange(subject=subject(act=chain)))

    assert [actor.agent or actor.sub for actor in actors_of(plan.actor)] == [
        GATEWAY,
        "sub-agent",
        "support-bot",
    ]
    assert plan.agent == "sub-agent"


def test_exchange_of_an_agent_alone_has_the_gateway_as_its_only_actor() -> None:
    plan = planned(exchange(subject=agent_alone()))

    assert plan.actor == Actor(ISSUER, GATEWAY, "service")
    assert plan.agent == "report-bot"
    assert plan.user_context is None
    assert type(plan.actor.sub_profile) is str


def test_exchange_bound_to_the_call_carries_only_that_call() -> None:
    plan = planned(notes_call())

    assert plan.details == (msgspec.structs.replace(CALL, server="notes"),)
    assert (plan.binding, plan.issued_token_type) == ("call", STATIC_SECRET)
    assert plan.expires_at == NOW + 120
    assert plan.user_context is None


def test_exchange_bound_to_the_run_carries_what_is_granted_at_this_server_only() -> None:
    granted = [
        {"type": "mcp_tool", "server": "crm", "tools": ["get_*"], "actions": ["call"]},
        {"type": "mcp_tool", "server": "notes", "tools": ["*"], "actions": ["call"]},
        {"type": "mcp_discovery", "server": "crm"},
        {"type": "mcp_tool", "server": "crm", "tools": ["refund"], "actions": ["call"]},
    ]

    plan = planned(exchange(subject=subject(authorization_details=granted)))

    both = AuthorizationDetail("mcp_tool", "crm", ("get_*", "refund"), ("call",))
    assert plan.details == (both,)


@pytest.mark.requirement("attack-28")
def test_exchange_of_a_revoked_token_is_refused() -> None:
    assert plan_exchange(exchange(revoked="agent support-bot is blocked")) == Refusal(
        "invalid_request",
        "The subject token has been revoked.",
        "agent support-bot is blocked",
        "exchange.revoked",
    )


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("RFC8693-2.2.2")
@pytest.mark.parametrize(
    "audience",
    [OTHER_GATEWAY_ENDPOINT, CRM.url, CRM.audience, f"{ISSUER}/admin", ISSUER, ENDPOINT + "/", ""],
)
def test_exchange_of_a_token_for_another_audience_is_refused(audience: str) -> None:
    refusal = plan_exchange(exchange(subject=subject(aud=audience)))

    assert refusal == REFUSALS["exchange.subject_audience"]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_request"


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("attack-17")
@pytest.mark.parametrize(
    "changes",
    [
        {"act": None},  # a person directly
        {"act": {**AGENT, "agent": None}},
        {"agent": "support-bot"},
        {"sub_profile": "service", "sub": GATEWAY, "client_id": GATEWAY, "act": None},
        {"sub_profile": "ai_agent", "agent": "report-bot"},
    ],
)
def test_exchange_of_a_token_no_agent_holds_is_refused(changes: dict[str, object]) -> None:
    refusal = plan_exchange(exchange(subject=subject(**changes)))

    assert refusal == REFUSALS["exchange.subject_form"]


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("RFC8707-2")
@pytest.mark.parametrize("resource", [(), (CRM.url, NOTES.url), (CRM.url, CRM.url)])
def test_exchange_without_exactly_one_resource_is_refused(resource: tuple[str, ...]) -> None:
    refusal = plan_exchange(exchange(resource=resource))

    assert refusal == REFUSALS["exchange.resource_count"]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_target"


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("RFC8707-2")
@pytest.mark.parametrize(
    "resource",
    [NOTES.url, CRM.audience, CRM.url + "/", CRM.url.upper(), ENDPOINT, CONTROL, "", "crm"],
)
def test_exchange_for_a_resource_the_audience_does_not_name_is_refused(resource: str) -> None:
    refusal = plan_exchange(exchange(resource=(resource,)))

    assert refusal == REFUSALS["exchange.resource"]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_target"


@pytest.mark.requirement("attack-16")
def test_exchange_for_the_target_of_another_server_is_refused_whatever_the_detail_says() -> None:
    detail = msgspec.structs.replace(CALL, server="notes")

    refusal = plan_exchange(
        exchange(resource=(NOTES.url,), details=(detail,), requested_token_type=STATIC_SECRET)
    )

    assert refusal == REFUSALS["exchange.resource"]


def test_exchange_for_a_server_without_a_target_is_refused() -> None:
    assert plan_exchange(exchange(targets={"notes": CRM})) == REFUSALS["exchange.resource"]


@pytest.mark.requirement("trap-secret-repointed")
@pytest.mark.parametrize(
    ("moved_at", "rule"), [(0, None), (NOW - 61, None), (NOW - 60, "moved"), (NOW, "moved")]
)
def test_exchange_of_a_token_from_before_the_server_moved_is_refused(
    moved_at: int, rule: str | None
) -> None:
    moved = replace(CRM, url_since=moved_at)
    planned = plan_exchange(exchange(subject=subject(iat=NOW - 60), targets={"crm": moved}))

    assert (planned == REFUSALS["exchange.resource_moved"]) == (rule == "moved")
    assert isinstance(planned, Refusal) == (rule == "moved")


@pytest.mark.requirement("exchange-bound")
@pytest.mark.parametrize("token", [subject, agent_alone])
@pytest.mark.parametrize(
    ("cnf", "require_bound", "is_refused"),
    [(None, True, True), (None, False, False), (BOUND, True, False), (BOUND, False, False)],
)
def test_exchange_of_a_bearer_is_refused_where_the_server_requires_bound_tokens(
    token: Callable[..., VerifiedClaims],
    cnf: dict[str, str] | None,
    require_bound: bool,
    is_refused: bool,
) -> None:
    crm = replace(CRM, require_bound=require_bound)
    result = plan_exchange(exchange(subject=token(cnf=cnf), targets={"crm": crm}))

    assert (result == REFUSALS["exchange.unbound"]) == is_refused
    assert isinstance(result, Refusal) == is_refused


@pytest.mark.requirement("exchange-bound")
def test_target_requires_bound_tokens_unless_it_says_otherwise() -> None:
    assert CRM.require_bound
    other = replace(NOTES, require_bound=False)  # what another server takes plays no part
    refusal = plan_exchange(
        exchange(subject=subject(cnf=None), targets={"crm": CRM, "notes": other})
    )
    assert refusal == REFUSALS["exchange.unbound"]


@pytest.mark.requirement("RFC9396-5")
@pytest.mark.parametrize(
    "details",
    [
        (),
        (CALL, CALL),
        (CALL, DISCOVERY),
        (DISCOVERY,),
        (TOOLS,),
        (msgspec.structs.replace(CALL, tool="get_*"),),
        (msgspec.structs.replace(CALL, tool=None),),
        (msgspec.structs.replace(CALL, decision=None),),
        (msgspec.structs.replace(CALL, decision="tok_aaaqeayeaudaocajbifqydiob4"),),
        (msgspec.structs.replace(CALL, args_sha256=None),),
        (msgspec.structs.replace(CALL, tools=("get_*",)),),
    ],
)
def test_exchange_without_exactly_one_well_formed_call_is_refused(
    details: tuple[AuthorizationDetail, ...],
) -> None:
    refusal = plan_exchange(exchange(details=details))

    assert refusal == REFUSALS["exchange.detail_form"]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_authorization_details"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("server", ["notes", "billing", "unknown"])
def test_exchange_for_a_call_at_another_server_is_refused(server: str) -> None:
    detail = msgspec.structs.replace(CALL, server=server)

    refusal = plan_exchange(exchange(details=(detail,)))

    assert refusal == REFUSALS["exchange.detail_server"]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    "granted",
    [
        [],
        [{"type": "mcp_tool", "server": "crm", "tools": ["refund"], "actions": ["call"]}],
        [{"type": "mcp_tool", "server": "notes", "tools": ["*"], "actions": ["call"]}],
        [{"type": "mcp_tool", "server": "crm", "tools": ["get_*"], "actions": ["list"]}],
        [{"type": "mcp_discovery", "server": "crm"}],
    ],
)
def test_exchange_for_a_tool_beyond_the_token_is_refused(granted: list[dict[str, object]]) -> None:
    refusal = plan_exchange(exchange(subject=subject(authorization_details=granted)))

    assert refusal == REFUSALS["exchange.detail_widened"]


@pytest.mark.requirement("exchange-gateway-not-believed")
@pytest.mark.parametrize(
    "tools",
    [
        (),
        ("crm/refund",),
        ("crm/get_",),
        ("get_*",),
        ("notes/*",),
        ("crmx/*",),
        ("crm/get_account/*",),
    ],
)
def test_exchange_for_a_tool_the_agent_may_use_no_longer_is_refused(
    tools: tuple[str, ...],
) -> None:
    refusal = plan_exchange(exchange(agent_tools={"support-bot": tools, "report-bot": ("crm/*",)}))

    assert refusal == REFUSALS["exchange.tool"]


@pytest.mark.requirement("exchange-gateway-not-believed")
def test_exchange_for_an_agent_that_is_not_declared_any_more_is_refused() -> None:
    refusal = plan_exchange(exchange(agent_tools={"report-bot": ("crm/*",)}))

    assert refusal == REFUSALS["exchange.tool"]


@pytest.mark.requirement("exchange-gateway-not-believed")
@pytest.mark.parametrize("approved", [(), ("get_balance",), ("get_*",)])
def test_exchange_for_a_tool_that_is_not_approved_is_refused(approved: tuple[str, ...]) -> None:
    target = replace(CRM, approved_tools=frozenset(approved))

    refusal = plan_exchange(exchange(targets={"crm": target}))

    assert refusal == REFUSALS["exchange.tool"]


@pytest.mark.requirement("exchange-gateway-not-believed")
def test_exchange_for_a_tool_the_agent_still_may_use_is_planned() -> None:
    target = replace(CRM, approved_tools=frozenset({"get_account"}))
    tools = {"support-bot": ("notes/search", "crm/get_account")}

    plan = planned(exchange(agent_tools=tools, targets={"crm": target}))

    # The token held get_*: the credential of the run says no more than the agent may do today.
    assert [(each.tools, each.actions) for each in plan.details] == [(("get_account",), ("call",))]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("scope", ["", "mcp:discover", "mcp:tools:x", "openid"])
def test_exchange_of_a_token_not_for_tools_is_refused(scope: str) -> None:
    refusal = plan_exchange(exchange(subject=subject(scope=scope)))

    assert refusal == REFUSALS["exchange.subject_scope"]


@pytest.mark.requirement("RFC8693-2.1")
def test_exchange_for_a_token_asks_for_an_access_token_by_default() -> None:
    assert planned(exchange(requested_token_type=None)).issued_token_type == ACCESS_TOKEN


@pytest.mark.requirement("RFC8693-2.1")
@pytest.mark.parametrize(
    "request_",
    [
        exchange(requested_token_type=STATIC_SECRET),
        exchange(requested_token_type="urn:ietf:params:oauth:token-type:jwt"),
        exchange(requested_token_type="urn:ietf:params:oauth:token-type:refresh_token"),
        notes_call(requested_token_type=ACCESS_TOKEN),
        notes_call(requested_token_type=None),
        exchange(targets={"crm": replace(CRM, provider_type="unknown")}),
    ],
)
def test_exchange_for_another_type_than_the_provider_makes_is_refused(
    request_: ExchangeRequest,
) -> None:
    assert plan_exchange(request_) == REFUSALS["exchange.token_type"]


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("asked", "scope"),
    [("", "a b mcp:tools"), ("a", "a"), ("b a", "a b"), ("mcp:tools", "mcp:tools")],
)
def test_exchange_scope_within_the_tokens_is_planned(asked: str, scope: str) -> None:
    plan = planned(exchange(subject=subject(scope="mcp:tools a b"), scope=asked))

    assert plan.scope == scope


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("asked", ["c", "mcp:tools c", "MCP:tools", "mcp:discover"])
def test_exchange_for_a_wider_scope_is_refused(asked: str) -> None:
    refusal = plan_exchange(exchange(scope=asked))

    assert refusal == REFUSALS["exchange.scope_widened"]
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_scope"


@pytest.mark.parametrize("asked", [" mcp:tools", "mcp:tools  a", '"'])
def test_exchange_for_a_malformed_scope_is_refused(asked: str) -> None:
    assert rule_of(plan_exchange(exchange(scope=asked))) == "scope.form"


@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("RFC8693-4.1")
def test_exchange_that_would_make_a_fifth_actor_is_refused() -> None:
    def chained(depth: int) -> dict[str, object]:
        chain: dict[str, object] = {**AGENT}
        for _ in range(depth - 1):
            chain = {**AGENT, "act": chain}
        return chain

    assert len(actors_of(planned(exchange(subject=subject(act=chained(3)))).actor)) == 4
    refusal = plan_exchange(exchange(subject=subject(act=chained(4))))
    assert rule_of(refusal) == "delegation.depth"


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("subject_seconds", "target_seconds", "expected"),
    [
        (900, 300, 300),
        (900, 60, 60),
        (120, 300, 120),
        (1, 300, 1),
        (900, 301, 300),
        (900, 900, 300),
    ],
)
def test_exchange_lifetime_is_the_shortest_of_all(
    subject_seconds: int, target_seconds: int, expected: int
) -> None:
    plan = planned(
        exchange(
            subject=subject(exp=NOW + subject_seconds),
            targets={"crm": replace(CRM, lifetime_seconds=target_seconds)},
        )
    )

    assert plan.lifetime_seconds == expected


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(("subject_seconds", "target_seconds"), [(0, 300), (-1, 300), (900, 0)])
def test_exchange_with_no_lifetime_left_is_refused(
    subject_seconds: int, target_seconds: int
) -> None:
    refusal = plan_exchange(
        exchange(
            subject=subject(exp=NOW + subject_seconds),
            targets={"crm": replace(CRM, lifetime_seconds=target_seconds)},
        )
    )

    assert refusal == REFUSALS["exchange.lifetime"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((), None),
        (("purpose",), None),
        (("name",), UserContext(name="Alice")),
        (
            ("name", "groups", "acr", "auth_time", "purpose", "ticket"),
            UserContext(name="Alice", groups=("local/support",), acr="pwd", ticket="T-1"),
        ),
    ],
)
def test_exchange_shows_the_target_only_the_attributes_it_declared(
    attributes: tuple[str, ...], expected: UserContext | None
) -> None:
    plan = planned(exchange(targets={"crm": replace(CRM, person_attributes=attributes)}))

    assert plan.user_context == expected


def test_refusals_are_filed_under_their_own_rule() -> None:
    assert all(refusal.rule == rule for rule, refusal in REFUSALS.items())
    assert all(rule.startswith("exchange.") for rule in REFUSALS)


def test_exchange_plan_leaves_out_a_malformed_detail_of_its_subject() -> None:
    good = {"type": "mcp_tool", "server": "crm", "tools": ["get_*"], "actions": ["call"]}
    held = subject(authorization_details=[good | {"tools": []}, good])
    assert [detail.tools for detail in planned(exchange(subject=held)).details] == [("get_*",)]

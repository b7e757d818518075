from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.token_exchange.exchanges import (
    CALL,
    CONTROL,
    CRM,
    DISCOVERY,
    NOTES,
    TOOLS,
    agent_alone,
    control_token,
    exchange,
    subject,
)
from tests.token_exchange.signing import ENDPOINT, NOW
from token_exchange.claims import Refusal, VerifiedClaims
from token_exchange.delegation import actors_of
from token_exchange.exchange import plan_exchange
from token_exchange.exchange_plan import ExchangePlan, ExchangeRequest
from token_exchange.narrowing import details_cover

SCOPES = st.lists(st.sampled_from(["mcp:tools", "mcp:discover", "a", "b"]), max_size=3).map(
    " ".join
)
AUDIENCES = st.sampled_from(
    [ENDPOINT, ENDPOINT.replace("crm", "notes"), CONTROL, CRM.url, "http://other/crm/mcp"]
)
PATTERNS = st.sampled_from(["get_*", "get_account", "*", "refund"])
TOOL_DETAILS = st.fixed_dictionaries(
    {
        "type": st.just("mcp_tool"),
        "server": st.sampled_from(["crm", "notes"]),
        "tools": st.lists(PATTERNS, max_size=2),
        "actions": st.just(["call"]),
    }
)
MAKERS = st.sampled_from([subject, agent_alone, control_token])


@st.composite
def subjects(draw: st.DrawFn, make: Callable[..., VerifiedClaims]) -> VerifiedClaims:
    """Tokens of one form with up to two claims drawn anew."""
    values: dict[str, st.SearchStrategy[Any]] = {
        "exp": st.integers(NOW - 5, NOW + 900),
        "aud": AUDIENCES,
        "scope": SCOPES,
        "authorization_details": st.lists(TOOL_DETAILS, max_size=3),
    }
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=2, unique=True))
    return make(**{name: draw(values[name]) for name in names})


@st.composite
def requests(draw: st.DrawFn) -> ExchangeRequest:
    """Requests with up to two fields drawn anew, so that many are granted."""
    make = draw(MAKERS)
    seconds = draw(st.integers(1, 900))
    targets = {
        "crm": replace(CRM, lifetime_seconds=seconds),
        "notes": replace(NOTES, provider_type="issued_token", lifetime_seconds=seconds),
    }
    values: dict[str, st.SearchStrategy[Any]] = {
        "client_id": st.just("gateway:other"),
        "resource": st.sampled_from([(NOTES.url,), ()]),
        "scope": SCOPES,
        "details": st.sampled_from([(CALL,), (DISCOVERY,), (TOOLS,), ()]),
        "revoked": st.just("blocked"),
        "targets": st.just({"crm": replace(CRM, lifetime_seconds=-seconds)}),
    }
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=2, unique=True))
    fields: dict[str, Any] = {
        "subject": draw(subjects(make)),
        "details": (DISCOVERY,) if make is control_token else (CALL,),
        "targets": targets,
    }
    return exchange(**{**fields, **{name: draw(values[name]) for name in names}})


@given(requests())
def test_exchange_ends_in_a_plan_within_its_subject_or_in_a_refusal(
    request: ExchangeRequest,
) -> None:
    plan = plan_exchange(request)

    assert isinstance(plan, (ExchangePlan, Refusal))
    if isinstance(plan, Refusal):
        assert plan.code
        assert plan.rule
        return
    token = request.subject.token
    assert request.revoked is None
    assert request.resource == (plan.resource,)
    assert plan.subject is token
    assert request.now < plan.expires_at <= min(token.exp, request.now + 300)
    assert plan.lifetime_seconds <= request.targets[plan.server].lifetime_seconds
    if plan.kind == "tool_call":
        assert request.gateway_endpoints[token.aud] == plan.server
        assert set(plan.scope.split()) <= set(token.scope.split())
        assert details_cover(token.authorization_details, plan.details)
        assert details_cover(token.authorization_details, request.details)
        assert actors_of(plan.actor)[1:] == actors_of(token.act)
    else:
        assert token.aud == request.control_audience
        assert token.sub == request.client_id
        assert plan.scope == "mcp:discover"
        assert plan.details == (DISCOVERY,)
        assert plan.actor is None
        assert plan.lifetime_seconds <= 60


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-5, 400), st.none() | st.frozensets(st.sampled_from("abcd"))
        ),
        max_size=4,
    )
)
def test_plan_only_shrinks_however_often_it_is_narrowed(
    steps: list[tuple[int | None, frozenset[str] | None]],
) -> None:
    plan = plan_exchange(exchange(subject=subject(scope="mcp:tools a b c")))
    assert isinstance(plan, ExchangePlan)

    for ttl_seconds, scopes in steps:
        narrowed = plan.narrowed_to(ttl_seconds, scopes)
        if isinstance(narrowed, Refusal):
            assert ttl_seconds is not None or scopes is not None
            return
        assert plan.now < narrowed.expires_at <= plan.expires_at
        assert set(narrowed.scope.split()) <= set(plan.scope.split())
        assert replace(narrowed, expires_at=plan.expires_at, scope=plan.scope) == plan
        plan = narrowed

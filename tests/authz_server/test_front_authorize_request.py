"""What an accepted authorization request means, and how one must arrive."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_log.event import EventType
from authz_server import authorize_asked
from authz_server.authorize_checks import Refused
from authz_server.parameters import MAXIMUM_PARAMETERS
from authz_server.requested_access import (
    ServerAtEndpoint,
    available_tools,
    exact_tools,
)
from authz_server.store import interactions
from database.errors import DatabaseBusyError
from registry.snapshot import RegistrySnapshot, ToolEntry
from tests.authz_server.front_half import (
    CRM_URL,
    HTTPS_ISSUER,
    NOW,
    FrontHalf,
    agent,
    answer_of,
    cli_parameters,
    is_login,
    request_parameters,
    sample_snapshot,
    server,
    tool,
)
from tests.authz_server.front_requests import (
    accepted,
    details,
    judge,
    of_crm,
)
from tests.authz_server.raw_asgi import ask
from token_exchange.authorization_details import MAXIMUM_DETAIL_TOOLS, MAXIMUM_TOOL_CHARACTERS
from token_exchange.narrowing import pattern_matches


def with_crm_tools(*tools: ToolEntry) -> RegistrySnapshot:
    snapshot = sample_snapshot(HTTPS_ISSUER)
    return msgspec.structs.replace(
        snapshot,
        agents=snapshot.agents | {"support-bot": agent("support-bot", "crm/*")},
        servers=snapshot.servers | {"crm": server("crm", *tools)},
    )


def test_authorize_unknown_parameter_once_is_ignored() -> None:
    assert accepted(audience=CRM_URL, act="alice", sub="usr_x") == accepted()


@pytest.mark.requirement("attack-17")
def test_authorize_request_names_the_registered_agent_whatever_is_claimed() -> None:
    request = accepted(agent="web-bot", requested_actor="web-bot", actor="x", act='{"sub":"x"}')
    assert (request.client_id, request.agent, request.server) == (
        "support-bot",
        "support-bot",
        "crm",
    )


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, ("get_account", "refund")),
        (details(of_crm("get_*", "refund")), ("get_account", "refund")),
        (details(of_crm("*")), ("get_account", "refund")),  # wider is cut to Agent.tools
        (details(of_crm("get_account")), ("get_account",)),
        (details(of_crm("refund"), of_crm("get_*")), ("get_account", "refund")),
        (details(of_crm("refund", "delete_account")), ("refund",)),
    ],
)
def test_authorize_tools_are_exact_names_within_agent_and_catalogue(
    asked: str | None, expected: tuple[str, ...]
) -> None:
    assert accepted(authorization_details=asked).tools == expected


def test_authorize_more_tools_than_a_token_can_carry_must_be_asked_for_by_name() -> None:
    many = tuple(tool(f"get_{number:03}") for number in range(MAXIMUM_DETAIL_TOOLS + 1))
    long = tuple(tool(f"{number:03}" + "x" * 125) for number in range(60))
    assert sum(len(entry.name) for entry in long) > MAXIMUM_TOOL_CHARACTERS
    for tools in (many, long):
        snapshot = with_crm_tools(*tools)
        refused = judge(snapshot)
        assert isinstance(refused, Refused)
        assert refused.refusal.rule == "authorize.no_tools"
        fewer = details(of_crm(tools[0].name))
        assert accepted(snapshot=snapshot, authorization_details=fewer).tools == (tools[0].name,)
    at_the_limit = with_crm_tools(*many[:-1])
    assert len(accepted(snapshot=at_the_limit).tools) == MAXIMUM_DETAIL_TOOLS


@pytest.mark.requirement("attack-30")
def test_authorize_patterns_of_a_stranger_are_bounded_in_all_details_together() -> None:
    patterns = [f"get_{number:03}" for number in range(MAXIMUM_DETAIL_TOOLS)]
    half = len(patterns) // 2
    at_the_limit = details(of_crm(*patterns[:half]), of_crm(*patterns[half:-1], "get_account"))
    assert accepted(authorization_details=at_the_limit).tools == ("get_account",)
    one_more = details(of_crm(*patterns[:half]), of_crm(*patterns[half:], "get_account"))
    refused = judge(authorization_details=one_more)
    assert isinstance(refused, Refused)
    assert refused.refusal.rule == "authorize.details"


@pytest.mark.requirement("attack-30")
def test_authorize_tools_are_worked_out_once_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[object]()

    def counting(*arguments: Any) -> tuple[str, ...]:
        calls.append(arguments)
        return exact_tools(*arguments)

    monkeypatch.setattr(authorize_asked, "exact_tools", counting)
    accepted(authorization_details=details(of_crm("get_*")))
    assert len(calls) == 1


NAMES = st.text(alphabet="ab_", min_size=1, max_size=4)


@pytest.mark.requirement("attack-16")
@given(
    st.lists(NAMES, min_size=1, max_size=6, unique=True),
    st.lists(st.builds(str.__add__, st.text(alphabet="ab_", max_size=3), st.sampled_from("a*"))),
)
def test_authorize_tools_are_those_the_rule_of_one_pattern_says(
    names: list[str], patterns: list[str]
) -> None:
    snapshot = with_crm_tools(*map(tool, names))
    agents = snapshot.agents | {
        "support-bot": agent("support-bot", *(f"crm/{p}" for p in patterns))
    }
    endpoint = ServerAtEndpoint(snapshot.servers["crm"], agents["support-bot"])
    expected = {name for name in names if any(pattern_matches(p, name) for p in patterns)}
    assert available_tools(endpoint) == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (None, "mcp:tools"),
        ("mcp:tools", "mcp:tools"),
        ("openid mcp:tools", "mcp:tools openid"),
        ("mcp:tools openid openid", "mcp:tools openid"),
    ],
)
def test_authorize_scope_has_one_spelling_and_a_default(scope: str | None, expected: str) -> None:
    assert accepted(scope=scope).scope == expected


def test_authorize_scope_of_the_command_line_is_empty_unless_it_asks_who_it_is() -> None:
    assert accepted(**cli_parameters(HTTPS_ISSUER)).scope == ""
    assert accepted(**cli_parameters(HTTPS_ISSUER, scope="openid")).scope == "openid"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (False, False, False, 0)),
        ({"prompt": "none"}, (False, False, True, 0)),
        ({"prompt": "login"}, (True, False, False, 0)),
        ({"prompt": "select_account"}, (True, False, False, 0)),
        ({"prompt": "consent"}, (False, True, False, 0)),
        ({"prompt": "login consent"}, (True, True, False, 0)),
        ({"max_age": "0"}, (True, False, False, NOW)),
        ({"max_age": "60"}, (False, False, False, NOW - 60)),
    ],
)
def test_authorize_prompt_and_max_age_say_what_must_happen(
    changes: dict[str, Any], expected: tuple[bool, bool, bool, int]
) -> None:
    request = accepted(**changes)
    assert expected == (
        request.fresh_login,
        request.ask_consent,
        request.silent,
        request.login_not_before,
    )


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "query",
    [
        b"client_id=%00",
        b"state=%0d%0aSet-Cookie:x",
        b"state=%c2%9b2J",  # a control of ISO 6429 in one character
        b"state=%e2%80%ae",  # right-to-left override
        b"state=%e2%81%a6",
        b"state=%e2%80%a8",
        b"state=%ff",
        b"state=%ed%a0%80",  # a lone surrogate
        b"\xff=\xff",
        b"&".join(b"p%d=1" % number for number in range(10_000)),
        b"&".join(b"p=1" for _ in range(MAXIMUM_PARAMETERS + 1)),
        b"state=" + b"x" * 16_400,
    ],
)
def test_authorize_query_that_is_no_plain_form_is_a_page(half: FrontHalf, query: bytes) -> None:
    answer = ask(half.app, "GET", "/oauth/authorize", query=query)
    assert (answer.status, answer.headers.get("location")) == (400, None)
    assert half.spool.events[-1].reasons == ("parameters.form",)


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        "application/x-www-form-urlencoded; charset=utf-16",
        "application/x-www-form-urlencoded; charset=utf-7",
    ],
)
def test_authorize_posted_form_of_another_type_is_a_page(
    half: FrontHalf, content_type: str
) -> None:
    http = half.browser().http
    answer = http.post(
        "/oauth/authorize", content=b"client_id=x", headers={"content-type": content_type}
    )
    assert (answer.status_code, answer.headers.get("location")) == (400, None)
    assert half.spool.events[-1].reasons == ("parameters.form",)


@pytest.mark.requirement("attack-19")
def test_authorize_posted_form_is_accepted_and_with_a_query_beside_it_refused(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    posted = browser.http.post("/oauth/authorize", data=request_parameters())
    assert is_login(browser.follow(posted))
    both = browser.http.post("/oauth/authorize?client_id=web-bot", data=request_parameters())
    assert (both.status_code, both.headers.get("location")) == (400, None)


@pytest.mark.requirement("attack-25")
def test_authorize_redirects_follow_the_configured_issuer_and_not_the_request(
    half: FrontHalf,
) -> None:
    spoofed = {"host": "evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=e"}
    http = half.browser().http
    answer = http.get("/oauth/authorize", params=request_parameters(), headers=spoofed)
    assert answer.headers["location"].startswith(f"{half.issuer}/oauth/login?interaction=")


def test_authorize_when_the_registry_or_the_audit_is_out_of_reach_gives_a_503(
    half: FrontHalf,
) -> None:
    half.live.stale = True  # a revocation may not have reached us
    assert half.browser().authorize().status_code == 503
    half.live.stale = False
    half.spool.is_broken = True
    answer = half.browser().authorize(response_type="token")
    assert (answer.status_code, answer.headers.get("location")) == (503, None)
    half.spool.is_broken = False
    assert answer_of(half.browser().authorize(response_type="token"))["error"]


def test_authorize_when_another_process_keeps_the_database_gives_a_503(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object, **__: object) -> None:
        raise DatabaseBusyError("another process keeps the write lock")

    monkeypatch.setattr(half.parts.interactions, "start", busy)
    assert half.browser().authorize().status_code == 503


def test_authorize_when_too_many_people_are_at_it_refuses_and_records(
    half: FrontHalf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAXIMUM_OPEN", 1)
    first = half.browser()
    first.log_in(first.authorize())  # who has logged in keeps their place
    answer = half.browser().authorize()
    assert (answer.status_code, answer.headers.get("location")) == (503, None)
    assert int(answer.headers["retry-after"]) > 0
    event = half.spool.events[-1]
    assert (event.type, event.reasons) == (
        EventType.AUTHORIZE_REFUSED,
        ("authorize.too_many_open",),
    )
    assert (event.client_id, event.agent) == ("support-bot", "support-bot")
    half.clock.now += interactions.INTERACTION_LIFETIME_SECONDS
    assert is_login(half.browser().authorize())

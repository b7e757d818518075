"""The table of /authorize, row by row: what is refused, by which rule, and its accepted twin."""

from typing import Any

import msgspec
import pytest

from audit_log.event import EventType, Outcome
from authz_server.authorize_checks import (
    CHECKS,
    MAXIMUM_NONCE,
    MAXIMUM_STATE,
    Refused,
    Tell,
)
from registry.blocks import BlockKind
from tests.authz_server.front_half import (
    CHALLENGE,
    CRM_AUDIENCE,
    CRM_URL,
    ENDPOINT,
    HTTPS_ISSUER,
    KEY,
    NOTES_ENDPOINT,
    VERIFIER,
    FrontHalf,
    answer_of,
    cli_parameters,
    is_login,
    request_parameters,
    sample_snapshot,
)
from tests.authz_server.front_requests import (
    accepted,
    details,
    judge,
    of_crm,
)
from token_exchange.authorization_details import MAXIMUM_DETAIL_TOOLS

ADMIN = f"{HTTPS_ISSUER}/admin"


# rule, error code, what is wrong, and the nearest request that is right.
REFUSED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    *(
        ("authorize.repeated", "invalid_request", {name: [value, value]}, {name: value})
        for name, value in (
            ("state", "s"),
            ("scope", "mcp:tools"),
            ("response_type", "code"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("nonce", "n"),
            ("prompt", "login"),
            ("unknown", "x"),
            ("authorization_details", details(of_crm("get_*"))),
        )
    ),
    (
        "authorize.state",
        "invalid_request",
        {"state": "s" * (MAXIMUM_STATE + 1)},
        {"state": "s" * MAXIMUM_STATE},
    ),
    ("authorize.request", "request_not_supported", {"request": "eyJ.e30."}, {"request": None}),
    (
        "authorize.request_uri",
        "request_uri_not_supported",
        {"request_uri": "https://evil.example/r"},
        {"request_uri": ""},  # a parameter without a value counts as omitted
    ),
    (
        "authorize.request_uri",
        "request_uri_not_supported",
        {"request_uri": "urn:ietf:params:oauth:request_uri:x"},
        {},
    ),
    ("authorize.acts_for", "unauthorized_client", {"client_id": "lonely-bot"}, {}),
    *(
        ("authorize.response_type", "unsupported_response_type", {"response_type": value}, {})
        for value in (None, "token", "id_token", "code token", "code id_token", "CODE", 'tok"en')
    ),
    *(
        (
            "authorize.response_mode",
            "invalid_request",
            {"response_mode": value},
            {"response_mode": "query"},
        )
        for value in ("fragment", "form_post", "jwt", "Query")
    ),
    ("authorize.pkce_missing", "invalid_request", {"code_challenge": None}, {}),
    (
        "authorize.pkce_missing",
        "invalid_request",
        {"code_challenge": None, "code_challenge_method": None},
        {},
    ),
    *(
        ("authorize.pkce_method", "invalid_request", wrong, {})
        for wrong in (
            {"code_challenge_method": None},  # means plain (RFC 7636 §4.3)
            {"code_challenge_method": "plain"},
            {"code_challenge_method": "plain", "code_challenge": VERIFIER},
            {"code_challenge_method": "s256"},
            {"code_challenge_method": "S512"},
            {"code_challenge": CHALLENGE[:-1]},
            {"code_challenge": CHALLENGE + "A"},
            {"code_challenge": CHALLENGE + "="},
            {"code_challenge": CHALLENGE[:-1] + "+"},
            {"code_challenge": CHALLENGE[:-1] + "ä"},
            {"code_challenge": "x"},
        )
    ),
    ("authorize.resource_count", "invalid_target", {"resource": None}, {}),
    ("authorize.resource_count", "invalid_target", {"resource": ""}, {}),
    ("authorize.resource_count", "invalid_target", {"resource": [ENDPOINT, ENDPOINT]}, {}),
    (
        "authorize.resource_count",
        "invalid_target",
        {"resource": [ENDPOINT, NOTES_ENDPOINT]},
        {"resource": [ENDPOINT]},
    ),
    *(
        ("authorize.resource", "invalid_target", {"resource": value}, {"resource": ENDPOINT})
        for value in (
            CRM_URL,  # a target is for gateways, by exchange
            CRM_AUDIENCE,
            f"{HTTPS_ISSUER}/control/v1",
            ADMIN,
            HTTPS_ISSUER,
            NOTES_ENDPOINT,  # an endpoint, but of a server outside Agent.tools
            f"{ENDPOINT}/",
            f"{ENDPOINT}?",
            f"{ENDPOINT}#x",
            ENDPOINT.upper(),
            ENDPOINT.replace("crm", "CRM"),
            ENDPOINT.replace("crm", "%63rm"),
            ENDPOINT.replace("127.0.0.1", "localhost"),
            ENDPOINT.replace("/crm/", "/../crm/"),
            "http://127.0.0.1:8701",
            "crm",
            "*",
            "https://unknown.example/mcp",
            "ä",
        )
    ),
    (
        "authorize.resource",
        "invalid_target",
        {
            "client_id": "web-portal",  # it can prove no workload, so no token could name its agent
            "redirect_uri": "https://app.example.com/cb",
        },
        {"client_id": "web-bot", "redirect_uri": "https://app.example.com/cb?tenant=1"},
    ),
    *(
        ("authorize.resource", "invalid_target", cli_parameters(HTTPS_ISSUER, **wrong), right)
        for wrong, right in (
            # A person directly never gets a gateway audience.
            ({"resource": ENDPOINT}, cli_parameters(HTTPS_ISSUER)),
            ({"resource": f"{ADMIN}/"}, cli_parameters(HTTPS_ISSUER)),
            ({"resource": f"{HTTPS_ISSUER}/control/v1"}, cli_parameters(HTTPS_ISSUER)),
            ({"resource": CRM_URL}, cli_parameters(HTTPS_ISSUER)),
        )
    ),
    *(
        ("authorize.scope", "invalid_scope", {"scope": wrong}, {"scope": right})
        for wrong, right in (
            ("mcp:tools admin", "mcp:tools openid"),
            ("mcp:discover", "mcp:tools"),
            ("MCP:TOOLS", "mcp:tools"),
            ("openid", "openid mcp:tools"),  # the token would lack the scope its gateway asks for
            ("mcp:tools  openid", ""),
            ("mcp:tools profile", "mcp:tools offline_access"),
            ('mcp:tools "', None),
            ("mcp:tools ä", None),
        )
    ),
    (
        "authorize.scope",
        "invalid_scope",
        cli_parameters(HTTPS_ISSUER, scope="openid mcp:tools"),
        cli_parameters(HTTPS_ISSUER, scope="openid"),
    ),
    *(
        (
            "authorize.details",
            "invalid_authorization_details",
            {"authorization_details": wrong},
            {"authorization_details": details(of_crm("get_account"))},
        )
        for wrong in (
            "{",
            "null",
            "[]",
            "{}",
            '"x"',
            "[1]",
            details({"type": "mcp_tool"}),
            details(of_crm()),
            details(of_crm("get_*", actions=None)),
            details(of_crm("get_*", actions=["call", "list"])),
            details(of_crm("g*t_account")),
            details(of_crm("get_*", unknown=1)),
            details(of_crm("get_*", type="payment_initiation")),
            details(of_crm("get_*", type="mcp_discovery")),
            details(of_crm("get_*", server="notes")),
            details(of_crm("get_*"), of_crm("search", server="notes")),
            details(of_crm(*["get_*"] * (MAXIMUM_DETAIL_TOOLS + 1))),
            "[" * 5000,
            (
                '[{"type":"mcp_tool","type":"mcp_tool","server":"crm","tools":["get_*"],'
                '"actions":["call"]}]'
            ),
        )
    ),
    (
        "authorize.details",
        "invalid_authorization_details",
        cli_parameters(HTTPS_ISSUER, authorization_details=details(of_crm("get_*"))),
        cli_parameters(HTTPS_ISSUER),
    ),
    *(
        (
            "authorize.no_tools",
            "invalid_authorization_details",
            {"authorization_details": details(of_crm(*wrong))},
            {"authorization_details": details(of_crm(*wrong, "get_account"))},
        )
        for wrong in (
            ("delete_account",),  # the server has it, the agent may not use it
            ("list_*",),
            ("get_other",),  # the agent might, but the catalogue has no such tool
            ("GET_ACCOUNT",),
        )
    ),
    *(
        (
            "authorize.dpop_jkt",
            "invalid_request",
            {"dpop_jkt": wrong},
            {"dpop_jkt": str(KEY)},
        )
        for wrong in ("x", KEY[:-1], KEY + "A", KEY[:-1] + "=", KEY[:-1] + "ä")
    ),
    (
        "authorize.nonce",
        "invalid_request",
        {"nonce": "n" * (MAXIMUM_NONCE + 1)},
        {"nonce": "n" * MAXIMUM_NONCE},
    ),
    *(
        ("authorize.prompt", "invalid_request", {"prompt": wrong}, {"prompt": right})
        for wrong, right in (
            ("none login", "login"),
            ("none consent", "consent"),
            ("create", "login consent"),
            ("LOGIN", "select_account"),
        )
    ),
    *(
        ("authorize.max_age", "invalid_request", {"max_age": wrong}, {"max_age": right})
        for wrong, right in (
            ("-1", "0"),
            ("1.5", "1"),
            ("soon", "3600"),
            ("1e3", "999999999"),
            ("1234567890", None),
            ("１", None),  # noqa: RUF001 - a full-width digit
        )
    ),
]

# Rows that need another snapshot or blocks, or are told to the person; proved further down and in
# test_front_redirect_uri.
ELSEWHERE = {
    "authorize.client",
    "authorize.redirect_uri",
    "authorize.grant_type",
    "authorize.blocked",
}


@pytest.mark.requirement("attack-10")
@pytest.mark.requirement("attack-16")
@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(("rule", "code", "wrong", "right"), REFUSED)
def test_authorize_wrong_request_is_refused_by_its_rule_and_the_right_one_is_not(
    rule: str, code: str, wrong: dict[str, Any], right: dict[str, Any]
) -> None:
    refused = judge(**wrong)
    assert isinstance(refused, Refused)
    assert (refused.refusal.rule, refused.refusal.code) == (rule, code)
    assert refused.redirect_uri == request_parameters(**wrong)["redirect_uri"]
    accepted(**right)


@pytest.mark.parametrize("code", sorted({code for _, code, _, _ in REFUSED}))
def test_authorize_refusal_reaches_client_and_audit_over_http(half: FrontHalf, code: str) -> None:
    rule, _, wrong, right = next(row for row in REFUSED if row[1] == code)
    answer = half.browser().authorize(**wrong)
    said = answer_of(answer)
    assert (said["error"], said["iss"]) == (code, half.issuer)
    assert said["error_description"].isascii()
    (event,) = half.spool.events
    assert (event.type, event.outcome) == (EventType.AUTHORIZE_REFUSED, Outcome.DENIED)
    assert (event.reasons, event.error_code) == ((rule,), code)
    assert event.client_id == wrong.get("client_id", "support-bot")
    assert event.request_path == "/oauth/authorize"
    half.spool.events.clear()
    assert is_login(half.browser().authorize(**right))
    assert half.spool.events == []


def test_authorize_every_row_of_the_table_is_proved_here() -> None:
    proved = {rule for rule, _, _, _ in REFUSED} | ELSEWHERE
    assert {check.rule for check in CHECKS} == proved
    assert len({check.rule for check in CHECKS}) == len(CHECKS)


@pytest.mark.requirement("attack-8")
def test_authorize_table_tells_only_the_person_until_the_redirect_uri_is_proved() -> None:
    told = [check.tell for check in CHECKS]
    proved = [check.rule for check in CHECKS].index("authorize.redirect_uri")
    assert set(told[: proved + 1]) == {Tell.PERSON}
    assert set(told[proved + 1 :]) == {Tell.CLIENT}


def test_authorize_client_without_the_grant_is_refused() -> None:
    snapshot = sample_snapshot(HTTPS_ISSUER)
    record = msgspec.structs.replace(
        snapshot.clients["support-bot"], grant_types=("client_credentials",)
    )
    without = msgspec.structs.replace(snapshot, clients=snapshot.clients | {"support-bot": record})
    refused = judge(without)
    assert isinstance(refused, Refused)
    assert (refused.refusal.rule, refused.refusal.code) == (
        "authorize.grant_type",
        "unauthorized_client",
    )
    accepted(snapshot=snapshot)


@pytest.mark.parametrize("client_id", ["gateway:demo", "web-portal"])
def test_authorize_gateway_or_declared_client_gets_no_endpoint(client_id: str) -> None:
    snapshot = sample_snapshot(HTTPS_ISSUER)
    record = msgspec.structs.replace(
        snapshot.clients[client_id], redirect_uris=("https://x.example/cb",)
    )
    changed = msgspec.structs.replace(snapshot, clients=snapshot.clients | {client_id: record})
    refused = judge(changed, client_id=client_id, redirect_uri="https://x.example/cb")
    assert isinstance(refused, Refused)
    assert refused.refusal.code in {"unauthorized_client", "invalid_target"}


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.CLIENT, "support-bot"),
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.AGENT_GROUP, "support-agents"),
    ],
)
def test_authorize_blocked_client_agent_or_class_is_refused_until_restored(
    half: FrontHalf, kind: BlockKind, subject_id: str
) -> None:
    half.block(kind, subject_id)
    assert answer_of(half.browser().authorize())["error"] == "access_denied"
    assert half.spool.events[-1].reasons == ("authorize.blocked",)
    half.restore(kind, subject_id)
    half.clock.now += 2
    assert is_login(half.browser().authorize())


def test_authorize_block_of_another_agent_changes_nothing(half: FrontHalf) -> None:
    half.block(BlockKind.AGENT, "web-bot")
    assert is_login(half.browser().authorize())

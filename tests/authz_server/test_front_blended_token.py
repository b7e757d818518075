"""What a token for a code says: person, agent, server, key, and nothing a request added."""

from typing import Any

import msgspec
import pytest

from authz_server.issuing.id_token import half_hash, id_token_claims
from authz_server.requested_access import SCOPE_OPENID
from authz_server.token_request import IssuancePlan
from registry.blocks import BlockKind, Subject
from tests.authz_server.front_half import (
    ENDPOINT,
    ISSUER,
    KEY,
    NOW,
    FrontHalf,
    answer_of,
    cli_parameters,
    evidence,
    is_consent,
    is_login,
    server,
    tool,
)

DAY = 86_400


def plan_for(
    half: FrontHalf, *, redeem: dict[str, Any] | None = None, **changes: Any
) -> IssuancePlan:
    """A whole journey from /authorize to the plan of a token."""
    plan = half.redeem(half.browser().get_code(**changes), **(redeem or {}))
    assert isinstance(plan, IssuancePlan), plan
    return plan


def admin_plan(half: FrontHalf, **changes: Any) -> IssuancePlan:
    as_cli = {"client_id": "countersign-cli", "method": "none", "evidence": None}
    return plan_for(half, redeem=as_cli, **cli_parameters(half.issuer, **changes))


def wire(plan: IssuancePlan) -> dict[str, Any]:
    claims: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan.claims))
    return claims


def change_agent(half: FrontHalf, **changes: Any) -> None:
    snapshot = half.live.snapshot
    record = msgspec.structs.replace(snapshot.agents["support-bot"], **changes)
    half.live.snapshot = msgspec.structs.replace(
        snapshot, agents=snapshot.agents | {"support-bot": record}
    )


def change_attributes(half: FrontHalf, *person_attributes: str) -> None:
    snapshot = half.live.snapshot
    crm = msgspec.structs.replace(snapshot.servers["crm"], person_attributes=person_attributes)
    half.live.snapshot = msgspec.structs.replace(snapshot, servers=snapshot.servers | {"crm": crm})


@pytest.mark.requirement("C24")
@pytest.mark.requirement("attack-17")
def test_blended_token_names_person_and_agent_as_designed(half: FrontHalf) -> None:
    claims = wire(plan_for(half))
    minted = {name: claims.pop(name) for name in ("jti", "sub", "sid", "gid", "txn", "inv")}
    for name, prefix in (
        ("jti", "tok_"),
        ("sub", "usr_"),
        ("sid", "ses_"),
        ("gid", "grt_"),
        ("txn", "txn_"),
        ("inv", "inv_"),
    ):
        assert minted[name].startswith(prefix)
    assert claims == {
        "iss": half.issuer,
        "aud": ENDPOINT,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 900,
        "sub_profile": "user",
        "client_id": "support-bot",
        "scope": "mcp:tools",
        "act": {
            "iss": f"{ISSUER}/attest/unix",
            "sub": "unix:host/1000/agent.service",
            "sub_profile": "ai_agent",
            "agent": "support-bot",
        },
        "cnf": {"jkt": KEY},
        "authorization_details": [
            {
                "type": "mcp_tool",
                "server": "crm",
                "tools": ["get_account", "refund"],
                "actions": ["call"],
            }
        ],
        "attn": {
            "provider": "unix",
            "method": "unix_process",
            "level": 1,
            "iat": NOW,
            "exp": NOW + 900,
            "evidence": "sha-256:abc",
        },
        "uctx": {"groups": ["local/support", "local/staff"], "ticket": "T-4711"},
    }


@pytest.mark.requirement("C1")
def test_blended_token_of_each_consent_is_one_run_of_one_person(half: FrontHalf) -> None:
    browser = half.browser()
    first, second = browser.get_code(), browser.get_code()
    plans = [half.redeem(code) for code in (first, second)]
    one, two = (plan.claims for plan in plans if isinstance(plan, IssuancePlan))
    assert (one.sub, one.sid, one.gid) == (two.sub, two.sid, two.gid)
    assert one.inv != two.inv
    assert one.txn != two.txn
    assert one.jti != two.jti
    other = plan_for(half).claims  # another login of the same person
    assert other.sub == one.sub
    assert other.sid != one.sid


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("invocation", "evidence_seconds", "lifetime"),
    [(900, 900, 900), (86_400, 86_400, 900), (60, 900, 60), (900, 30, 30), (45, 50, 45)],
)
def test_blended_token_lives_no_longer_than_product_run_and_evidence(
    half: FrontHalf, invocation: int, evidence_seconds: int, lifetime: int
) -> None:
    change_agent(half, invocation_seconds=invocation)
    attested = evidence(expires_at=NOW + evidence_seconds)
    claims = plan_for(half, redeem={"evidence": attested}).claims
    assert claims.exp - claims.iat == lifetime


@pytest.mark.requirement("attack-16")
def test_blended_token_ends_with_the_session(half: FrontHalf) -> None:
    browser = half.browser()
    browser.get_code()
    half.clock.now += 28_800 - 100
    attested = evidence(expires_at=NOW + 10 * DAY)
    plan = half.redeem(browser.get_code(), evidence=attested)
    assert isinstance(plan, IssuancePlan)
    assert plan.claims.exp == NOW + 28_800


@pytest.mark.requirement("attack-16")
def test_blended_token_ends_with_the_consent(half: FrontHalf) -> None:
    change_agent(half, consent_days=1)
    half.browser().get_code()
    half.clock.now += DAY - 100
    browser = half.browser()
    page = browser.authorize()
    assert is_login(page)
    answer = browser.log_in(page)
    assert not is_consent(answer)
    plan = half.redeem(answer_of(answer)["code"], evidence=evidence(expires_at=NOW + 10 * DAY))
    assert isinstance(plan, IssuancePlan)
    assert plan.claims.exp == NOW + DAY


def test_blended_token_code_of_a_consent_that_ended_meanwhile_is_refused(half: FrontHalf) -> None:
    change_agent(half, consent_days=1)
    half.browser().get_code()
    half.clock.now += DAY - 10
    browser = half.browser()
    code = answer_of(browser.log_in(browser.authorize()))["code"]
    half.clock.now += 10
    refused = half.redeem(code)
    assert not isinstance(refused, IssuancePlan)
    assert refused.rule == "code.expired"


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ((), None),
        (("name",), {"name": "alice"}),
        (("groups",), {"groups": ["local/support", "local/staff"]}),
        (("acr", "auth_time"), {"acr": "pwd", "auth_time": NOW}),
        (("purpose",), None),  # declared, but the provider says nothing of it
        (("purpose", "ticket"), {"ticket": "T-4711"}),
    ],
)
def test_blended_token_tells_of_the_person_only_what_the_server_declared(
    half: FrontHalf, declared: tuple[str, ...], expected: dict[str, Any] | None
) -> None:
    change_attributes(half, *declared)
    assert wire(plan_for(half)).get("uctx") == expected


@pytest.mark.requirement("attack-17")
def test_blended_token_takes_no_claim_from_a_request(half: FrontHalf) -> None:
    added = {
        "act": '{"sub":"web-bot"}',
        "actor_token": "x",
        "requested_actor": "web-bot",
        "sub": "usr_root",
        "aud": "https://crm.example.com",
        "exp": "9999999999",
        "claims": '{"id_token":{}}',
        "iss": "https://evil.example",
        "may_act": "{}",
    }
    plain, forged = (
        wire(plan_for(half)),
        wire(plan_for(half, redeem={"parameters": dict(added)}, **added)),
    )
    for claims in (plain, forged):
        for name in ("jti", "sid", "gid", "txn", "inv"):
            claims.pop(name)
    assert plain == forged


@pytest.mark.requirement("attack-17")
def test_blended_token_actor_is_the_agent_as_attested_at_redemption(half: FrontHalf) -> None:
    attested = evidence(subject="unix:other/1000/-", digest="sha-256:new", level=2)
    claims = plan_for(half, redeem={"evidence": attested}).claims
    assert claims.act is not None
    assert (claims.act.sub, claims.act.agent, claims.act.act) == (
        "unix:other/1000/-",
        "support-bot",
        None,
    )
    assert claims.attn is not None
    assert (claims.attn.level, claims.attn.evidence) == (2, "sha-256:new")


@pytest.mark.requirement("C24")
def test_blended_token_of_the_command_line_is_the_person_directly(half: FrontHalf) -> None:
    plan = admin_plan(half)
    claims = wire(plan)
    for name in ("jti", "sub", "sid", "txn"):
        claims.pop(name)
    assert claims == {
        "iss": half.issuer,
        "aud": f"{half.issuer}/admin",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 900,
        "sub_profile": "user",
        "client_id": "countersign-cli",
        "cnf": {"jkt": KEY},
    }
    assert (plan.id_token, plan.target_service) == (None, None)


def test_blended_token_depends_on_everything_that_can_be_cut_off(half: FrontHalf) -> None:
    browser = half.browser()
    login = browser.authorize()
    half.clock.now += 20
    page = browser.log_in(login)
    half.clock.now += 20
    code = answer_of(browser.allow(page))["code"]
    half.clock.now += 20
    plan = half.redeem(code)
    assert isinstance(plan, IssuancePlan)
    claims = plan.claims
    of_code = {
        Subject(BlockKind.SUBJECT, claims.sub),
        Subject(BlockKind.CLIENT, "support-bot"),
        Subject(BlockKind.TOKEN, claims.jti),
        Subject(BlockKind.AGENT, "support-bot"),
        Subject(BlockKind.AGENT_GROUP, "support-agents"),
        Subject(BlockKind.SESSION, claims.sid or ""),
        Subject(BlockKind.CONSENT, claims.gid or ""),
        Subject(BlockKind.INVOCATION, claims.inv or ""),
    }
    of_session = {
        Subject(kind, subject_id or "")
        for kind, subject_id in (
            (BlockKind.SUBJECT, claims.sub),
            (BlockKind.CLAIMS, claims.sub),
            (BlockKind.SESSION, claims.sid),
        )
    }
    # Each with the time it began: the request before the login, and that before the code.
    assert set(plan.depends_on) == {(subject, NOW) for subject in of_code} | {
        (subject, NOW + 20) for subject in of_session
    }


@pytest.mark.parametrize("scope", ["mcp:tools", None])
def test_id_token_is_not_made_without_openid(half: FrontHalf, scope: str | None) -> None:
    assert plan_for(half, scope=scope).id_token is None


@pytest.mark.parametrize("nonce", ["n-0S6_WzA2Mj", None])
def test_id_token_says_who_logged_in_at_which_client_and_when(
    half: FrontHalf, nonce: str | None
) -> None:
    browser = half.browser()
    page = browser.log_in(browser.authorize(scope=f"mcp:tools {SCOPE_OPENID}", nonce=nonce))
    half.clock.now += 30
    plan = half.redeem(answer_of(browser.allow(page))["code"])
    assert isinstance(plan, IssuancePlan)
    assert plan.id_token is not None
    claims = plan.claims
    said = id_token_claims(plan.id_token, claims=claims, access_token="a.b.c")
    expected = {
        "iss": half.issuer,
        "sub": claims.sub,
        "aud": "support-bot",
        "iat": NOW + 30,
        "exp": claims.exp,
        "auth_time": NOW,
        "acr": "pwd",
        "at_hash": half_hash("a.b.c"),
        "sid": claims.sid,
    }
    assert said == (expected if nonce is None else expected | {"nonce": nonce})


def test_id_token_of_the_command_line_is_made_with_openid(half: FrontHalf) -> None:
    assert admin_plan(half, scope="openid").id_token is not None


def test_id_token_access_token_hash_is_the_left_half_of_sha_256() -> None:
    # OpenID Connect Core §3.1.3.6; the value is computed independently with openssl.
    assert half_hash("abc") == "ungWv48Bz-pBQUDeXa4iIw"


def test_blended_token_for_another_server_names_that_server(half: FrontHalf) -> None:
    snapshot = half.live.snapshot
    notes = server("notes", tool("search", read_only=True), person_attributes=())
    half.live.snapshot = msgspec.structs.replace(
        snapshot,
        servers=snapshot.servers | {"notes": notes},
        agents=snapshot.agents
        | {
            "support-bot": msgspec.structs.replace(
                snapshot.agents["support-bot"],
                entry=msgspec.structs.replace(
                    snapshot.agents["support-bot"].entry, tools=("notes/*",)
                ),
            )
        },
    )
    endpoint = ENDPOINT.replace("crm", "notes")
    plan = plan_for(half, resource=endpoint)
    assert (plan.claims.aud, plan.target_service) == (endpoint, "notes")
    (detail,) = plan.claims.authorization_details
    assert (detail.server, detail.tools) == ("notes", ("search",))

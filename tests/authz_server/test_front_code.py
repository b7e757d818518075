"""Redeeming a code: once, by the client, key, agent and request it was made for, in time."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_log.event import EventType, Outcome
from authz_server.grants.authorization_code import grant
from authz_server.revoked import what_revokes
from authz_server.store.codes import CODE_LIFETIME_SECONDS, KEPT_AFTER_USE_SECONDS
from authz_server.store.digests import digest_of
from authz_server.token_request import IssuancePlan
from registry.blocks import BlockKind
from registry.snapshot import ProviderRecord
from tests.authz_server.cuts import recorded_in
from tests.authz_server.front_half import (
    CRM_URL,
    ENDPOINT,
    KEY,
    NOTES_ENDPOINT,
    NOW,
    OTHER_KEY,
    REDIRECT_URI,
    VERIFIER,
    FrontHalf,
    agent,
    answer_of,
    cli_parameters,
    evidence,
    server,
    tool,
    used_up,
)
from token_exchange.claims import JwkThumbprint, Refusal


def code_of(half: FrontHalf, **changes: Any) -> str:
    return half.browser().get_code(**changes)


def refused(half: FrontHalf, code: str, **changes: Any) -> tuple[str, str]:
    """Error code and rule of a refused redemption."""
    refusal = half.redeem(code, **changes)
    assert isinstance(refusal, Refusal), refusal
    assert code not in f"{refusal.description} {refusal.detail}"
    return refusal.code, refusal.rule


def redeemed(half: FrontHalf, code: str, **changes: Any) -> IssuancePlan:
    plan = half.redeem(code, **changes)
    assert isinstance(plan, IssuancePlan), plan
    return plan


def redeem_for_admin(half: FrontHalf, code: str, **changes: Any) -> IssuancePlan | Refusal:
    fields: dict[str, Any] = {
        "client_id": "countersign-cli",
        "method": "none",
        "evidence": None,
    }
    return half.redeem(code, **(fields | changes))


def is_cut_off(half: FrontHalf, plan: IssuancePlan) -> bool:
    """What the shared phase of the token endpoint asks before anything is issued."""
    return any(
        what_revokes(half.live.blocks, (subject,), made_at) is not None
        for subject, made_at in plan.depends_on
    )


@pytest.mark.requirement("attack-9")
def test_code_used_twice_is_refused_and_what_it_yielded_is_revoked(half: FrontHalf) -> None:
    code = code_of(half)
    plan = redeemed(half, code)
    invocation = plan.claims.inv or ""
    assert not half.is_blocked(BlockKind.INVOCATION, invocation)
    assert refused(half, code) == ("invalid_grant", "code.replayed")
    assert half.is_blocked(BlockKind.INVOCATION, invocation)
    (event,) = half.cuts(EventType.BLOCKED)
    assert (event.outcome, event.object_ref) == (Outcome.REVOKED, f"inv/{invocation}")
    assert (event.reasons, event.invocation, event.agent) == (
        ("code.replayed",),
        invocation,
        "support-bot",
    )
    half.live.blocks = half.revocations.state()
    assert is_cut_off(half, plan)  # were it planned before and issued after
    assert refused(half, code) == ("invalid_grant", "code.replayed")
    other = redeemed(half, code_of(half))
    assert not half.is_blocked(BlockKind.INVOCATION, other.claims.inv or "")


@pytest.mark.requirement("attack-9")
def test_code_used_many_times_revokes_once_and_leaves_what_an_operator_said(
    half: FrontHalf,
) -> None:
    code, killed = code_of(half), code_of(half)
    redeemed(half, code)
    before = half.revocations.sequence()
    for _ in range(5):
        assert refused(half, code) == ("invalid_grant", "code.replayed")
    assert half.revocations.sequence() == before + 1
    assert len(half.cuts(EventType.BLOCKED)) == 1

    invocation = redeemed(half, killed).claims.inv or ""
    kill = half.revocations.block(
        BlockKind.INVOCATION, invocation, reason="stolen", author="usr_olga"
    )
    said = asyncio.run(kill)
    assert refused(half, killed) == ("invalid_grant", "code.replayed")
    assert half.revocations.listed()[1][0] == said  # of the two runs that are cut off


@pytest.mark.requirement("attack-9")
def test_code_of_the_command_line_used_twice_revokes_its_one_token(half: FrontHalf) -> None:
    code = code_of(half, **cli_parameters(half.issuer))
    plan = redeem_for_admin(half, code)
    assert isinstance(plan, IssuancePlan)
    second = redeem_for_admin(half, code)
    assert isinstance(second, Refusal)
    assert second.rule == "code.replayed"
    assert half.is_blocked(BlockKind.TOKEN, plan.claims.jti)


@pytest.mark.requirement("attack-9")
def test_code_used_twenty_times_at_once_succeeds_once(half: FrontHalf) -> None:
    code = code_of(half)
    request = half.token_request(code)

    async def all_at_once() -> list[IssuancePlan | Refusal]:
        return await asyncio.gather(*(used_up(grant(request, half.parts)) for _ in range(20)))

    answers = asyncio.run(all_at_once())
    (plan,) = [answer for answer in answers if isinstance(answer, IssuancePlan)]
    rules = {answer.rule for answer in answers if isinstance(answer, Refusal)}
    assert rules == {"code.replayed"}
    assert half.is_blocked(BlockKind.INVOCATION, plan.claims.inv or "")


@pytest.mark.requirement("attack-9")
@pytest.mark.requirement("attack-10")
@pytest.mark.requirement("trap-restore-revives-login")
def test_code_of_a_request_from_before_a_kill_is_cut_off_though_it_is_younger(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    page = browser.log_in(browser.authorize())
    half.clock.now += 100
    plan = redeemed(half, answer_of(browser.allow(page))["code"])
    assert not is_cut_off(half, plan)
    half.clock.now = NOW + 50  # the kill came between request and code
    half.block(BlockKind.AGENT, "support-bot")
    half.restore(BlockKind.AGENT, "support-bot")
    assert is_cut_off(half, plan)


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"client_id": "web-bot"}, ("invalid_grant", "code.invalid_grant")),
        ({"client_id": "countersign-cli"}, ("invalid_grant", "code.invalid_grant")),
        ({"parameters": {"redirect_uri": None}}, ("invalid_grant", "code.invalid_grant")),
        (
            {"parameters": {"redirect_uri": "http://127.0.0.1/callback"}},
            ("invalid_grant", "code.invalid_grant"),
        ),
        (
            {"parameters": {"redirect_uri": f"{REDIRECT_URI}/"}},
            ("invalid_grant", "code.invalid_grant"),
        ),
        ({"parameters": {"code_verifier": None}}, ("invalid_request", "code.invalid_request")),
        ({"parameters": {"code_verifier": ""}}, ("invalid_request", "code.invalid_request")),
        (
            {"parameters": {"code_verifier": VERIFIER[:42]}},
            ("invalid_request", "code.invalid_request"),
        ),
        (
            {"parameters": {"code_verifier": "v" * 129}},
            ("invalid_request", "code.invalid_request"),
        ),
        (
            {"parameters": {"code_verifier": VERIFIER + "ä"}},
            ("invalid_request", "code.invalid_request"),
        ),
        (
            {"parameters": {"code_verifier": VERIFIER + '"'}},
            ("invalid_request", "code.invalid_request"),
        ),
        (
            {"parameters": {"code_verifier": VERIFIER + "x"}},
            ("invalid_grant", "code.invalid_grant"),
        ),
        (
            {"parameters": {"code_verifier": VERIFIER.upper()}},
            ("invalid_grant", "code.invalid_grant"),
        ),
        ({"resource": (NOTES_ENDPOINT,)}, ("invalid_target", "code.resource")),
        ({"resource": (CRM_URL,)}, ("invalid_target", "code.resource")),
        ({"resource": (ENDPOINT, ENDPOINT)}, ("invalid_target", "code.resource")),
        ({"resource": (f"{ENDPOINT}/",)}, ("invalid_target", "code.resource")),
        ({"proof_thumbprint": None}, ("invalid_dpop_proof", "code.proof_missing")),
        ({"proof_thumbprint": OTHER_KEY}, ("invalid_dpop_proof", "code.attested_key")),
        (
            {"evidence": evidence(key_thumbprint=OTHER_KEY)},
            ("invalid_dpop_proof", "code.attested_key"),
        ),
        ({"evidence": None}, ("invalid_grant", "code.agent")),
    ],
)
def test_code_wrong_request_is_refused_and_leaves_it_to_the_right_one(
    half: FrontHalf, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    code = code_of(half)
    assert refused(half, code, **changes) == expected
    assert half.cuts(EventType.BLOCKED) == []
    redeemed(half, code)


@pytest.mark.requirement("attack-9")
@pytest.mark.parametrize("code", ["", "x", "A" * 43, "ä" * 43, "'; --"])
def test_code_that_was_never_issued_is_refused(half: FrontHalf, code: str) -> None:
    code_of(half)
    refusal = half.redeem(code)
    assert isinstance(refusal, Refusal)
    assert refusal.code in {"invalid_grant", "invalid_request"}


@pytest.mark.requirement("attack-9")
def test_code_missing_is_a_malformed_request(half: FrontHalf) -> None:
    code = code_of(half)
    assert refused(half, code, parameters={"code": None})[0] == "invalid_request"
    redeemed(half, code)


@pytest.mark.requirement("attack-9")
def test_code_wrong_request_for_a_used_one_revokes_nothing(half: FrontHalf) -> None:
    """Who has only the code, not the verifier, cannot cut off whoever used it."""
    code = code_of(half)
    redeemed(half, code)
    assert refused(half, code, parameters={"code_verifier": VERIFIER + "x"})[0] == "invalid_grant"
    assert refused(half, code, client_id="web-bot")[0] == "invalid_grant"
    assert half.cuts(EventType.BLOCKED) == []


@pytest.mark.requirement("attack-9")
@pytest.mark.parametrize(("seconds", "works"), [(0, True), (59, True), (60, False), (61, False)])
def test_code_lives_sixty_seconds(half: FrontHalf, seconds: int, works: bool) -> None:
    assert CODE_LIFETIME_SECONDS == 60
    code = code_of(half)
    half.clock.now += seconds
    if works:
        redeemed(half, code)
    else:
        assert refused(half, code) == ("invalid_grant", "code.expired")


@pytest.mark.requirement("attack-9")
def test_code_used_is_remembered_longer_than_any_token_of_it_lives(half: FrontHalf) -> None:
    code = code_of(half)
    redeemed(half, code)
    half.clock.now += KEPT_AFTER_USE_SECONDS
    code_of(half)  # saving one more drops what nobody can replay
    assert refused(half, code) == ("invalid_grant", "code.replayed")
    half.clock.now += CODE_LIFETIME_SECONDS + 1
    code_of(half)
    assert refused(half, code)[0] == "invalid_grant"


@pytest.mark.requirement("attack-15")
def test_code_bound_to_a_key_is_for_that_key_only(half: FrontHalf) -> None:
    code = code_of(half, dpop_jkt=str(OTHER_KEY))
    assert refused(half, code) == ("invalid_dpop_proof", "code.dpop_jkt")
    attested = evidence(key_thumbprint=OTHER_KEY)
    plan = redeemed(half, code, proof_thumbprint=OTHER_KEY, evidence=attested)
    assert plan.claims.cnf is not None
    assert plan.claims.cnf.jkt == OTHER_KEY


def test_code_proved_without_a_key_in_the_evidence_is_bound_to_the_proofs_key(
    half: FrontHalf,
) -> None:
    plan = redeemed(
        half,
        code_of(half),
        evidence=evidence(key_thumbprint=None),
        proof_thumbprint=JwkThumbprint(OTHER_KEY),
    )
    assert plan.claims.cnf is not None
    assert plan.claims.cnf.jkt == OTHER_KEY


@pytest.mark.requirement("attack-17")
def test_code_client_that_is_now_another_agent_gets_nothing(half: FrontHalf) -> None:
    code = code_of(half)
    before = half.live.snapshot
    moved = msgspec.structs.replace(before.clients["support-bot"], agent="web-bot")
    half.live.snapshot = msgspec.structs.replace(
        before, clients=before.clients | {"support-bot": moved}
    )
    assert refused(half, code) == ("invalid_grant", "code.agent")
    half.live.snapshot = before
    redeemed(half, code)


def test_code_for_what_is_no_longer_allowed_gets_nothing(half: FrontHalf) -> None:
    code = code_of(half)
    before = half.live.snapshot
    crm = before.servers["crm"]
    other = ProviderRecord("local", "oidc", {"issuer": "https://idp.example.net"})
    support = before.agents["support-bot"]
    changed: dict[str, dict[str, Any]] = {
        "code.provider_gone": {"identity_providers": {}},
        "code.no_longer_allowed": {
            "agents": before.agents
            | {"support-bot": msgspec.structs.replace(support, acts_for_groups=("local/other",))}
        },
        "code.agent": {"agents": {}},
        "code.no_tools": {
            "servers": before.servers | {"crm": msgspec.structs.replace(crm, tools=())}
        },
    }
    for rule, fields in changed.items():
        half.live.snapshot = msgspec.structs.replace(before, **fields)
        assert refused(half, code) == ("invalid_grant", rule)
    half.live.snapshot = msgspec.structs.replace(before, identity_providers={"local": other})
    assert refused(half, code) == ("invalid_grant", "code.provider_gone")
    half.live.snapshot = msgspec.structs.replace(before, gateways={})
    assert refused(half, code) == ("invalid_grant", "code.no_longer_allowed")
    half.live.snapshot = before
    redeemed(half, code)


@pytest.mark.requirement("attack-16")
def test_code_for_tools_that_became_fewer_gives_the_fewer(half: FrontHalf) -> None:
    code = code_of(half)
    half.live.snapshot = msgspec.structs.replace(
        half.live.snapshot,
        agents=half.live.snapshot.agents | {"support-bot": agent("support-bot", "crm/refund")},
    )
    (detail,) = redeemed(half, code).claims.authorization_details
    assert detail.tools == ("refund",)


@pytest.mark.requirement("attack-16")
def test_code_never_gives_tools_that_came_later(half: FrontHalf) -> None:
    code = code_of(half)
    before = half.live.snapshot
    more = server("crm", *before.servers["crm"].tools, tool("get_salary"))
    half.live.snapshot = msgspec.structs.replace(
        before,
        agents=before.agents | {"support-bot": agent("support-bot", "*/*", "crm/*")},
        servers=before.servers | {"crm": more},
    )
    (detail,) = redeemed(half, code).claims.authorization_details
    assert detail.tools == ("get_account", "refund")


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    "kind", ["agent", "agent_group", "client_id", "sub", "sid", "gid", "claims"]
)
def test_code_from_before_a_kill_depends_on_what_was_killed(half: FrontHalf, kind: str) -> None:
    code = code_of(half)
    issued = half.cuts(EventType.CODE_ISSUED)[0]
    ids = {
        "agent": issued.agent,
        "agent_group": "support-agents",
        "client_id": issued.client_id,
        "sub": issued.user,
        "sid": issued.session,
        "gid": issued.consent,
        "claims": issued.user,
    }
    half.block(BlockKind(kind), ids[kind] or "")
    plan = redeemed(half, code)
    assert is_cut_off(half, plan)
    half.restore(BlockKind(kind), ids[kind] or "")
    assert is_cut_off(half, plan)  # the epoch stays


def test_code_of_a_session_from_before_an_epoch_is_cut_off_though_it_is_younger(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    page = browser.log_in(browser.authorize())
    half.clock.now += 100
    code = answer_of(browser.allow(page))["code"]
    issued = half.cuts(EventType.CODE_ISSUED)[0]
    plan = redeemed(half, code)
    assert not is_cut_off(half, plan)
    half.clock.now = NOW + 50  # the kill came between login and code
    half.block(BlockKind.SUBJECT, issued.user or "")
    half.restore(BlockKind.SUBJECT, issued.user or "")
    assert is_cut_off(half, plan)


@pytest.mark.requirement("attack-16")
@pytest.mark.parametrize("changes", [{"client_id": "support-bot"}, {"proof_thumbprint": None}])
def test_code_of_the_command_line_is_for_it_alone_and_bound(
    half: FrontHalf, changes: dict[str, Any]
) -> None:
    code = code_of(half, **cli_parameters(half.issuer))
    assert isinstance(redeem_for_admin(half, code, **changes), Refusal)
    assert isinstance(
        redeem_for_admin(half, code, resource=(f"{half.issuer}/admin",)), IssuancePlan
    )


def test_code_is_stored_as_a_digest_only(half: FrontHalf) -> None:
    code = code_of(half)
    assert asyncio.run(half.parts.codes.find(code)) is not None
    assert asyncio.run(half.parts.codes.find(digest_of(code))) is None
    content = b"".join(path.read_bytes() for path in _files_of(half))
    assert digest_of(code).encode() in content
    assert code.encode() not in content


def _files_of(half: FrontHalf) -> list[Path]:
    file = half.database.path
    return [path for path in file.parent.iterdir() if path.name.startswith(file.name)]


@pytest.mark.requirement("attack-26")
def test_code_never_appears_in_the_audit(half: FrontHalf) -> None:
    browser = half.browser()
    page = browser.authorize()
    code = browser.get_code()
    redeemed(half, code)
    refused(half, code)
    told = " ".join(map(str, (*half.spool.events, *recorded_in(half.database))))
    for secret in (code, VERIFIER, "correct horse", *browser.http.cookies.values()):
        assert secret not in told
    assert page.status_code == 200


def test_code_dpop_key_and_verifier_of_the_sample_fit(half: FrontHalf) -> None:
    plan = redeemed(half, code_of(half))
    assert plan.claims.cnf is not None
    assert plan.claims.cnf.jkt == KEY

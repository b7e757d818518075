"""Refresh tokens: the same access again, never more, until the first replay."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete

from audit_log.event import EventType, Outcome
from authz_server.grants.refresh_token import grant
from authz_server.revoked import what_revokes
from authz_server.store.consents import ConsentRow
from authz_server.store.digests import digest_of
from authz_server.store.sessions import SESSION_LIFETIME_SECONDS
from authz_server.token_request import IssuancePlan, TokenRequest
from database.errors import DatabaseBusyError
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from registry.blocks import BlockKind, Subject
from tests.authz_server.cuts import cuts_in, recorded_in
from tests.authz_server.front_half import (
    ENDPOINT,
    NOTES_ENDPOINT,
    NOW,
    OTHER_KEY,
    FrontHalf,
    evidence,
    used_up,
)
from tests.authz_server.front_requests import change_agent
from tests.authz_server.test_front_consent_outdated import CHANGES
from tests.busy_database import busy_after
from token_exchange.claims import JwkThumbprint, Refusal
from token_exchange.token_types import GRANT_REFRESH_TOKEN

OFFLINE = "mcp:tools offline_access"
GONE = LoginFailure(LoginFailureCode.ENDED, "The session has ended.", "account disabled")
UNREACHABLE = LoginFailure(LoginFailureCode.UNAVAILABLE, "It cannot be asked.", "timed out")


def first_plan(half: FrontHalf, scope: str = OFFLINE) -> IssuancePlan:
    plan = half.redeem(half.browser().get_code(scope=scope))
    assert isinstance(plan, IssuancePlan), plan
    return plan


def first_token(half: FrontHalf, scope: str = OFFLINE) -> str:
    return first_plan(half, scope).refresh_token or ""


def request_for(half: FrontHalf, token: str | None, **changes: Any) -> TokenRequest:
    more = {"refresh_token": token, **changes.pop("parameters", {})}
    parameters = {name: value for name, value in more.items() if value is not None}
    request = half.token_request("", grant_type=GRANT_REFRESH_TOKEN, **changes)
    fields = {name: getattr(request, name) for name in request.__dataclass_fields__}
    return TokenRequest(**(fields | {"parameters": parameters}))


def refresh(half: FrontHalf, token: str | None, **changes: Any) -> IssuancePlan | Refusal:
    return asyncio.run(used_up(grant(request_for(half, token, **changes), half.parts)))


def refreshed(half: FrontHalf, token: str, **changes: Any) -> IssuancePlan:
    plan = refresh(half, token, **changes)
    assert isinstance(plan, IssuancePlan), plan
    return plan


def refused(half: FrontHalf, token: str | None, **changes: Any) -> tuple[str, str]:
    refusal = refresh(half, token, **changes)
    assert isinstance(refusal, Refusal), refusal
    assert (token or "-") not in f"{refusal.description} {refusal.detail}"
    return refusal.code, refusal.rule


def is_cut_off(half: FrontHalf, plan: IssuancePlan) -> bool:
    return any(
        what_revokes(half.live.blocks, (subject,), made_at) is not None
        for subject, made_at in plan.depends_on
    )


@pytest.mark.requirement("RFC6749-6")
def test_refresh_gives_the_same_access_under_a_new_id_and_a_new_refresh_token(
    half: FrontHalf,
) -> None:
    first = first_plan(half)
    half.clock.now += 600
    second = refreshed(half, first.refresh_token or "", evidence=evidence(expires_at=NOW + 1500))
    changed = {
        name
        for name in first.claims.__struct_fields__
        if getattr(first.claims, name) != getattr(second.claims, name)
    }
    assert changed == {"jti", "iat", "nbf", "exp", "attn"}
    assert second.claims.inv == first.claims.inv is not None
    assert second.refresh_token not in (None, first.refresh_token)


@pytest.mark.requirement("RFC6749-6")
def test_refresh_token_is_given_only_to_who_asked_for_one(half: FrontHalf) -> None:
    assert first_plan(half, "mcp:tools").refresh_token is None
    plan = first_plan(half)
    assert plan.refresh_token is not None
    assert plan.claims.scope == "mcp:tools"  # the gateway has no use for the other


@pytest.mark.requirement("attack-9")
@pytest.mark.parametrize("writes", [0, 1])
def test_refresh_family_begins_in_the_write_that_uses_the_code(
    half: FrontHalf, writes: int
) -> None:
    """Were they two, the honest retry after the second was refused would be a replay."""
    code = half.browser().get_code(scope=OFFLINE)
    plan = None
    with busy_after(writes, half.database), suppress(DatabaseBusyError):
        plan = half.redeem(code)
    plan = plan or half.redeem(code)
    assert isinstance(plan, IssuancePlan), plan
    refreshed(half, plan.refresh_token or "")
    assert half.cuts(EventType.BLOCKED) == []


@pytest.mark.requirement("attack-14")
def test_refresh_token_used_twice_ends_the_family_and_the_run(half: FrontHalf) -> None:
    first = first_plan(half)
    used = first.refresh_token or ""
    second = refreshed(half, used)
    assert refused(half, used) == ("invalid_grant", "refresh.replayed")
    assert half.is_blocked(BlockKind.INVOCATION, first.claims.inv or "")
    (event,) = half.cuts(EventType.BLOCKED)
    assert (event.outcome, event.reasons) == (Outcome.REVOKED, ("refresh.replayed",))
    assert refused(half, second.refresh_token or "") == ("invalid_grant", "refresh.ended")
    assert refused(half, used) == ("invalid_grant", "refresh.replayed")
    assert len(half.cuts(EventType.BLOCKED)) == 1  # told once


@pytest.mark.requirement("attack-14")
def test_refresh_token_stolen_after_its_use_ends_the_family_whoever_presents_it(
    half: FrontHalf,
) -> None:
    used = first_token(half)
    second = refreshed(half, used)
    assert refused(half, used, client_id="web-bot", proof_thumbprint=OTHER_KEY)[1] == (
        "refresh.replayed"
    )
    assert refused(half, second.refresh_token or "")[1] == "refresh.ended"


@pytest.mark.requirement("attack-14")
def test_refresh_token_used_twenty_times_at_once_succeeds_at_most_once(half: FrontHalf) -> None:
    request = request_for(half, first_token(half))

    async def all_at_once() -> list[IssuancePlan | Refusal]:
        return await asyncio.gather(*(used_up(grant(request, half.parts)) for _ in range(20)))

    answers = asyncio.run(all_at_once())
    (plan,) = [answer for answer in answers if isinstance(answer, IssuancePlan)]
    assert refused(half, plan.refresh_token or "")[1] == "refresh.ended"


@pytest.mark.requirement("attack-14")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"client_id": "web-bot"}, ("invalid_grant", "refresh.client")),
        ({"proof_thumbprint": OTHER_KEY}, ("invalid_grant", "refresh.key")),
        ({"proof_thumbprint": None}, ("invalid_grant", "refresh.key")),
        ({"resource": (NOTES_ENDPOINT,)}, ("invalid_target", "refresh.resource")),
        ({"resource": (ENDPOINT, NOTES_ENDPOINT)}, ("invalid_target", "refresh.resource")),
        ({"parameters": {"scope": f"{OFFLINE} openid"}}, ("invalid_scope", "refresh.scope")),
        ({"parameters": {"scope": "admin"}}, ("invalid_scope", "refresh.scope")),
        ({"parameters": {"scope": "offline_access"}}, ("invalid_scope", "refresh.scope")),
        ({"parameters": {"scope": " "}}, ("invalid_scope", "refresh.scope")),
        ({"evidence": None}, ("invalid_grant", "refresh.agent")),
        (
            {"evidence": evidence(key_thumbprint=JwkThumbprint("x" * 43))},
            ("invalid_dpop_proof", "code.attested_key"),
        ),
    ],
)
def test_refresh_wrong_request_is_refused_and_leaves_it_to_the_right_one(
    half: FrontHalf, changes: dict[str, Any], expected: tuple[str, str]
) -> None:
    token = first_token(half)
    assert refused(half, token, **changes) == expected
    assert half.cuts(EventType.BLOCKED) == []
    assert refreshed(half, token, resource=(ENDPOINT,)).claims.aud == ENDPOINT


@pytest.mark.parametrize("token", ["", "x", "\x00", "é", "a" * 43])
def test_refresh_token_that_was_never_issued_is_refused(half: FrontHalf, token: str) -> None:
    first_token(half)
    assert refused(half, token) == ("invalid_grant", "refresh.unknown")


def test_refresh_token_missing_is_a_malformed_request(half: FrontHalf) -> None:
    assert refused(half, None) == ("invalid_request", "refresh.missing")


@pytest.mark.requirement("RFC6749-6")
def test_refresh_with_less_scope_gives_less_once_and_keeps_the_family_whole(
    half: FrontHalf,
) -> None:
    token = first_token(half, f"{OFFLINE} openid")
    less = refreshed(half, token, parameters={"scope": OFFLINE})
    assert (less.claims.scope, less.id_token) == ("mcp:tools", None)
    whole = refreshed(half, less.refresh_token or "")
    assert whole.claims.scope == "mcp:tools openid"
    assert whole.id_token is not None
    assert whole.id_token.nonce is None  # OpenID Connect Core §12.2


@pytest.mark.requirement("C34")
def test_refresh_asks_who_the_person_is_today(half: FrontHalf) -> None:
    token = first_token(half)
    half.accounts.groups["alice"] = ("local/support", "local/night")
    plan = refreshed(half, token)
    assert plan.claims.uctx is not None
    assert plan.claims.uctx.groups == ("local/support", "local/night")


@pytest.mark.requirement("C34")
def test_refresh_for_a_person_who_left_the_group_is_refused(half: FrontHalf) -> None:
    token = first_token(half)
    half.accounts.groups["alice"] = ("local/staff",)
    assert refused(half, token) == ("invalid_grant", "refresh.no_longer_allowed")
    half.accounts.groups["alice"] = ("local/support",)
    refreshed(half, token)  # nothing was burnt


@pytest.mark.requirement("C34")
def test_refresh_for_a_person_who_is_gone_ends_session_and_family(half: FrontHalf) -> None:
    token = first_token(half)
    half.accounts.failure = GONE
    assert refused(half, token) == ("invalid_grant", "refresh.session")
    assert len(cuts_in(half.database, EventType.SESSION_ENDED)) == 1
    half.accounts.failure = None
    assert refused(half, token) == ("invalid_grant", "refresh.ended")


def test_refresh_while_the_provider_cannot_be_asked_burns_nothing(half: FrontHalf) -> None:
    token = first_token(half)
    half.accounts.failure = UNREACHABLE
    assert refused(half, token) == ("temporarily_unavailable", "refresh.unavailable")
    half.accounts.failure = None
    refreshed(half, token)


@pytest.mark.parametrize(("seconds", "works"), [(-1, True), (0, False), (1, False)])
def test_refresh_family_ends_with_the_login_session(
    half: FrontHalf, seconds: int, works: bool
) -> None:
    token = first_token(half)
    half.clock.now += SESSION_LIFETIME_SECONDS + seconds
    alive = evidence(issued_at=int(half.clock()), expires_at=int(half.clock()) + 60)
    assert isinstance(refresh(half, token, evidence=alive), IssuancePlan) is works


def test_refresh_family_ends_with_its_session(half: FrontHalf) -> None:
    first = first_plan(half)
    asyncio.run(half.parts.sessions.end(first.claims.sid or ""))
    assert refused(half, first.refresh_token or "") == ("invalid_grant", "refresh.session")


def test_refresh_gives_fewer_tools_when_the_agent_may_use_fewer(half: FrontHalf) -> None:
    token = first_token(half)
    entry = msgspec.structs.replace(
        half.live.snapshot.agents["support-bot"].entry, tools=("crm/get_account",)
    )
    change_agent(half, "support-bot", entry=entry)
    plan = refreshed(half, token)
    assert [detail.tools for detail in plan.claims.authorization_details] == [("get_account",)]


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("kind", ["agent", "sub", "sid", "gid", "client_id", "inv"])
def test_refresh_family_from_before_a_kill_yields_nothing_after_the_restore(
    half: FrontHalf, kind: str
) -> None:
    first = first_plan(half)
    claims = first.claims
    subject = {
        "agent": "support-bot",
        "sub": claims.sub,
        "sid": claims.sid,
        "gid": claims.gid,
        "client_id": claims.client_id,
        "inv": claims.inv,
    }[kind]
    half.clock.now += 5
    half.block(BlockKind(kind), subject or "")
    half.restore(BlockKind(kind), subject or "")
    half.clock.now += 5
    assert is_cut_off(half, refreshed(half, first.refresh_token or ""))


@pytest.mark.requirement("C34")
def test_refresh_is_the_remedy_for_claims_that_changed(half: FrontHalf) -> None:
    first = first_plan(half)
    half.clock.now += 5
    sub = first.claims.sub
    asyncio.run(half.claims_changed(sub))
    assert is_cut_off(half, first)
    half.clock.now += 2
    second = refreshed(half, first.refresh_token or "")
    assert not is_cut_off(half, second)
    subjects = (Subject(BlockKind.CLAIMS, sub),)
    assert what_revokes(half.live.blocks, subjects, second.claims.iat) is None


def test_refresh_token_is_stored_as_a_digest_only(half: FrontHalf, tmp_path: Path) -> None:
    token = first_token(half)
    stored = asyncio.run(half.parts.refresh_tokens.find(token))
    assert stored is not None
    assert stored.digest == digest_of(token)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert token.encode() not in written


def test_refresh_token_never_appears_in_the_audit(half: FrontHalf) -> None:
    token = first_token(half)
    second = refreshed(half, token)
    refused(half, token)
    told = msgspec.json.encode([*half.spool.events, *recorded_in(half.database)])
    assert token.encode() not in told
    assert (second.refresh_token or "-").encode() not in told


def test_refresh_families_that_ended_are_dropped_when_the_next_begins(half: FrontHalf) -> None:
    old = first_token(half)
    half.clock.now += SESSION_LIFETIME_SECONDS + 1
    first_token(half)
    assert asyncio.run(half.parts.refresh_tokens.find(old)) is None


@pytest.mark.requirement("C34")
def test_consent_page_says_that_the_agent_stays_connected_when_it_asks_to(
    half: FrontHalf,
) -> None:
    browser = half.browser()
    assert "Stays connected" not in browser.log_in(browser.authorize()).text
    assert "Stays connected" in browser.authorize(scope=OFFLINE).text


@pytest.mark.requirement("trap-consent-by-name")
@pytest.mark.parametrize("change", ["owner", "url", "definition"])
def test_refresh_gives_nothing_that_changed_since_it_was_shown(
    half: FrontHalf, change: str
) -> None:
    token = first_token(half)
    before = half.live.snapshot
    CHANGES[change](half)
    assert refused(half, token) == ("invalid_grant", "refresh.consent")
    half.live.snapshot = before
    refreshed(half, token)  # nothing was burnt


@pytest.mark.requirement("trap-consent-by-name")
def test_refresh_after_the_consent_ended_gives_nothing(half: FrontHalf) -> None:
    token = first_token(half)
    half.database.write_now(lambda connection: connection.execute(delete(ConsentRow)))
    assert refused(half, token) == ("invalid_grant", "refresh.consent")

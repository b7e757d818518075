"""Codes at the token endpoint: the shared phases around the authorization code grant."""

import asyncio
import hashlib
import secrets
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from audit_log.event import EventType, PrincipalKind
from authz_server.issuing.signing_keys import KeyPurpose
from authz_server.store.codes import CodeGrant, save_in
from authz_server.store.person_cuts import Ending, PersonCut
from authz_server.store.replay import OnceKind, UsedOnce
from database.errors import DatabaseUnavailableError
from idp_connectors.evidence import Person
from registry.blocks import BlockKind
from registry.publisher import UnpublishableRegistryError
from tests.authz_server.back_half import (
    ADMIN,
    CRM,
    CRM_URL,
    ISSUER,
    NOW,
    Authority,
    Keyholder,
    error_of,
    payload_of,
)
from token_exchange.claims import AuthorizationDetail, VerifiedJwt
from token_exchange.identifiers import new_id
from token_exchange.verify import verify_jwt

pytestmark = pytest.mark.anyio

VERIFIER = "a-code-verifier-of-at-least-forty-three-characters"
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
REDIRECT_URI = "http://127.0.0.1:5000/callback"


def alice(now: int = NOW) -> Person:
    return Person(
        "local", f"{ISSUER}/identity/local", "acc_1", "Alice", ("local/support",), "pwd", now
    )


async def new_code(authority: Authority, **changes: Any) -> str:
    """A code as the front half stores it after login and consent."""
    fields: dict[str, Any] = {
        "client_id": "support-bot",
        "agent": "support-bot",
        "redirect_uri": REDIRECT_URI,
        "code_challenge": CHALLENGE,
        "resource": CRM,
        "scope": "mcp:tools openid",
        "details": (AuthorizationDetail("mcp_tool", "crm", ("get_account",), ("call",)),),
        "nonce": "n-1",
        "dpop_jkt": None,
        "sub": "usr_alice",
        "person": alice(),
        "sid": "ses_1",
        "session_created_at": authority.now,
        "valid_until": authority.now + 3600,
        "gid": "grt_1",
        "invocation": new_id("inv", secrets.token_bytes),
        "token_id": new_id("tok", secrets.token_bytes),
        "transaction": new_id("txn", secrets.token_bytes),
        "created_at": authority.now,
        "requested_at": authority.now,
    }
    code = secrets.token_urlsafe(32)
    grant = CodeGrant(**(fields | changes))
    await authority.database.write(lambda connection: save_in(connection, code, grant))
    return code


async def admin_code(authority: Authority, **changes: Any) -> str:
    for_admin = {
        "client_id": "countersign-cli",
        "agent": None,
        "resource": ADMIN,
        "scope": "openid",
        "details": (),
        "gid": None,
        "invocation": None,
    }
    return await new_code(authority, **(for_admin | changes))


def code_form(code: str, /, **changes: object) -> dict[str, object]:
    form: dict[str, object] = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": VERIFIER,
        "resource": None,
    }
    return form | changes


async def test_token_for_a_code_names_person_and_agent(authority: Authority) -> None:
    workload = authority.workload(1000)
    answer = await workload.ask(**code_form(await new_code(authority)))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["token_type"] == "DPoP"
    claims = payload_of(body["access_token"])
    assert claims["sub"] == "usr_alice"
    assert claims["act"]["agent"] == "support-bot"
    assert claims["act"]["sub"] == "unix:host/1000/-"
    assert claims["cnf"] == {"jkt": workload.thumbprint}
    assert claims["aud"] == CRM
    (event,) = authority.cuts(EventType.TOKEN_ISSUED)
    assert event.principal_kind is PrincipalKind.AGENT_FOR_PERSON
    assert (event.user, event.user_name, event.agent) == ("usr_alice", "Alice", "support-bot")
    assert event.actor_chain == ("support-bot",)


async def test_token_for_a_code_with_openid_brings_an_id_token(authority: Authority) -> None:
    answer = await authority.workload(1000).ask(**code_form(await new_code(authority)))
    verified = verify_jwt(
        answer.json()["id_token"],
        keys=authority.parts.keys.verification_keys(KeyPurpose.ID_TOKENS),
        algorithms=frozenset({"ES256"}),
        typ="JWT",
        issuer=ISSUER,
        audience="support-bot",
        now=NOW,
    )
    assert isinstance(verified, VerifiedJwt)
    assert verified.claims["nonce"] == "n-1"
    assert verified.claims["sub"] == "usr_alice"
    plain = await new_code(authority, scope="mcp:tools")
    answer = await authority.workload(1000).ask(**code_form(plain))
    assert "id_token" not in answer.json()


async def test_token_of_a_code_can_be_exchanged_for_the_target(authority: Authority) -> None:
    answer = await authority.workload(1000).ask(**code_form(await new_code(authority)))
    gateway = await authority.enrolled()
    exchanged = await gateway.exchange(answer.json()["access_token"])
    assert exchanged.status_code == 200, exchanged.text
    chain = payload_of(exchanged.json()["access_token"])["act"]
    assert chain["sub"] == "gateway:demo"
    assert chain["act"]["agent"] == "support-bot"


async def test_token_for_a_code_of_the_command_line_is_bound_and_for_admin(
    authority: Authority,
) -> None:
    person = Keyholder(authority)
    form = code_form(await admin_code(authority), client_id="countersign-cli", resource=ADMIN)
    answer = await authority.post(form, {"dpop": person.proof()})
    assert answer.status_code == 200, answer.text
    claims = payload_of(answer.json()["access_token"])
    assert claims["aud"] == ADMIN
    assert claims["cnf"] == {"jkt": person.thumbprint}
    assert "act" not in claims
    (event,) = authority.cuts(EventType.TOKEN_ISSUED)
    assert event.principal_kind is PrincipalKind.PERSON


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize("is_killed", [True, False])
async def test_token_of_a_kill_while_its_code_is_used_up_is_not_signed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    codes = authority.parts.codes
    consume = codes.consume
    to_block = ["support-bot" if is_killed else "night-watch"]

    async def slow_consume(*args: Any, **more: Any) -> bool:
        while to_block:
            await authority.block(BlockKind.AGENT, to_block.pop())
        return await consume(*args, **more)

    monkeypatch.setattr(codes, "consume", slow_consume)
    answer = await authority.workload(1000).ask(**code_form(await new_code(authority)))
    if not is_killed:
        assert answer.status_code == 200, answer.text
        return
    assert error_of(answer) == "invalid_grant"
    assert authority.refusals()[-1].reasons == ("token.revoked",)


async def test_token_for_a_code_without_a_proof_is_refused(authority: Authority) -> None:
    form = code_form(await admin_code(authority), client_id="countersign-cli", resource=ADMIN)
    assert error_of(await authority.post(form)) == "invalid_dpop_proof"
    person = Keyholder(authority)
    assert (await authority.post(form, {"dpop": person.proof()})).status_code == 200


@pytest.mark.requirement("attack-16")
async def test_token_for_a_code_that_says_what_its_client_may_not_hold_is_refused(
    authority: Authority,
) -> None:
    person = Keyholder(authority)
    for resource in (CRM, CRM_URL, f"{ISSUER}/control/v1"):
        form = code_form(
            await admin_code(authority, resource=resource), client_id="countersign-cli"
        )
        form.pop("resource")
        answer = await authority.post(form, {"dpop": person.proof()})
        assert answer.status_code == 400, answer.text


@pytest.mark.requirement("attack-9")
async def test_token_for_one_code_twenty_times_over_two_processes_is_one_success(
    authority: Authority,
) -> None:
    workload = authority.workload(1000)
    second = await authority.another_process()
    code = await new_code(authority)
    answers = await asyncio.gather(
        *(
            (authority, second)[n % 2].post(
                {k: v for k, v in workload.form(**code_form(code)).items() if v is not None},
                {"dpop": workload.proof()},
            )
            for n in range(20)
        )
    )
    second.database.close()
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 19


@pytest.mark.requirement("attack-9")
@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "http://127.0.0.1:5001/callback"},
        {"code_verifier": VERIFIER + "x"},
        {"code_verifier": None},
        {"code": "unknown"},
    ],
)
async def test_token_wrong_request_does_not_burn_the_code(
    authority: Authority, changes: dict[str, Any]
) -> None:
    workload = authority.workload(1000)
    code = await new_code(authority)
    assert (await workload.ask(**code_form(code, **changes))).status_code == 400
    assert (await workload.ask(**code_form(code))).status_code == 200


@pytest.mark.requirement("attack-9")
async def test_token_for_a_code_of_another_client_is_refused(authority: Authority) -> None:
    code = await new_code(authority)
    answer = await authority.workload(1001).ask(**code_form(code))
    assert error_of(answer) in {"invalid_grant", "unauthorized_client"}
    assert (await authority.workload(1000).ask(**code_form(code))).status_code == 200


@pytest.mark.requirement("trap-person-change")
async def test_token_asked_for_after_a_cut_is_refused_although_its_news_is_still_on_the_way(
    authority: Authority,
) -> None:
    """The code says who the person was, and its token would be younger than the cut."""
    code = await new_code(authority)
    authority.clock.now += 5
    await authority.parts.live.refresh()
    once = UsedOnce(OnceKind.PERSON_CHANGE, "local", "event-1", authority.now + 60)
    cut = PersonCut(once, ("usr_alice",), Ending.NONE, (), "groups", "test", lambda _: ())
    assert await authority.parts.person_cuts.apply(cut)
    authority.clock.now += 2
    answer = await authority.workload(1000).ask(**code_form(code))
    assert error_of(answer) == "invalid_grant"
    (event,) = authority.refusals()
    assert event.reasons == ("token.revoked",)
    later = await new_code(authority)
    assert (await authority.workload(1000).ask(**code_form(later))).status_code == 200


@pytest.mark.requirement("trap-person-change")
@pytest.mark.parametrize(
    "error",
    [DatabaseUnavailableError("away"), UnpublishableRegistryError(())],
    ids=["away", "unpublishable"],
)
async def test_token_is_refused_while_it_cannot_be_asked_what_was_cut_off_meanwhile(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails() -> None:
        raise error

    code = await new_code(authority)
    with monkeypatch.context() as broken:
        broken.setattr(authority.parts.live, "refresh", fails)
        # Not for this agent, but nobody here knows that yet.
        await authority.parts.revocations.block(
            BlockKind.AGENT, "night-watch", reason="test", author="test"
        )
        answer = await authority.workload(1000).ask(**code_form(code))
    assert (answer.status_code, error_of(answer)) == (503, "temporarily_unavailable")
    assert not authority.spool.of(EventType.TOKEN_ISSUED)
    # Nothing was used up.
    assert (await authority.workload(1000).ask(**code_form(code))).status_code == 200


@pytest.mark.requirement("attack-28")
async def test_token_is_refused_while_there_are_ever_more_news(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = authority.parts.codes
    consume = codes.consume

    async def slow_consume(*args: Any, **more: Any) -> bool:
        await authority.block(BlockKind.AGENT, "night-watch")
        return await consume(*args, **more)

    code = await new_code(authority)
    with monkeypatch.context() as busy:
        busy.setattr(codes, "consume", slow_consume)
        answer = await authority.workload(1000).ask(**code_form(code))
    assert (answer.status_code, error_of(answer)) == (503, "temporarily_unavailable")
    assert (await authority.workload(1000).ask(**code_form(code))).status_code == 200


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject_id"),
    [
        (BlockKind.AGENT, "support-bot"),
        (BlockKind.SUBJECT, "usr_alice"),
        (BlockKind.SESSION, "ses_1"),
        (BlockKind.CONSENT, "grt_1"),
        (BlockKind.CLIENT, "support-bot"),
        (BlockKind.CLAIMS, "usr_alice"),
    ],
)
async def test_token_for_a_code_from_before_a_kill_is_refused_after_restore(
    authority: Authority, kind: BlockKind, subject_id: str
) -> None:
    code = await new_code(authority)
    await authority.block(kind, subject_id)
    assert error_of(await authority.workload(1000).ask(**code_form(code))) == "invalid_grant"
    code = await new_code(authority)
    await authority.restore(kind, subject_id)
    authority.clock.now += 2
    answer = await authority.workload(1000).ask(**code_form(code))
    assert error_of(answer) == "invalid_grant"
    later = await new_code(authority)
    assert (await authority.workload(1000).ask(**code_form(later))).status_code == 200

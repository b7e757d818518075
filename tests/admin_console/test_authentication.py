import json
from typing import Any

import pytest

from audit_log.event import EventType, Outcome
from registry.blocks import BlockKind
from tests.admin_console.stack import (
    BASE,
    LOCAL,
    AdminStack,
    admin_token,
    dpop_proof,
)
from tests.token_exchange.signing import NOW, STRANGER, access_token_header, sign
from token_exchange.claims import Refusal
from token_exchange.compact_jws import decode_base64url

URI = f"{BASE}/whoami"


def refusals(stack: AdminStack) -> list[tuple[str | None, tuple[str, ...]]]:
    return [(event.error_code, event.reasons) for event in stack.events(EventType.ADMIN_REFUSED)]


@pytest.mark.requirement("admin-token")
def test_admin_bound_token_of_a_person_with_a_role_is_accepted(stack: AdminStack) -> None:
    answer = stack.call("GET", "/whoami", who="usr_alice")

    assert answer.status == 200
    assert answer.json == {
        "author": "local/acc_alice",
        "role": "admin",
        "sub": "usr_alice",
        "identity_provider": "local",
        "subject": "acc_alice",
    }
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.requirement("admin-token")
def test_admin_local_socket_peer_is_admin(stack: AdminStack) -> None:
    answer = stack.call("GET", "/whoami")

    assert (answer.status, answer.json["author"], answer.json["role"]) == (
        200,
        "local:1000",
        "admin",
    )


@pytest.mark.requirement("admin-token")
def test_admin_local_peer_that_was_refused_gets_nothing(stack: AdminStack) -> None:
    refusal = Refusal("access_denied", "Not you.", "descends from agent x", "admin.local_agent")

    answer = stack.call(
        "GET",
        "/whoami",
        extensions={
            "countersign.peer_refusal": refusal,
            "countersign.peer": LOCAL,
        },
    )

    assert (answer.status, answer.json["error"]) == (403, "access_denied")
    assert "agent x" not in str(answer.json)
    assert refusals(stack) == [("access_denied", ("admin.local_agent",))]


@pytest.mark.requirement("admin-agent")
@pytest.mark.parametrize(
    "changes",
    [
        {"act": {"iss": "x", "sub": "unix:h/1/b", "sub_profile": "ai_agent", "agent": "bot"}},
        {"agent": "support-bot"},
        {"inv": "inv_1"},
        {"sub_profile": "ai_agent"},
        {"sub_profile": "service"},
        {"client_id": "support-bot"},
    ],
)
def test_admin_token_of_or_through_an_agent_is_refused(
    stack: AdminStack, changes: dict[str, Any]
) -> None:
    answer = stack.call("GET", "/whoami", token=admin_token("usr_alice", **changes))

    assert (answer.status, answer.json["error"]) == (403, "access_denied")
    assert len(refusals(stack)) == 1


@pytest.mark.requirement("admin-token")
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"aud": "http://127.0.0.1:8701/crm/mcp"}, "jwt.audience"),
        ({"aud": "http://127.0.0.1:8700/control/v1"}, "jwt.audience"),
        ({"iss": "http://127.0.0.1:9999"}, "jwt.issuer"),
        ({"exp": NOW}, "jwt.expired"),
        ({"sub": "usr_stranger"}, "admin.unknown_person"),
        ({"cnf": None}, "dpop.missing"),
    ],
)
def test_admin_token_that_is_not_for_here_is_refused(
    stack: AdminStack, changes: dict[str, Any], rule: str
) -> None:
    answer = stack.call("GET", "/whoami", token=admin_token("usr_alice", **changes))

    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("DPoP error=")
    assert refusals(stack)[0][1] == (rule,)


@pytest.mark.requirement("admin-token")
def test_admin_token_signed_by_another_key_is_refused(stack: AdminStack) -> None:
    genuine = admin_token("usr_alice")
    claims = json.loads(decode_base64url(genuine.split(".")[1]) or b"")

    answer = stack.call("GET", "/whoami", token=sign(access_token_header(), claims, STRANGER))

    assert (answer.status, answer.json["error"]) == (401, "invalid_token")
    assert stack.call("GET", "/whoami", token=genuine).status == 200


@pytest.mark.requirement("attack-15")
def test_admin_bound_token_as_plain_bearer_is_refused(stack: AdminStack) -> None:
    token = admin_token("usr_alice")

    answer = stack.call("GET", "/whoami", headers={"authorization": f"Bearer {token}"})

    assert answer.status == 401
    assert refusals(stack) == [("invalid_token", ("admin.scheme",))]


@pytest.mark.requirement("attack-15")
@pytest.mark.parametrize(
    ("proof", "rule"),
    [
        ({"method": "POST"}, "dpop.method"),
        ({"uri": f"{BASE}/blocks"}, "dpop.uri"),
        ({"uri": "http://evil.example/admin/v1/whoami"}, "dpop.uri"),
        ({"key": STRANGER}, "dpop.binding"),
        ({"iat": NOW - 3_600}, "dpop.age"),
        ({"ath": "x"}, "dpop.token"),
    ],
)
def test_admin_proof_for_another_request_or_key_is_refused(
    stack: AdminStack, proof: dict[str, Any], rule: str
) -> None:
    token = admin_token("usr_alice")
    sent = {"method": "GET", "uri": URI, **proof}

    answer = stack.call(
        "GET", "/whoami", token=token, headers={"dpop": dpop_proof(token=token, **sent)}
    )

    assert (answer.status, answer.json["error"]) == (401, "invalid_dpop_proof")
    assert refusals(stack) == [("invalid_dpop_proof", (rule,))]


@pytest.mark.requirement("attack-15")
def test_admin_proof_used_twice_is_refused(stack: AdminStack) -> None:
    token = admin_token("usr_alice")
    headers = {"dpop": dpop_proof("GET", URI, token)}

    first = stack.call("GET", "/whoami", token=token, headers=headers)
    second = stack.call("GET", "/whoami", token=token, headers=headers)

    assert (first.status, second.status) == (200, 401)
    assert refusals(stack) == [("invalid_dpop_proof", ("dpop.replay",))]


def test_admin_proof_ignores_the_query_of_its_request(stack: AdminStack) -> None:
    assert stack.call("GET", "/audit?limit=1", who="usr_vera").status == 200


@pytest.mark.requirement("admin-token")
def test_admin_request_without_credentials_is_refused_and_audited(stack: AdminStack) -> None:
    answer = stack.call("GET", "/objects", extensions={})

    assert answer.status == 401
    (event,) = stack.events(EventType.ADMIN_REFUSED)
    assert (event.outcome, event.reasons, event.request_method, event.request_path) == (
        Outcome.DENIED,
        ("admin.no_token",),
        "GET",
        "/admin/v1/objects",
    )


@pytest.mark.requirement("attack-28")
@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (BlockKind.SUBJECT, "usr_alice"),
        (BlockKind.TOKEN, "tok_usr_alice"),
        (BlockKind.CLAIMS, "usr_alice"),
    ],
)
def test_admin_token_of_a_blocked_person_is_refused(
    stack: AdminStack, kind: BlockKind, subject: str
) -> None:
    assert stack.call("GET", "/whoami", who="usr_alice").status == 200
    stack.run(stack.parts.revocations.block(kind, subject, reason="left", author="t"))
    stack.run(stack.parts.live.refresh())

    answer = stack.call("GET", "/whoami", who="usr_alice")

    assert (answer.status, answer.json["error"]) == (401, "invalid_token")
    assert stack.call("GET", "/whoami", who="usr_vera").status == 200


@pytest.mark.requirement("admin-token")
def test_admin_with_revocations_out_of_date_fails_closed(stack: AdminStack) -> None:
    stack.clock.advance(4)

    before = stack.call("GET", "/whoami", who="usr_alice")
    stack.run(stack.parts.live.refresh())
    after = stack.call("GET", "/whoami", who="usr_alice")

    assert (before.status, before.json["error"]) == (503, "temporarily_unavailable")
    assert after.status == 200


@pytest.mark.requirement("admin-roles")
def test_admin_role_is_looked_up_at_every_request(stack: AdminStack) -> None:
    assert stack.call("POST", "/blocks", who="usr_olga", body=_kill()).status == 200
    stack.call("DELETE", "/objects/AdminRole/olga")

    answer = stack.call("POST", "/blocks", who="usr_olga", body=_kill())

    assert (answer.status, answer.json["error"]) == (403, "insufficient_role")


@pytest.mark.requirement("admin-roles")
def test_admin_role_is_of_a_subject_at_the_issuer_its_provider_has_now(stack: AdminStack) -> None:
    before = stack.call("GET", "/whoami", who="usr_alice_before")
    now = stack.call("GET", "/whoami", who="usr_alice")

    assert (before.status, before.json["error"]) == (401, "invalid_token")
    assert stack.events(EventType.ADMIN_REFUSED)[-1].reasons == ("admin.provider_changed",)
    assert (now.status, now.json["role"]) == (200, "admin")


def _kill() -> dict[str, str]:
    return {"kind": "agent", "id": "support-bot", "reason": "test"}

"""Changing local accounts: what an admin may, what it does to the person, what is recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from admin_console.parts import PersonKey
from audit_log.event import EventType, Outcome
from audit_log.transaction_log import SOURCE as DATABASE
from authz_server.store import person_cuts
from authz_server.store.persons import PersonStore
from authz_server.store.sessions import SessionStore
from idp_connectors.evidence import Person
from registry.blocks import BlockKind
from tests.admin_console.stack import PEOPLE, AdminStack, role
from tests.authz_server.login_sessions import logged_in_at
from tests.token_exchange.signing import ISSUER, NOW

PASSWORD = "correct horse battery staple"
OTHER = "wander-copper-lantern-52"
BOB = "/accounts/local/bob"


@pytest.fixture
def subject(stack: AdminStack) -> str:
    """Bob's account, in the group support."""
    return add(stack, "bob")


def add(stack: AdminStack, username: str) -> str:
    body = {
        "identity_provider": "local",
        "username": username,
        "password": PASSWORD,
        "groups": ["support"],
    }
    return str(stack.call("POST", "/accounts", body=body, who="usr_alice").json["subject"])


def change(
    stack: AdminStack, path: str = BOB, *, who: str | None = "usr_alice", **body: Any
) -> Any:
    return stack.call("PATCH", path, body=body, who=who)


def log_in(stack: AdminStack, subject: str) -> tuple[str, Callable[[], bool]]:
    """Bob's `sub`, and whether his login session lives."""

    def random(size: int) -> bytes:
        return b"r" * size

    bob = Person("local", f"{ISSUER}/identity/local", subject, "bob", (), "pwd", NOW)
    sub = stack.run(PersonStore(stack.database, random).remember(bob, NOW)).sub
    sessions = SessionStore(stack.database, random)
    cookie = stack.run(logged_in_at(sessions, sub, bob, NOW)).cookie_value
    return sub, lambda: stack.run(sessions.find(cookie, NOW)) is not None


def epochs(stack: AdminStack) -> dict[str, int]:
    """The claims epochs that this process knows, by `sub`."""
    return {
        each.id: each.not_before
        for each in stack.parts.live.blocks.entries.values()
        if each.kind is BlockKind.CLAIMS
    }


@pytest.mark.requirement("admin-account-changes")
@pytest.mark.parametrize(
    ("body", "reasons", "session_lives"),
    [
        ({"groups": ["staff"]}, ("account.groups",), True),  # a refresh reads the groups anew
        ({"password": OTHER}, ("account.password",), False),
        ({"disabled": True}, ("account.disabled",), False),
        ({"disabled": False}, ("account.enabled",), True),
        ({"groups": [], "disabled": True}, ("account.groups", "account.disabled"), False),
    ],
)
def test_account_change_cuts_the_person_off_and_is_recorded_with_it(
    stack: AdminStack,
    subject: str,
    body: dict[str, Any],
    reasons: tuple[str, ...],
    session_lives: bool,
) -> None:
    sub, lives = log_in(stack, subject)

    answer = change(stack, **body)

    assert answer.status == 200
    assert answer.json["groups"] == body.get("groups", ["support"])
    assert answer.json["disabled"] is body.get("disabled", False)
    assert epochs(stack) == {sub: NOW}
    assert lives() is session_lives
    (event,) = stack.events(EventType.ACCOUNT_CHANGED)
    assert (event.author, event.outcome) == ("local/acc_alice", Outcome.SUCCEEDED)
    assert (event.object_ref, event.user_name) == (f"Account/local/{subject}", "bob")
    assert (event.reasons, event.source) == (reasons, DATABASE)
    if "groups" in body:
        assert event.detail == f"groups: {', '.join(body['groups']) or 'none'}"


@pytest.mark.requirement("admin-account-changes")
def test_account_change_of_somebody_who_never_logged_in_meets_their_login_under_way(
    stack: AdminStack, subject: str
) -> None:
    assert change(stack, disabled=True).status == 200

    sub, _ = log_in(stack, subject)  # believed before, and only now remembered
    assert epochs(stack) == {sub: NOW}


@pytest.mark.requirement("admin-account-changes")
def test_account_change_that_cannot_be_recorded_is_not_made(
    stack: AdminStack, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub, lives = log_in(stack, subject)

    def fails(_connection: Connection, *_: object) -> None:
        raise RuntimeError("the audit takes no event")

    monkeypatch.setattr(person_cuts, "append_in", fails)
    assert change(stack, disabled=True).status == 500
    monkeypatch.undo()

    assert lives()
    assert epochs(stack) == {}
    assert stack.call("GET", "/accounts").json["accounts"][0]["disabled"] is False
    assert change(stack, disabled=True).status == 200
    assert epochs(stack) == {sub: NOW}


@pytest.mark.requirement("admin-account-changes")
@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        (BOB, {}, (400, "password, groups or disabled")),
        (BOB, {"groups": None}, (400, "password, groups or disabled")),
        (BOB, {"password": "short"}, (400, "at least 15 characters")),
        (BOB, {"password": "", "disabled": True}, (400, "must be text")),
        (BOB, {"groups": ["/support"]}, (400, "without its provider's prefix")),
        (BOB, {"disabled": "maybe"}, (400, "invalid fields")),
        (BOB, {"username": "robert"}, (400, "invalid fields")),
        ("/accounts/local/bobb", {"disabled": True}, (404, "did you mean 'bob'?")),
        ("/accounts/loc/bob", {"disabled": True}, (404, "did you mean 'local'?")),
        ("/accounts/local/%F0", {"disabled": True}, (404, "no account of that name")),
    ],
)
def test_account_change_that_breaks_a_rule_changes_nothing(
    stack: AdminStack, subject: str, path: str, body: dict[str, Any], refusal: tuple[int, str]
) -> None:
    _, lives = log_in(stack, subject)

    answer = change(stack, path, **body)

    status, says = refusal
    assert answer.status == status
    assert says in answer.json["error_description"]
    assert lives()
    assert epochs(stack) == {}
    assert stack.events(EventType.ACCOUNT_CHANGED) == []
    assert len(stack.events(EventType.ADMIN_REFUSED)) == 1
    (account,) = stack.call("GET", "/accounts").json["accounts"]
    assert (account["groups"], account["disabled"]) == (["support"], False)


@pytest.mark.requirement("admin-account-changes")
def test_admin_cannot_disable_themself_and_another_can(
    stack: AdminStack, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub, lives = log_in(stack, subject)
    monkeypatch.setitem(PEOPLE, sub, PersonKey("local", f"{ISSUER}/identity/local", subject))
    stack.call("POST", "/objects", body={"objects": [role("bob", subject, "admin")]})

    own = change(stack, who=sub, disabled=True)

    assert (own.status, own.json["error"]) == (409, "conflict")
    assert lives()
    assert stack.events(EventType.ADMIN_REFUSED)[-1].reasons == ("account.own",)
    assert change(stack, who=sub, groups=["staff"]).status == 200
    assert change(stack, disabled=True).status == 200
    assert not lives()
    # What Bob held as an admin is of before.
    assert change(stack, "/accounts/local/bob", who=sub, disabled=False).status == 401


@pytest.mark.requirement("admin-account-changes")
def test_account_of_a_name_with_reserved_characters_is_changed(stack: AdminStack) -> None:
    add(stack, "bob@example.com")

    answer = change(stack, "/accounts/local/bob%40example.com", disabled=True)

    assert (answer.status, answer.json["username"]) == (200, "bob@example.com")


@pytest.mark.requirement("admin-account-changes")
def test_new_password_is_nowhere(stack: AdminStack, subject: str) -> None:
    answer = change(stack, password=OTHER)

    assert subject == answer.json["subject"]
    assert OTHER not in str(answer.json)
    for path in Path(stack.database.path.parent).rglob("*"):
        if path.is_file():
            assert OTHER.encode() not in path.read_bytes(), path

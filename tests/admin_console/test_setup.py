import asyncio
import hashlib
from pathlib import Path

import pytest

from admin_console import setup
from admin_console.setup_codes import use_in
from audit_log.event import EventType
from audit_log.refusal_budgets import EACH_PER_SECOND
from database.errors import DatabaseUnavailableError
from tests.admin_console.stack import AdminStack
from tests.admin_console.test_requests import spool_that_fills_up
from tests.busy_database import busy_after
from tests.registry.samples import small_set
from tests.token_exchange.signing import NOW


@pytest.fixture
def fresh(empty: AdminStack) -> AdminStack:
    """Objects, but nobody is admin."""
    body = {"objects": [each.model_dump() for each in small_set()]}
    assert empty.call("POST", "/objects", body=body).status == 200
    return empty


def code_of(stack: AdminStack) -> str:
    code = stack.parts.setup_codes.create_now(int(stack.clock()))
    assert code is not None
    return code


@pytest.mark.requirement("admin-setup")
def test_setup_code_makes_the_calling_person_admin(fresh: AdminStack) -> None:
    before = fresh.call("GET", "/whoami", who="usr_alice").json["role"]

    answer = fresh.call("POST", "/setup", body={"code": code_of(fresh)}, who="usr_alice")

    assert (before, answer.status, answer.json["role"]) == (None, 200, "admin")
    assert fresh.call("GET", "/whoami", who="usr_alice").json["role"] == "admin"
    (event,) = fresh.events(EventType.ADMIN_SETUP)
    assert (event.author, event.user) == ("local/acc_alice", "usr_alice")


@pytest.mark.requirement("admin-setup")
def test_setup_code_is_stored_as_a_hash_only(fresh: AdminStack) -> None:
    code = code_of(fresh)
    fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")

    assert len(code.removeprefix("setup-")) == 64
    fresh.parts.spool.flush()
    for path in Path(fresh.database.path.parent).rglob("*"):
        if path.is_file():
            assert code.removeprefix("setup-").encode() not in path.read_bytes(), path
    digest = hashlib.sha256(code.encode()).hexdigest().encode()
    files = [path for path in fresh.database.path.parent.glob("*.db*") if path.is_file()]
    assert any(digest in path.read_bytes() for path in files)


@pytest.mark.requirement("admin-setup")
def test_setup_code_used_twice_works_once(fresh: AdminStack) -> None:
    code = code_of(fresh)

    first = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")
    second = fresh.call("POST", "/setup", body={"code": code}, who="usr_nobody")

    assert (first.status, second.status, second.json["error"]) == (200, 403, "access_denied")
    assert fresh.call("GET", "/whoami", who="usr_nobody").json["role"] is None


@pytest.mark.requirement("admin-setup")
def test_setup_code_used_twenty_times_at_once_makes_one_admin(fresh: AdminStack) -> None:
    code = code_of(fresh)

    async def race() -> list[int]:
        people = ["usr_alice", "usr_olga", "usr_vera", "usr_nobody"] * 5
        answers = await asyncio.gather(
            *(fresh.acall("POST", "/setup", body={"code": code}, who=who) for who in people)
        )
        return [answer.status for answer in answers]

    statuses = fresh.run(race())

    assert sorted(statuses) == [200] + [403] * 19
    assert len(fresh.call("GET", "/objects/AdminRole").json["objects"]) == 1


@pytest.mark.requirement("admin-setup")
def test_setup_code_expires_after_fifteen_minutes(fresh: AdminStack) -> None:
    codes = fresh.parts.setup_codes
    early = code_of(fresh)

    def use(now: int) -> bool:
        return fresh.run(fresh.database.write(lambda connection: use_in(connection, early, now)))

    assert not codes.is_open(early, NOW + 900)
    assert not use(NOW + 900)
    assert codes.is_open(early, NOW + 899)
    assert use(NOW + 899)


@pytest.mark.requirement("admin-setup")
def test_setup_code_is_replaced_by_a_newer_one(fresh: AdminStack) -> None:
    older, newer = code_of(fresh), code_of(fresh)

    refused = fresh.call("POST", "/setup", body={"code": older}, who="usr_alice")
    accepted = fresh.call("POST", "/setup", body={"code": newer}, who="usr_alice")

    assert (refused.status, accepted.status) == (403, 200)


@pytest.mark.requirement("admin-setup")
@pytest.mark.parametrize("code", ["setup-" + "0" * 64, "x", " "])
def test_setup_with_a_wrong_code_is_refused_and_audited(fresh: AdminStack, code: str) -> None:
    good = code_of(fresh)

    answer = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")

    assert answer.status == 403
    event = fresh.events(EventType.ADMIN_REFUSED)[-1]
    assert (event.reasons, event.author) == (("admin.setup_code",), "local/acc_alice")
    assert fresh.call("POST", "/setup", body={"code": good}, who="usr_alice").status == 200


@pytest.mark.requirement("admin-setup", "strangers-cannot-fill-the-spool")
def test_setup_only_a_good_code_is_recorded_as_admitted(fresh: AdminStack) -> None:
    """Anybody who can log in may try codes: what they cause is refusals, which have a budget."""
    good = code_of(fresh)
    before = len(fresh.events(EventType.ADMIN_ALLOWED))

    for _ in range(EACH_PER_SECOND + 5):
        assert fresh.call("POST", "/setup", body={"code": "x"}, who="usr_alice").status == 403
    assert len(fresh.events(EventType.ADMIN_ALLOWED)) == before
    assert len(fresh.events(EventType.ADMIN_REFUSED)) == EACH_PER_SECOND

    assert fresh.call("POST", "/setup", body={"code": good}, who="usr_alice").status == 200
    (event,) = fresh.events(EventType.ADMIN_ALLOWED)[before:]
    assert (event.author, event.request_path) == ("local/acc_alice", "/admin/v1/setup")


@pytest.mark.requirement("admin-setup")
def test_setup_is_over_once_somebody_is_admin(stack: AdminStack) -> None:
    assert stack.parts.setup_codes.create_now(NOW) is None


@pytest.mark.requirement("admin-setup")
def test_setup_code_made_before_somebody_became_admin_is_worthless(fresh: AdminStack) -> None:
    code = code_of(fresh)
    role = {"identity_provider": "local", "subject": "acc_olga", "role": "admin"}
    document = {"kind": "AdminRole", "name": "olga", "spec": role}
    fresh.call("POST", "/objects", body={"objects": [document]})

    assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 403


@pytest.mark.requirement("admin-setup")
def test_setup_over_the_local_socket_has_no_person_and_keeps_the_code(fresh: AdminStack) -> None:
    code = code_of(fresh)

    assert fresh.call("POST", "/setup", body={"code": code}).status == 400
    assert fresh.call("POST", "/setup", body={"code": code}, who="usr_alice").status == 200


@pytest.mark.requirement("admin-setup")
def test_setup_by_a_person_of_no_declared_provider_keeps_the_code(empty: AdminStack) -> None:
    code = code_of(empty)

    refused = empty.call("POST", "/setup", body={"code": code}, who="usr_alice")
    body = {"objects": [each.model_dump() for each in small_set()]}
    empty.call("POST", "/objects", body=body)
    accepted = empty.call("POST", "/setup", body={"code": code}, who="usr_alice")

    assert (refused.status, refused.json["error"]) == (401, "invalid_token")
    assert accepted.status == 200


@pytest.mark.requirement("admin-setup")
@pytest.mark.parametrize("writes", range(4))
def test_setup_code_stays_good_until_there_is_the_admin_when_the_database_is_busy(
    fresh: AdminStack, writes: int
) -> None:
    code = code_of(fresh)

    with busy_after(writes, fresh.database):
        answer = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")
    if answer.status == 503:
        answer = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")

    assert (answer.status, answer.json.get("role")) == (200, "admin")


@pytest.mark.requirement("admin-setup")
def test_setup_code_used_while_a_plan_is_made_is_refused_in_the_write(
    fresh: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, codes = code_of(fresh), fresh.parts.setup_codes
    fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")
    monkeypatch.setattr(type(codes), "is_open", lambda *_: True)

    answer = fresh.call("POST", "/setup", body={"code": code}, who="usr_nobody")

    assert (answer.status, answer.json["error"]) == (403, "access_denied")
    assert fresh.call("GET", "/whoami", who="usr_nobody").json["role"] is None


@pytest.mark.requirement("admin-setup")
@pytest.mark.requirement("trap-act-unrecorded")
def test_setup_that_cannot_be_recorded_makes_nobody_admin_and_keeps_the_code(
    fresh: AdminStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(fresh)

    def broken(*_: object) -> None:
        raise DatabaseUnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(setup, "append_in", broken)
        refused = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")
    nobody = fresh.call("GET", "/whoami", who="usr_alice").json["role"]
    with spool_that_fills_up(fresh, monkeypatch):  # of no concern to what is recorded with itself
        accepted = fresh.call("POST", "/setup", body={"code": code}, who="usr_alice")

    assert (refused.status, nobody) == (503, None)
    assert (accepted.status, accepted.json["role"]) == (200, "admin")
    (event,) = fresh.events(EventType.ADMIN_SETUP)
    assert event.object_ref == "AdminRole/first-admin"

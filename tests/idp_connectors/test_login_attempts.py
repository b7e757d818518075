import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from database.engine import Database
from idp_connectors.evidence import Person
from idp_connectors.workforce.local_accounts import LocalAccounts
from idp_connectors.workforce.login import LoginFailure, LoginFailureCode
from idp_connectors.workforce.login_attempts import (
    FREE_ATTEMPTS,
    MAXIMUM_LOCK_SECONDS,
    LoginAttempts,
    _name_hash,
    lock_seconds,
)
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import HashingBusyError
from tests.databases import stored
from tests.idp_connectors.people import (
    PASSWORD,
    Hashing,
    accounts,
    add,
    change,
    failure,
    login,
    run,
)
from tests.idp_connectors.samples import NOW


@pytest.mark.requirement("attack-24")
def test_login_locks_known_and_unknown_names_after_the_same_attempts(local: LocalAccounts) -> None:
    add(local)
    codes = {
        name: [failure(local, name).code for _ in range(FREE_ATTEMPTS + 1)]
        for name in ("alice", "mallory")
    }
    assert codes["alice"] == codes["mallory"]
    assert codes["alice"][-2:] == [LoginFailureCode.INVALID_CREDENTIALS, LoginFailureCode.LOCKED]


@pytest.mark.requirement("trap-lockout")
def test_login_while_locked_refuses_even_the_right_password_and_checks_nothing(
    local: LocalAccounts, parts: WorkforceParts
) -> None:
    add(local)
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    hashing = parts.hashing
    assert isinstance(hashing, Hashing)
    before = len(hashing.verified)
    locked = failure(local, password=PASSWORD)
    assert locked.code is LoginFailureCode.LOCKED
    assert locked.retry_after_seconds == 2
    assert len(hashing.verified) == before


def test_login_after_the_lock_has_passed_succeeds_and_forgets_the_attempts(
    local: LocalAccounts,
) -> None:
    add(local)
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    assert isinstance(login(local, now=NOW + 2), Person)
    for _ in range(FREE_ATTEMPTS - 1):
        failure(local, now=NOW + 3)
    assert isinstance(login(local, now=NOW + 3), Person)


def test_new_password_lifts_the_lock_and_other_changes_do_not(local: LocalAccounts) -> None:
    add(local)
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    change(local, groups=("staff",))
    assert failure(local, password=PASSWORD).code is LoginFailureCode.LOCKED
    change(local, password="wander-copper-lantern-52")
    assert isinstance(login(local, password="wander-copper-lantern-52"), Person)


@pytest.mark.requirement("trap-lockout")
def test_lock_survives_a_restart(local: LocalAccounts, parts: WorkforceParts) -> None:
    add(local)
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    again = accounts(replace(parts, hashing=Hashing()))
    assert failure(again, password=PASSWORD).code is LoginFailureCode.LOCKED


def test_lock_grows_exponentially_up_to_its_bound() -> None:
    grown = [lock_seconds(attempts) for attempts in range(1, 16)]
    assert grown[:5] == [0, 0, 0, 0, 2]
    assert grown[5:8] == [4, 8, 16]
    assert grown[-1] == lock_seconds(10_000) == MAXIMUM_LOCK_SECONDS


def test_attempts_while_locked_do_not_lengthen_the_lock(local: LocalAccounts) -> None:
    add(local)
    for _ in range(FREE_ATTEMPTS + 50):
        failure(local)
    assert isinstance(login(local, now=NOW + 2), Person)


def test_attempts_of_a_day_ago_are_forgotten(local: LocalAccounts) -> None:
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    later = NOW + 86_400 + 1
    codes = {failure(local, now=later).code for _ in range(FREE_ATTEMPTS)}
    assert codes == {LoginFailureCode.INVALID_CREDENTIALS}


@pytest.mark.requirement("trap-lockout")
def test_parallel_guesses_are_all_counted(local: LocalAccounts, parts: WorkforceParts) -> None:
    add(local)

    async def guess_all() -> list[Person | LoginFailure]:
        guesses = (local.authenticate("alice", f"guess {n}", NOW) for n in range(20))
        return await asyncio.gather(*guesses)

    answers = run(guess_all())
    assert isinstance(parts.hashing, Hashing)
    assert len(parts.hashing.verified) == FREE_ATTEMPTS
    locked = [a for a in answers if isinstance(a, LoginFailure) and a.code == "locked"]
    assert len(locked) == 20 - FREE_ATTEMPTS


def test_lock_of_one_account_leaves_others_and_other_providers_alone(
    local: LocalAccounts, parts: WorkforceParts
) -> None:
    elsewhere = accounts(parts, name="partners")
    add(local)
    add(local, "bob")
    add(elsewhere)
    for _ in range(FREE_ATTEMPTS):
        failure(local)
    assert isinstance(login(local, "bob"), Person)
    assert isinstance(login(elsewhere), Person)


def test_attempt_rows_are_bounded_and_keep_the_name_under_attack(database: Database) -> None:
    attempts = LoginAttempts(database, maximum_rows=20)
    for _ in range(FREE_ATTEMPTS):
        assert run(attempts.begin("local", "alice", NOW)) == 0
    for number in range(100):
        run(attempts.begin("local", f"invented{number}", NOW))
    assert stored(database, "SELECT count(*) FROM login_attempts") <= 20
    assert run(attempts.begin("local", "alice", NOW)) > 0


def test_login_beyond_the_hashing_queue_is_refused_as_busy_and_not_counted(
    parts: WorkforceParts,
) -> None:
    add(accounts(parts))
    full = accounts(replace(parts, hashing=Hashing(maximum_waiting=0)))
    busy = failure(full, password=PASSWORD)
    assert busy.code is LoginFailureCode.BUSY
    assert busy.retry_after_seconds
    for _ in range(FREE_ATTEMPTS + 1):
        failure(full)
    assert isinstance(login(accounts(parts)), Person)


def test_account_is_not_made_beyond_the_hashing_queue(parts: WorkforceParts) -> None:
    full = accounts(replace(parts, hashing=Hashing(maximum_waiting=0)))
    with pytest.raises(HashingBusyError):
        add(full)
    assert add(accounts(parts)).username == "alice"


def test_first_attempt_overtaken_by_another_process_is_counted_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process makes the row between our look and our insert."""
    attempts, other = LoginAttempts(database), LoginAttempts(database)
    make_room = LoginAttempts._make_room

    def overtaken(self: LoginAttempts, connection: Connection, now: int) -> None:
        make_room(self, connection, now)
        monkeypatch.setattr(LoginAttempts, "_make_room", make_room)
        other._count(connection, _name_hash("local", "alice"), now)

    monkeypatch.setattr(LoginAttempts, "_make_room", overtaken)
    assert run(attempts.begin("local", "alice", NOW)) == 0
    for _ in range(FREE_ATTEMPTS - 1):
        assert run(attempts.begin("local", "alice", NOW)) == 0
    assert run(attempts.begin("local", "alice", NOW)) > 0

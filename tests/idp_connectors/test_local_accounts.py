from dataclasses import replace
from typing import Any

import argon2
import pytest
from argon2.exceptions import VerifyMismatchError

from database.engine import Database
from idp_connectors.catalog import settings_models
from idp_connectors.evidence import Person
from idp_connectors.workforce.account_store import Account
from idp_connectors.workforce.catalog import PersonLogins
from idp_connectors.workforce.local_accounts import AccountChange, LocalAccounts
from idp_connectors.workforce.login import LoginFailureCode
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import RECOMMENDED, PasswordHashing
from registry.snapshot import ProviderRecord
from tests.databases import change_stored, everything_in
from tests.idp_connectors.people import (
    PASSWORD,
    Hashing,
    accounts,
    add,
    added,
    change,
    failure,
    hash_of,
    login,
    run,
)
from tests.idp_connectors.samples import ISSUER, NOW, cheap
from token_exchange.claims import Refusal


def test_login_with_the_right_password_is_the_person(local: LocalAccounts) -> None:
    account = add(local, "alice", "support", "staff")
    assert login(local) == Person(
        identity_provider="local",
        issuer=f"{ISSUER}/identity/local",
        subject=account.id,
        name="alice",
        groups=("local/support", "local/staff"),
        acr="pwd",
        auth_time=NOW,
        attributes={"username": "alice"},
    )


@pytest.mark.requirement("attack-24")
def test_login_failures_of_known_and_unknown_accounts_are_the_same_value_and_work(
    local: LocalAccounts, parts: WorkforceParts
) -> None:
    add(local)
    hashing = parts.hashing
    assert isinstance(hashing, Hashing)
    known, unknown = failure(local, "alice"), failure(local, "mallory")
    assert known == unknown
    assert known.code is LoginFailureCode.INVALID_CREDENTIALS
    assert len(hashing.verified) == 2
    assert hashing.verified[1] == hashing.nobody


def test_disabled_account_fails_like_a_wrong_password(local: LocalAccounts) -> None:
    add(local)
    assert isinstance(change(local, disabled=True), Account)
    disabled, wrong = failure(local, password=PASSWORD), failure(local)
    assert (disabled.code, disabled.description) == (wrong.code, wrong.description)
    assert isinstance(change(local, disabled=False), Account)
    assert isinstance(login(local), Person)


@pytest.mark.requirement("trap-group-prefix")
def test_login_leaves_out_groups_the_provider_may_not_assert_any_more(
    local: LocalAccounts, parts: WorkforceParts
) -> None:
    add(local, "alice", "support", "admins")
    person = login(accounts(parts, permitted=("support",)))
    assert isinstance(person, Person)
    assert person.groups == ("local/support",)


@pytest.mark.requirement("trap-group-prefix")
@pytest.mark.parametrize("group", ["admins", "keycloak/support", "", " x", "a\nb"])
def test_add_with_a_group_of_another_or_not_permitted_is_refused(
    parts: WorkforceParts, group: str
) -> None:
    strict = accounts(parts, permitted=("support",))
    answer = added(strict, "alice", groups=(group,))
    assert isinstance(answer, Refusal)
    assert answer.rule == "account.groups"
    assert add(strict, "alice", "support").groups == ("support",)


@pytest.mark.requirement("attack-29")
def test_same_username_at_two_providers_is_two_subjects(
    local: LocalAccounts, parts: WorkforceParts
) -> None:
    partners = accounts(parts, name="partners")
    one, other = add(local), add(partners)
    assert one.id != other.id
    person = login(partners)
    assert isinstance(person, Person)
    assert (person.issuer, person.groups) == (f"{ISSUER}/identity/partners", ("partners/support",))


@pytest.mark.parametrize(
    "username", ["", "a b", "álice", "alice\n!", "../x", "x" * 65, "-alice", "İx", "a\0b"]
)
def test_add_with_an_unacceptable_username_is_refused(local: LocalAccounts, username: str) -> None:
    answer = added(local, username)
    assert isinstance(answer, Refusal)
    assert answer.rule == "account.username"


def test_username_is_one_whatever_its_case(local: LocalAccounts) -> None:
    add(local, "Alice")
    assert isinstance(login(local, "  ALICE "), Person)
    again = added(local, "aLICE")
    assert isinstance(again, Refusal)
    assert again.rule == "account.exists"


@pytest.mark.parametrize(
    "password", ["short", "aaaaaaaaaaaaaaaaaaaa", "my name is alice!!", "x" * 2000, "\ud800" * 20]
)
def test_add_with_a_weak_or_impossible_password_is_refused(
    local: LocalAccounts, password: str
) -> None:
    answer = added(local, "alice", password)
    assert isinstance(answer, Refusal)
    assert answer.rule == "account.password"
    assert password not in answer.detail


@pytest.mark.parametrize(
    "password", ["", "x" * 2000, "\ud800", "a\0b", "é" * 600, "correct horse battery stapl"]
)
def test_login_with_any_other_password_fails(local: LocalAccounts, password: str) -> None:
    add(local)
    assert failure(local, password=password).code is LoginFailureCode.INVALID_CREDENTIALS


@pytest.mark.parametrize("username", ["", "\ud800", "x" * 100_000, "a\0b", "álice"])
def test_login_with_any_other_username_fails(local: LocalAccounts, username: str) -> None:
    add(local)
    assert failure(local, username, PASSWORD).code is LoginFailureCode.INVALID_CREDENTIALS


def test_password_is_the_same_in_both_unicode_spellings(local: LocalAccounts) -> None:
    assert isinstance(added(local, "alice", "café au lait, très bon"), Account)
    assert isinstance(login(local, password="cafe\u0301 au lait, tre\u0300s bon"), Person)


def test_set_password_replaces_the_old_one(local: LocalAccounts) -> None:
    add(local)
    assert isinstance(change(local, password="another good long one"), Account)
    assert isinstance(login(local, password="another good long one"), Person)
    assert failure(local, password=PASSWORD).code is LoginFailureCode.INVALID_CREDENTIALS


def test_set_password_that_is_weak_is_refused_and_changes_nothing(local: LocalAccounts) -> None:
    add(local)
    concerned: list[Person] = []
    weak = change(local, password="weak", disabled=True, cut_off=concerned)
    assert isinstance(weak, Refusal)
    assert isinstance(login(local), Person)
    assert concerned == []


def test_set_groups_takes_effect_at_the_next_login(local: LocalAccounts) -> None:
    add(local)
    assert isinstance(change(local, groups=("staff",)), Account)
    person = login(local)
    assert isinstance(person, Person)
    assert person.groups == ("local/staff",)


@pytest.mark.parametrize("what", [{"disabled": True}, {"groups": ()}, {"password": PASSWORD}])
def test_change_of_an_absent_account_is_refused(local: LocalAccounts, what: dict[str, Any]) -> None:
    add(local)
    concerned: list[Person] = []
    refusal = change(local, "nobody", cut_off=concerned, **what)
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "account.absent"
    assert concerned == []
    assert isinstance(change(local, "ALICE ", cut_off=concerned, **what), Account)
    assert [person.name for person in concerned] == ["alice"]


def test_change_tells_who_the_person_is_from_now_on(local: LocalAccounts) -> None:
    account = add(local)
    concerned: list[Person] = []
    changed = change(local, groups=("staff", "staff"), disabled=True, cut_off=concerned)
    assert isinstance(changed, Account)
    assert (changed.groups, changed.disabled) == (("staff",), True)
    assert (changed.author, changed.created_at, changed.changed_at) == ("olga", NOW, NOW + 1)
    (person,) = concerned
    assert (person.subject, person.issuer) == (account.id, f"{ISSUER}/identity/local")
    assert person.groups == ("local/staff",)


def test_change_whose_cut_fails_changes_nothing(local: LocalAccounts) -> None:
    add(local)

    def fails(*_: object) -> None:
        raise RuntimeError("the epoch cannot be moved")

    changing = local.change(
        "alice", AccountChange(disabled=True), author="olga", now=NOW, also=fails
    )
    with pytest.raises(RuntimeError):
        run(changing)
    assert isinstance(login(local), Person)


def test_change_never_shows_the_password() -> None:
    assert PASSWORD not in repr(AccountChange(password=PASSWORD))


def test_accounts_are_listed_without_their_hashes(local: LocalAccounts) -> None:
    add(local, "bob")
    add(local, "alice")
    assert [account.username for account in run(local.accounts())] == ["alice", "bob"]
    assert not hasattr(run(local.accounts())[0], "password_hash")


@pytest.mark.requirement("attack-26")
def test_database_holds_argon2id_hashes_and_never_a_password(
    local: LocalAccounts, database: Database
) -> None:
    add(local)
    failure(local, "typed-password-as-name", "x")
    content = everything_in(database)
    assert b"$argon2id$" in content
    assert PASSWORD.encode() not in content
    assert b"typed-password-as-name" not in content


def test_login_rehashes_when_the_parameters_have_changed(parts: WorkforceParts) -> None:
    add(accounts(parts))
    stronger = cheap(time_cost=2)
    renewed = accounts(replace(parts, hashing=Hashing(stronger)))
    before = hash_of(parts.database)
    assert isinstance(login(renewed), Person)
    after = hash_of(parts.database)
    assert "t=1" in before
    assert "t=2" in after
    assert isinstance(login(renewed), Person)
    assert hash_of(parts.database) == after


def test_damaged_hash_matches_no_password(local: LocalAccounts, database: Database) -> None:
    add(local)
    change_stored(database, "UPDATE local_accounts SET password_hash = 'rubbish'")
    assert failure(local, password=PASSWORD).code is LoginFailureCode.INVALID_CREDENTIALS


def test_default_parameters_are_argon2id_as_rfc_9106_recommends() -> None:
    assert PasswordHashing().nobody.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_hash_of_nobody_is_judged_like_any_other_and_no_password_has_it() -> None:
    hashing = PasswordHashing()
    assert argon2.extract_parameters(hashing.nobody) == RECOMMENDED
    assert not hashing.is_outdated(hashing.nobody)
    # Not InvalidHashError, which would be a refusal without the work.
    with pytest.raises(VerifyMismatchError):
        argon2.PasswordHasher().verify(hashing.nobody, "no account has this password")
    assert hashing.nobody != PasswordHashing().nobody


def test_logins_are_empty_unless_an_identity_provider_is_declared(parts: WorkforceParts) -> None:
    declared: dict[str, ProviderRecord] = {}
    logins = PersonLogins(lambda: declared, parts)
    assert logins() == {}
    declared = {"local": ProviderRecord("local", "local_accounts", {}, ("support",))}
    assert list(logins()) == ["local"]
    assert logins() is logins()
    assert list(logins.all_local_accounts()) == ["local"]
    declared = {}
    assert logins() == {}
    assert logins.all_local_accounts() == {}


@pytest.mark.parametrize(
    ("of_type", "settings"), [("no_such", {}), ("local_accounts", {"minimum_passwrd": 3})]
)
def test_login_of_an_unusable_record_is_left_out_and_the_others_stay(
    parts: WorkforceParts, of_type: str, settings: dict[str, object]
) -> None:
    declared = {
        "odd": ProviderRecord("odd", of_type, settings),
        "local": ProviderRecord("local", "local_accounts", {}),
    }
    assert list(PersonLogins(lambda: declared, parts)()) == ["local"]


def test_settings_models_name_every_connector_type() -> None:
    assert set(settings_models()) == {
        ("IdentityProvider", "keycloak"),
        ("IdentityProvider", "local_accounts"),
        ("TrustProvider", "platform_token"),
        ("TrustProvider", "spiffe"),
        ("IdentityProvider", "oidc"),
        ("TrustProvider", "unix_process"),
    }
    for model in settings_models().values():
        assert model.model_config["extra"] == "forbid"


def test_group_beyond_the_bound_is_refused(local: LocalAccounts) -> None:
    add(local)
    many = tuple(f"group{number}" for number in range(65))
    assert isinstance(change(local, groups=many), Refusal)
    assert isinstance(change(local, groups=many[:64]), Account)

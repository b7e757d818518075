"""What the admin API is told of keys, database, identity providers and people: no secrets."""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from admin_console.facts import CalledFacts
from authz_server.compiled_snapshot import SnapshotCompiler
from authz_server.issuing.signing_keys import KeyRing
from authz_server.requested_access import ServerAtEndpoint, shown_tools
from authz_server.store.consents import Consent, ConsentStore, grant_in
from authz_server.store.people import PeopleFinder
from authz_server.store.persons import PersonStore
from authz_server.store.sessions import SessionStore
from authz_server.store.signing_keys import SigningKeyStore
from countersign.admin_facts import KnownPeople, ServerFacts
from countersign.migrations.run import upgrade
from credential_providers.vault.store import VaultStore
from database.engine import Database
from idp_connectors.evidence import Person
from idp_connectors.workforce.account_store import Account
from outbound.fetcher import Fetched, Fetcher, FetchError, FetchPolicy
from registry.blocks import BlockKind
from registry.revocations import RevocationStore
from registry.snapshot import ProviderRecord
from tests.authz_server.front_half import sample_snapshot
from tests.authz_server.login_sessions import logged_in_at

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
IDP = "https://idp.example.com"
METADATA = {
    "issuer": IDP,
    "authorization_endpoint": f"{IDP}/auth",
    "token_endpoint": f"{IDP}/token",
    "jwks_uri": f"{IDP}/keys",
}
OIDC = {"issuer": IDP, "client_id": "countersign"}
ALICE = Person("keycloak", IDP, "f:alice", "Alice", ("keycloak/support",), "phr", NOW)


class Pages:
    """A fetcher of a few documents."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {
            f"{IDP}/.well-known/openid-configuration": METADATA,
            f"{IDP}/keys": {"keys": []},
        }

    async def get(
        self, url: str, policy: FetchPolicy, *, headers: Mapping[str, str] | tuple[()] = ()
    ) -> Fetched:
        del policy, headers
        page = self.pages.get(url)
        if isinstance(page, FetchError):
            raise page

        return Fetched(404 if page is None else 200, {}, json.dumps(page).encode())


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Migrated as a server does it, on both databases."""
    upgrade(database_url)
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
async def facts(database: Database, pages: Pages) -> ServerFacts:
    store = SigningKeyStore(database)
    keyring = await KeyRing.open(
        store,
        signing_kek=b"s" * 32,
        vault_kek=b"v" * 32,
        random=secrets.token_bytes,
        now_ms=NOW * 1000,
    )
    return ServerFacts(
        lease_seconds=3.0,
        keyring=keyring,
        key_store=store,
        the_database=database,
        vault=VaultStore(database, keyring.vault_private_jwk),
        fetcher=cast("Fetcher", pages),
        clock=lambda: float(NOW),
        compiler=SnapshotCompiler(),
    )


@pytest.mark.requirement("operator-doctor")
async def test_keys_are_told_by_purpose_state_and_age_alone(facts: ServerFacts) -> None:
    keys = facts.keys()
    assert {each.purpose for each in keys} >= {"tokens", "id_tokens", "control", "vault"}
    assert {(each.state, each.created_at_ms) for each in keys} == {("active", NOW * 1000)}
    published = {each.key_id for each in keys if each.purpose in {"tokens", "id_tokens"}}
    assert set(facts.published_key_ids()) == published


@pytest.mark.requirement("operator-doctor")
async def test_database_is_told_with_its_schema_and_the_one_this_release_knows(
    facts: ServerFacts,
) -> None:
    found = facts.database()
    assert (found.kind, found.journal) in {("sqlite", "wal"), ("postgresql", "")}
    assert found.version[0].isdigit()
    assert found.schema == found.head != ""
    assert found.read_ms >= 0


@pytest.mark.requirement("operator-doctor")
@pytest.mark.parametrize(
    ("url", "page", "code"),
    [
        ("", None, ""),
        ("/.well-known/openid-configuration", FetchError("unreachable", "OSError"), "unreachable"),
        ("/.well-known/openid-configuration", METADATA | {"issuer": f"{IDP}/"}, "issuer"),
        ("/.well-known/openid-configuration", {"issuer": IDP}, "not_json"),
        ("/.well-known/openid-configuration", None, "status"),
        ("/keys", FetchError("tls", "ClientSSLError"), "tls"),
        ("/keys", {}, "not_json"),
    ],
)
async def test_identity_provider_is_asked_as_a_login_would(
    facts: ServerFacts, pages: Pages, url: str, page: Any, code: str
) -> None:
    pages.pages[f"{IDP}{url}"] = page
    found = await facts.provider(ProviderRecord("keycloak", "oidc", OIDC))
    assert found.code == code


async def test_identity_provider_without_its_secret_or_without_an_address(
    facts: ServerFacts,
) -> None:
    missing = ProviderRecord("keycloak", "oidc", {**OIDC, "client_secret": "oidc-secret"})
    assert (await facts.provider(missing)).code == "secret_missing"
    local = ProviderRecord("local", "local_accounts", {})
    assert (await facts.provider(local)).code == ""


class Accounts:
    """The accounts of one provider."""

    async def accounts(self) -> tuple[Account, ...]:
        account = Account("acc_1", "local", "bob", "Bob", ("staff",), False, "x", 0, 0)
        return (account, replace(account, id="acc_2", username="zoe"))


@pytest.fixture
def people(database: Database) -> KnownPeople:
    return KnownPeople(
        finder=PeopleFinder(database),
        consent_store=cast("Any", None),
        live=cast("Any", None),
        accounts=lambda: {"local": cast("Any", Accounts())},
        clock=lambda: float(NOW),
    )


@pytest.mark.requirement("operator-names")
async def test_person_is_found_by_name_in_any_case_by_subject_and_by_id(
    database: Database, people: KnownPeople
) -> None:
    persons = PersonStore(database, secrets.token_bytes)
    sub = (await persons.remember(ALICE, NOW)).sub
    for name in ("alice", "ALICE", "f:alice", sub):
        (found,) = await people.named(name)
        assert (found.sub, found.identity_provider, found.login) == (sub, "keycloak", "Alice")
        assert found.by_shown_name == (name.lower() == "alice")
    assert await people.named("ali") == ()


@pytest.mark.requirement("operator-names")
async def test_people_of_one_name_at_two_providers_are_two(
    database: Database, people: KnownPeople
) -> None:
    persons = PersonStore(database, secrets.token_bytes)
    await persons.remember(ALICE, NOW)
    await persons.remember(replace(ALICE, identity_provider="entra"), NOW)
    assert {each.identity_provider for each in await people.named("alice")} == {"keycloak", "entra"}


@pytest.mark.requirement("operator-names")
async def test_people_are_named_by_id_and_as_authors_and_strangers_left_out(
    database: Database, people: KnownPeople
) -> None:
    persons = PersonStore(database, secrets.token_bytes)
    alice = (await persons.remember(ALICE, NOW)).sub
    bob = replace(ALICE, identity_provider="local", subject="acc_1", name="Robert")
    sub = (await persons.remember(bob, NOW)).sub
    asked = {alice, sub, "keycloak/f:alice", "local/acc_1", "entra/f:alice", "usr_x", "local:0"}
    shown, kept = CalledFacts("Alice", is_sure=False), CalledFacts("bob", is_sure=True)
    assert await people.logins(asked) == {
        alice: shown, "keycloak/f:alice": shown, sub: kept, "local/acc_1": kept,
    }  # fmt: skip
    assert set(await people.names()) == {"Alice", "Robert", "bob", "zoe"}


@pytest.mark.requirement("operator-names")
async def test_login_name_that_two_providers_gave_is_nobody_s_for_sure(
    database: Database, people: KnownPeople
) -> None:
    bob = replace(ALICE, identity_provider="local", subject="acc_1", name="Robert")
    sub = (await PersonStore(database, secrets.token_bytes).remember(bob, NOW)).sub
    two = replace(
        people, accounts=lambda: dict.fromkeys(("local", "branch"), cast("Any", Accounts()))
    )
    assert await two.logins({sub}) == {sub: CalledFacts("bob", is_sure=False)}
    assert await people.logins({sub}) == {sub: CalledFacts("bob", is_sure=True)}


async def test_groups_are_those_of_the_latest_living_session(
    database: Database, people: KnownPeople
) -> None:
    sub = (await PersonStore(database, secrets.token_bytes).remember(ALICE, NOW)).sub
    assert (await people.named("alice"))[0].groups is None
    sessions = SessionStore(database, secrets.token_bytes)
    await logged_in_at(sessions, sub, replace(ALICE, groups=("keycloak/old",)), NOW - 60)
    await logged_in_at(sessions, sub, ALICE, NOW - 10)
    (found,) = await people.named("alice")
    assert (found.groups, found.acr) == (("keycloak/support",), "phr")


async def test_account_nobody_logged_in_to_is_known_without_an_id(
    database: Database, people: KnownPeople
) -> None:
    (new,) = await people.named("Bob")
    assert (new.sub, new.login, new.groups) == ("", "bob", ("local/staff",))
    person = Person("local", "https://as/identity/local", "acc_1", "Robert", (), "pwd", NOW)
    sub = (await PersonStore(database, secrets.token_bytes).remember(person, NOW)).sub
    (found,) = await people.named("bob")
    assert not found.by_shown_name
    assert (found.sub, found.login, found.groups) == (sub, "bob", ("local/staff",))


@pytest.mark.requirement("operator-explain")
async def test_consent_is_told_with_the_tools_that_stand_and_not_when_it_was_withdrawn(
    database: Database, people: KnownPeople
) -> None:
    snapshot = sample_snapshot("https://as.example.com")
    endpoint = ServerAtEndpoint(snapshot.servers["crm"], snapshot.agents["support-bot"])
    shown = shown_tools(endpoint, ("get_account",))
    store = ConsentStore(database)
    for gid, scope in (("grt_1", "mcp:tools"), ("grt_2", "mcp:tools offline_access")):
        consent = Consent(
            gid=gid,
            sub="usr_1",
            agent="support-bot",
            server="crm",
            tools=shown | {"refund": "as it was once"},
            scope=scope,
            created_at=NOW,
            expires_at=NOW + 60,
        )
        await database.write(partial(grant_in, consent=consent))
    revocations = RevocationStore(database, lambda: NOW)
    live = cast("Any", SimpleNamespace(snapshot=snapshot, blocks=revocations.state()))
    known = replace(people, consent_store=store, live=live)

    async def told() -> dict[str, tuple[str, ...]]:
        found = await known.consents("usr_1", "support-bot", "crm", NOW)
        return {each.gid: each.tools for each in found}

    assert await told() == {"grt_1": ("get_account",), "grt_2": ("get_account",)}
    await revocations.block(BlockKind.CONSENT, "grt_1", reason="withdrawn", author="local:0")
    live.blocks = revocations.state()
    assert await told() == {"grt_2": ("get_account",)}

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from credential_providers.vault.seal import seal_credential, seal_secret
from credential_providers.vault.store import SecretVersion, VaultStore
from database.engine import Database
from tests.credential_providers.samples import GATEWAY_KEY, VAULT_KEY
from tests.databases import change_stored, everything_in
from token_exchange.claims import Refusal

PUBLIC = VAULT_KEY.as_dict(private=False)


def private_key_of(key_id: str) -> Mapping[str, Any] | None:
    return VAULT_KEY.as_dict(private=True) if key_id == VAULT_KEY.thumbprint() else None


@pytest.fixture
def database(database_url_with_tables: str) -> Iterator[Database]:
    opened = Database.open(database_url_with_tables)
    yield opened
    opened.close()


@pytest.fixture
def vault(database: Database) -> VaultStore:
    return VaultStore(database, private_key_of)


def put(vault: VaultStore, name: str, sealed: str) -> SecretVersion | Refusal:
    return asyncio.run(vault.put(name, sealed, "usr_admin", 1_000))


def test_vault_opens_the_newest_version_of_a_secret(vault: VaultStore) -> None:
    first = put(vault, "notes-key", seal_secret("notes-key", "old", PUBLIC))
    second = put(vault, "notes-key", seal_secret("notes-key", "new", PUBLIC))
    assert isinstance(first, SecretVersion)
    assert isinstance(second, SecretVersion)
    assert (first.version, second.version, second.author) == (1, 2, "usr_admin")
    assert asyncio.run(vault.open("notes-key")) == "new"


def test_vault_lists_versions_without_content(vault: VaultStore) -> None:
    put(vault, "notes-key", seal_secret("notes-key", "old", PUBLIC))
    put(vault, "notes-key", seal_secret("notes-key", "new", PUBLIC))
    put(vault, "crm-key", seal_secret("crm-key", "c", PUBLIC))
    listed = vault.versions()
    assert [(row.name, row.version) for row in listed] == [
        ("crm-key", 1),
        ("notes-key", 2),
        ("notes-key", 1),
    ]
    assert not hasattr(listed[0], "sealed")


def test_vault_without_the_secret_refuses(vault: VaultStore) -> None:
    refusal = asyncio.run(vault.open("notes-key"))
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "vault.absent"


@pytest.mark.parametrize(
    "sealed",
    [
        "plain-text-secret",
        "",
        "x" * 20_000,
        seal_secret("crm-key", "k", PUBLIC),
        seal_secret("notes-key", "k", GATEWAY_KEY.as_dict(private=False)),
        seal_credential("X-Key", "k", PUBLIC),
    ],
    ids=["plain", "empty", "large", "other name", "other key", "other kind"],
)
def test_vault_put_of_what_it_could_not_open_is_refused(vault: VaultStore, sealed: str) -> None:
    refusal = put(vault, "notes-key", sealed)
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "vault.put"
    assert not sealed or sealed not in refusal.detail
    assert vault.versions() == ()


@pytest.mark.requirement("trap-moved-secret")
def test_vault_row_moved_under_another_name_does_not_open(
    vault: VaultStore, database: Database
) -> None:
    put(vault, "notes-key", seal_secret("notes-key", "k-notes", PUBLIC))
    put(vault, "crm-key", seal_secret("crm-key", "k-crm", PUBLIC))
    change_stored(
        database,
        "UPDATE sealed_secrets SET sealed ="
        " (SELECT sealed FROM sealed_secrets WHERE name = 'crm-key') WHERE name = 'notes-key'",
    )
    assert isinstance(asyncio.run(vault.open("notes-key")), Refusal)
    assert asyncio.run(vault.open("crm-key")) == "k-crm"


def test_vault_whose_key_is_gone_refuses(vault: VaultStore, database: Database) -> None:
    put(vault, "notes-key", seal_secret("notes-key", "k", PUBLIC))
    refusal = asyncio.run(VaultStore(database, lambda _: None).open("notes-key"))
    assert isinstance(refusal, Refusal)
    assert refusal.rule == "vault.key"


@pytest.mark.requirement("attack-26")
def test_vault_database_never_contains_the_secret(vault: VaultStore, database: Database) -> None:
    put(vault, "notes-key", seal_secret("notes-key", "canary-secret-0002", PUBLIC))
    content = everything_in(database)
    assert b"notes-key" in content
    assert b"canary-secret-0002" not in content

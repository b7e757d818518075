"""Answers what the admin API asks of packages it does not import: `admin_console.facts`."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from admin_console.facts import (
    CalledFacts,
    ConsentFacts,
    DatabaseFacts,
    KeyFacts,
    PersonFacts,
    ProviderFacts,
)
from authz_server.compiled_snapshot import SnapshotCompiler
from authz_server.issuing.signing_keys import KeyRing
from authz_server.requested_access import ServerAtEndpoint, available_tools, shown_tools
from authz_server.standing_consents import standing_consents
from authz_server.store.consents import ConsentStore
from authz_server.store.people import FoundPerson, PeopleFinder
from authz_server.store.signing_keys import SigningKeyStore
from countersign.migrations.run import FOLDER
from credential_providers.vault.store import VaultStore
from database.engine import Database
from idp_connectors.catalog import WORKFORCE
from idp_connectors.workforce.account_store import Account
from idp_connectors.workforce.local_accounts import LocalAccounts
from idp_connectors.workforce.oidc_settings import OidcSettings
from idp_connectors.workforce.openid_metadata import openid_metadata
from outbound.discovery import discover
from outbound.fetcher import Fetcher, FetchError
from outbound.jwks import JwksCache
from policies.decide import CompiledPolicySet
from registry.live import LiveRegistry
from registry.snapshot import ProviderRecord, RegistrySnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """`SystemFacts` of one authorization server."""

    lease_seconds: float
    keyring: KeyRing
    key_store: SigningKeyStore
    the_database: Database
    vault: VaultStore
    fetcher: Fetcher
    clock: Callable[[], float]
    compiler: SnapshotCompiler

    def keys(self) -> tuple[KeyFacts, ...]:
        """See `SystemFacts`."""
        return tuple(
            KeyFacts(key.purpose, key.state.value, key.key_id, key.created_at_ms)
            for key in self.key_store.all()
        )

    def published_key_ids(self) -> tuple[str, ...]:
        """See `SystemFacts`."""
        return tuple(str(jwk["kid"]) for jwk in self.keyring.published_jwks())

    def database(self) -> DatabaseFacts:
        """See `SystemFacts`."""
        started = time.perf_counter()
        kind, version, journal, schema = self.the_database.read(_read_facts)
        read_ms = (time.perf_counter() - started) * 1000
        config = Config()
        config.set_main_option("script_location", FOLDER.as_posix().replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        head = ScriptDirectory.from_config(config).get_current_head() or ""
        return DatabaseFacts(kind, version, journal, schema, head, read_ms)

    async def provider(self, record: ProviderRecord) -> ProviderFacts:
        """See `SystemFacts`: its metadata, its keys, and whether our secret for it is here."""
        row = WORKFORCE.get(record.type)
        settings = None if row is None else row.settings.model_validate(record.settings)
        if not isinstance(settings, OidcSettings):
            return ProviderFacts("", f"{record.type}: nothing to reach")
        secret = settings.client_secret
        if secret is not None and secret not in {each.name for each in self.vault.versions()}:
            return ProviderFacts("secret_missing", f"there is no secret {secret}")
        what = "metadata"
        try:
            published = await discover(self.fetcher, settings.issuer, settings.policy)
            metadata = openid_metadata(published, settings.policy)
            what = "keys"
            keys = JwksCache(self.fetcher, self.clock)  # of its own: past what is remembered
            await keys.keys(metadata.jwks_uri, settings.policy, kid=None)
        except FetchError as error:
            return ProviderFacts(error.code, f"{what} of {settings.issuer}: {error}")
        return ProviderFacts("", f"{settings.issuer}: metadata and keys are here")

    async def policies(self, snapshot: RegistrySnapshot) -> CompiledPolicySet | None:
        """See `SystemFacts`."""
        return (await self.compiler.compiled(snapshot)).policies


def _read_facts(connection: Connection) -> tuple[str, str, str, str]:
    schema = ",".join(MigrationContext.configure(connection).get_current_heads())
    if connection.dialect.name == "sqlite":
        version = str(connection.scalar(text("SELECT sqlite_version()")))
        journal = str(connection.scalar(text("PRAGMA journal_mode")))
        return "sqlite", version, journal, schema
    version = str(connection.scalar(text("SHOW server_version"))).split()[0]
    return "postgresql", version, "", schema


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPeople:
    """`PeopleFacts` of one authorization server."""

    finder: PeopleFinder
    consent_store: ConsentStore
    live: LiveRegistry
    accounts: Callable[[], Mapping[str, LocalAccounts]]
    clock: Callable[[], float]

    async def named(self, name: str) -> tuple[PersonFacts, ...]:
        """See `PeopleFacts`; an account nobody has logged in to yet has no `sub`."""
        accounts = await self._accounts()
        meant = {key: each for key, each in accounts.items() if each.username == name.lower()}
        subjects = frozenset(account_id for _, account_id in meant)
        persons = await self.finder.named(name, subjects, int(self.clock()))
        found = [
            _person(each, accounts.get((each.known.identity_provider, each.known.subject)), name)
            for each in persons
        ]
        seen = {(each.known.identity_provider, each.known.subject) for each in persons}
        found += [_account(each) for key, each in meant.items() if key not in seen]
        return tuple(found)

    async def names(self) -> tuple[str, ...]:
        """See `PeopleFacts`."""
        accounts = await self._accounts()
        shown = await self.finder.shown_names()
        return tuple({*shown, *(each.username for each in accounts.values())})

    async def logins(self, ids: Collection[str]) -> dict[str, CalledFacts]:
        """See `PeopleFacts`; a user name is one account's at each provider only."""
        accounts = await self._accounts()
        having = Counter(each.username for each in accounts.values())
        wanted = frozenset(ids)
        subjects = frozenset(each.partition("/")[2] for each in wanted if "/" in each)
        called: dict[str, CalledFacts] = {}
        for each in await self.finder.known(wanted, subjects):
            account = accounts.get((each.identity_provider, each.subject))
            facts = CalledFacts(each.display_name, is_sure=False)
            if account is not None:
                facts = CalledFacts(account.username, is_sure=having[account.username] == 1)
            called |= {each.sub: facts, f"{each.identity_provider}/{each.subject}": facts}
        return {name: called[name] for name in wanted if name in called}

    async def _accounts(self) -> dict[tuple[str, str], Account]:
        return {
            (provider, account.id): account
            for provider, login in self.accounts().items()
            for account in await login.accounts()
        }

    async def consents(
        self, sub: str, agent: str, server: str, now: int
    ) -> tuple[ConsentFacts, ...]:
        """See `PeopleFacts`: what changed since, or was withdrawn, is left out."""
        record = self.live.snapshot.agents.get(agent)
        entry = self.live.snapshot.servers.get(server)
        if record is None or entry is None:
            return ()
        endpoint = ServerAtEndpoint(entry, record)
        today = shown_tools(endpoint, tuple(available_tools(endpoint)))
        standing = await standing_consents(
            self.consent_store, self.live, sub=sub, agent=agent, server=server, now=now
        )
        return tuple(
            ConsentFacts(consent.gid, tuple(sorted(consent.agreed(today))), consent.expires_at)
            for consent in standing
        )


def _person(found: FoundPerson, account: Account | None, name: str) -> PersonFacts:
    known, claims = found.known, found.claims
    groups = None if claims is None else claims.groups
    if account is not None:  # of today, not of the login
        groups = _groups(account)
    return PersonFacts(
        sub=known.sub,
        identity_provider=known.identity_provider,
        login=known.display_name if account is None else account.username,
        groups=groups,
        acr=None if claims is None else claims.acr,
        auth_time=None if claims is None else claims.auth_time,
        by_shown_name=account is None and name not in {known.sub, known.subject},
    )


def _account(account: Account) -> PersonFacts:
    return PersonFacts("", account.provider, account.username, _groups(account), None, None)


def _groups(account: Account) -> tuple[str, ...]:
    return tuple(f"{account.provider}/{group}" for group in account.groups)

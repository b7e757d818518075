"""The admin API in process: its real app over a real SQLite database, tokens and proofs to match.

One event loop per stack, so that locks and queues live as they do in a server.
"""

import asyncio
import json
import secrets
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import argon2
import httpx2
import msgspec
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from admin_console.api import create_admin_app
from admin_console.facts import (
    CalledFacts,
    ConsentFacts,
    DatabaseFacts,
    KeyFacts,
    PersonFacts,
    ProviderFacts,
)
from admin_console.parts import AdminParts, PersonKey
from admin_console.setup_codes import SetupCodes
from audit_log.event import AuditEvent, EventType
from audit_log.refusal_budgets import RefusalBudgets
from audit_log.search import AuditFilter
from audit_log.spool import Spool
from audit_log.store import AuditStore
from audit_log.transaction_log import SOURCE as DATABASE
from authz_server.account_cuts import cut_account_off_in
from authz_server.store.persons import PersonStore
from countersign.policy_audit import activation_recorder
from credential_providers.vault.store import VaultStore
from database.engine import Database
from idp_connectors.workforce.local_accounts import LocalAccounts, LocalAccountsSettings
from idp_connectors.workforce.parts import WorkforceParts
from idp_connectors.workforce.password_hashing import PasswordHashing
from idp_connectors.workload.peer import PeerIdentity
from idp_connectors.workload.peer_http import PEER_EXTENSION
from idp_connectors.workload.process_facts import ProcessFacts
from outbound.discovery import DiscoveryCache
from outbound.fetcher import Fetcher
from outbound.jwks import JwksCache
from policies.compile import compile_policy_set
from policies.decide import CompiledPolicySet
from registry.acks import AckStore
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.policy_compiler import catalogue_of
from registry.revocations import RevocationStore
from registry.server_reports import ServerReportStore
from registry.snapshot import ProviderRecord, RegistrySnapshot
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from tests.databases import new_database
from tests.registry.samples import SETTINGS_MODELS, FakeClock, naming_compiler
from tests.token_exchange.signing import (
    ISSUER,
    KEYS,
    NOW,
    SIGNER,
    access_token_header,
    base64url,
    public_jwk,
    sign,
)
from token_exchange.proof_of_possession import DpopProof

if TYPE_CHECKING:
    from authz_server.parts import Parts

T = TypeVar("T")

BASE: Final = f"{ISSUER}/admin/v1"
CONTROL_THUMBPRINT: Final = "thumbprint-of-the-control-key"
PERSON_KEY: Final = ECKey.generate_key("P-256")
VAULT_KEY: Final = ECKey.generate_key("P-256")
PEOPLE: Final = {
    "usr_alice": PersonKey("local", f"{ISSUER}/identity/local", "acc_alice"),
    "usr_olga": PersonKey("local", f"{ISSUER}/identity/local", "acc_olga"),
    "usr_vera": PersonKey("local", f"{ISSUER}/identity/local", "acc_vera"),
    # The same subject at the issuer that the provider had before.
    "usr_alice_before": PersonKey("local", "https://idp.before.example", "acc_alice"),
    "usr_nobody": PersonKey("local", f"{ISSUER}/identity/local", "acc_nobody"),
}
LOCAL: Final = PeerIdentity(
    ProcessFacts(
        pid=4711,
        parent_pid=1,
        start_time=1,
        uids=(1000, 1000, 1000, 1000),
        gids=(1000, 1000, 1000, 1000),
        cgroup="/",
        unit=None,
        exe="/usr/bin/python3",
    ),
    is_pinned=True,
)


async def person_of(sub: str) -> PersonKey | None:
    """As the store of persons."""
    return PEOPLE.get(sub)


def admin_token(sub: str, /, **changes: object) -> str:
    """An access token for the admin API, with changes; a claim of None is left out."""
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": f"{ISSUER}/admin",
        "jti": f"tok_{sub}",
        "iat": NOW,
        "exp": NOW + 900,
        "sub": sub,
        "sub_profile": "user",
        "client_id": "countersign-cli",
        "cnf": {"jkt": PERSON_KEY.thumbprint()},
        **changes,
    }
    given = {name: value for name, value in claims.items() if value is not None}
    return sign(access_token_header(), given, SIGNER)


def dpop_proof(
    method: str, uri: str, token: str, *, key: ECKey = PERSON_KEY, **changes: object
) -> str:
    """A proof for one request, with changes to its claims."""
    claims = {
        "htm": method,
        "htu": uri,
        "iat": NOW,
        "jti": secrets.token_hex(16),
        "ath": base64url(sha256(token.encode()).digest()),
        **changes,
    }
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(key)}
    return sign(header, claims, key)


@dataclass
class FakeSystem:
    """What the process says of itself; tests change what they are about."""

    lease_seconds: float = 3.0
    facts: DatabaseFacts = field(
        default_factory=lambda: DatabaseFacts("sqlite", "3.45.0", "wal", "9", "9", 0.5)
    )
    listed: tuple[KeyFacts, ...] = (KeyFacts("tokens", "active", "k1", NOW * 1000),)
    found: ProviderFacts = field(default_factory=lambda: ProviderFacts("", "all is here"))
    asked: int = 0
    fails: Exception | None = None
    compiles: bool = True

    def keys(self) -> tuple[KeyFacts, ...]:
        self.asked += 1
        return self.listed

    def published_key_ids(self) -> tuple[str, ...]:
        return tuple(each.key_id for each in self.listed)

    def database(self) -> DatabaseFacts:
        if self.fails is not None:
            raise self.fails
        return self.facts

    async def provider(self, record: ProviderRecord) -> ProviderFacts:
        del record
        return self.found

    async def policies(self, snapshot: RegistrySnapshot) -> CompiledPolicySet | None:
        """The documents that are Cedar: other tests speak `naming_compiler`'s language."""
        if not self.compiles:
            return None
        cedar = [each for each in snapshot.policies.documents if "@id" in each.cedar]
        servers = [catalogue_of(each) for each in snapshot.servers.values()]
        found = compile_policy_set(snapshot.policies.version, cedar, servers)
        assert isinstance(found, CompiledPolicySet), found
        return found


@dataclass
class FakePeople:
    """Who has logged in."""

    known: list[PersonFacts] = field(default_factory=list)
    agreed: list[ConsentFacts] = field(default_factory=list)

    async def named(self, name: str) -> list[PersonFacts]:
        return [each for each in self.known if name in {each.login, each.sub}]

    async def names(self) -> list[str]:
        return [each.login for each in self.known]

    async def logins(self, ids: Collection[str]) -> dict[str, CalledFacts]:
        return {
            each.sub: CalledFacts(each.login, is_sure=not each.by_shown_name)
            for each in self.known
            if each.sub in ids
        }

    async def consents(self, sub: str, agent: str, server: str, now: int) -> list[ConsentFacts]:
        del sub, agent, server, now
        return self.agreed


@dataclass
class Answer:
    """Status, headers and JSON of an answer."""

    status: int
    json: Any
    headers: Mapping[str, str]


@dataclass
class AdminStack:
    """The parts, and a way to call the app."""

    parts: AdminParts
    database: Database
    clock: FakeClock
    runner: asyncio.Runner
    app: Starlette

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        who: str | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        extensions: dict[str, object] | None = None,
    ) -> Answer:
        """One request: as `who` (a `sub`) with token and proof, else over the local socket."""
        return self.run(
            self.acall(
                method,
                path,
                body=body,
                who=who,
                token=token,
                headers=headers,
                content=content,
                extensions=extensions,
            )
        )

    async def acall(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        who: str | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        extensions: dict[str, object] | None = None,
    ) -> Answer:
        token = admin_token(who) if token is None and who is not None else token
        sent = dict(headers or {})
        if token is not None and "authorization" not in sent:
            uri = f"{BASE}{path}".partition("?")[0]
            sent["authorization"] = f"DPoP {token}"
            sent.setdefault("dpop", dpop_proof(method, uri, token))
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            sent.setdefault("content-type", "application/json")
        peer = {PEER_EXTENSION: LOCAL} if token is None and not headers else {}
        app = self.app

        async def with_extensions(scope: Scope, receive: Receive, send: Send) -> None:
            given = peer if extensions is None else extensions
            await app({**scope, "extensions": given}, receive, send)

        transport = httpx2.ASGITransport(with_extensions)
        async with httpx2.AsyncClient(transport=transport) as client:
            answer = await client.request(method, f"{BASE}{path}", headers=sent, content=content)
        value = answer.json() if answer.content and method != "HEAD" else None
        return Answer(answer.status_code, value, answer.headers)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the stack's loop."""
        return self.runner.run(work)

    def events(self, kind: EventType | None = None) -> list[AuditEvent]:
        """What was recorded, the spool's events first, without its own; each oldest first."""
        self.parts.spool.flush()
        found: list[AuditEvent] = []
        for path in sorted(self.parts.spool._root.glob("*/*.log")):
            for line in path.read_bytes().splitlines():
                event = msgspec.json.decode(line[18:], type=AuditEvent)
                if event.type is not EventType.SOURCE_STARTED:
                    found.append(event)
        # What is written in the transaction that does what it tells of.
        stored = self.parts.audit_store.search(AuditFilter()).events
        found += [each.event for each in reversed(stored) if each.event.source == DATABASE]
        return [event for event in found if kind is None or event.type is kind]


def close_stack(stack: AdminStack) -> None:
    """Close everything the stack opened."""
    stack.parts.spool.close()
    stack.database.close()
    stack.runner.close()


def open_stack(directory: Path) -> AdminStack:
    """A stack in a directory: empty, or with the database of another stack."""
    runner = asyncio.Runner()
    file = directory / "countersign.db"
    database = Database.open(f"sqlite:///{file}") if file.exists() else new_database(directory)
    clock = FakeClock(float(NOW))
    used: set[str] = set()

    async def use_proof(proof: DpopProof) -> bool:
        is_fresh = proof.replay_key not in used
        used.add(proof.replay_key)
        return is_fresh

    def private_vault_key(key_id: str) -> Mapping[str, Any] | None:
        return VAULT_KEY.as_dict(private=True) if key_id == VAULT_KEY.thumbprint() else None

    fetcher = Fetcher()
    authority = SimpleNamespace(clock=clock, persons=PersonStore(database, secrets.token_bytes))
    local = LocalAccounts(
        "local",
        LocalAccountsSettings(),
        ("*",),
        WorkforceParts(
            issuer=ISSUER,
            database=database,
            hashing=PasswordHashing(
                argon2.Parameters(
                    type=argon2.Type.ID,
                    version=19,
                    salt_len=16,
                    hash_len=32,
                    time_cost=1,
                    memory_cost=8,
                    parallelism=1,
                )
            ),
            random=secrets.token_bytes,
            clock=clock,
            fetcher=fetcher,
            discovery=DiscoveryCache(fetcher, clock),
            jwks=JwksCache(fetcher, clock),
            secrets=VaultStore(database, private_vault_key),
        ),
    )
    parts = AdminParts(
        issuer=ISSUER,
        clock=clock,
        random=secrets.token_bytes,
        registry=RegistryStore(
            database,
            issuer=ISSUER,
            settings_models=SETTINGS_MODELS,
            clock=clock,
            compiler=naming_compiler,
            activated=activation_recorder(secrets.token_bytes),
        ),
        live=LiveRegistry(
            database, issuer=ISSUER, settings_models=SETTINGS_MODELS, monotonic=clock
        ),
        revocations=RevocationStore(database, clock),
        acks=AckStore(database),
        catalogue=ToolCatalogue(
            database,
            issuer=ISSUER,
            settings_models=SETTINGS_MODELS,
            clock=clock,
            compiler=naming_compiler,
            activated=activation_recorder(secrets.token_bytes),
        ),
        enrolment=EnrolmentStore(database),
        audit_store=AuditStore(database, clock=clock),
        spool=Spool.open(directory / "spool", "authority", clock=clock, background_flush=False),
        refusal_budgets=RefusalBudgets(),
        setup_codes=SetupCodes(database, random=secrets.token_bytes),
        vault=VaultStore(database, private_vault_key),
        accounts=lambda: {"local": local},
        cut_off=partial(cut_account_off_in, cast("Parts", authority)),
        vault_key=lambda: public_jwk(VAULT_KEY),
        control_key_thumbprint=lambda: CONTROL_THUMBPRINT,
        token_keys=lambda: KEYS,
        person_of=person_of,
        use_proof=use_proof,
        server_reports=ServerReportStore(database),
        system=FakeSystem(),
        people=FakePeople(),
    )
    return AdminStack(parts, database, clock, runner, create_admin_app(parts))


def role(name: str, subject: str, held: str) -> dict[str, Any]:
    """An AdminRole document."""
    spec = {"identity_provider": "local", "subject": subject, "role": held}
    return {"kind": "AdminRole", "name": name, "spec": spec}

"""One whole authorization server in this process: real stores, keys, policies and providers.

Around it the parties that talk to its token endpoint and control channel: a workload with an
attestation, a gateway with an enrolled key, and whoever holds neither.
"""

import asyncio
import secrets
import tempfile
import threading
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import httpx2
import msgspec
from joserfc.jwk import ECKey

from audit_log.event import AuditEvent, EventType
from audit_log.spool import Spool, SpoolUnavailable
from audit_log.store import AuditStore
from authz_server.app import create_app
from authz_server.endpoints.metadata import server_metadata
from authz_server.issuing.session_seal import SessionSeal
from authz_server.issuing.signing_keys import KeyPurpose, KeyRing
from authz_server.parts import Parts
from authz_server.store.codes import CodeStore
from authz_server.store.consents import ConsentStore
from authz_server.store.interactions import InteractionStore
from authz_server.store.person_cuts import PersonCuts
from authz_server.store.persons import PersonStore
from authz_server.store.refresh_tokens import RefreshTokenStore
from authz_server.store.replay import ReplayStore
from authz_server.store.reported_changes import ReportedChanges
from authz_server.store.sessions import SessionStore
from authz_server.store.signing_keys import SigningKeyStore
from authz_server.store.upstream_logins import UpstreamLoginStore
from authz_server.store.upstream_sessions import UpstreamSessionStore
from credential_providers import catalog as credential_catalog
from credential_providers.catalog import CredentialParts, CredentialProviders
from credential_providers.vault.seal import seal_secret
from credential_providers.vault.store import VaultStore
from database.engine import Database
from idp_connectors import catalog as connector_catalog
from idp_connectors.workload.catalog import WorkloadVerifiers
from idp_connectors.workload.verifier import WorkloadParts
from outbound.jwks import JwksCache
from registry.acks import AckStore
from registry.blocks import BlockKind
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.objects import DeclaredObject
from registry.revocations import RevocationStore
from registry.server_reports import ServerReportStore
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from tests.authz_server.cuts import cuts_in
from tests.databases import new_database
from tests.outbound.samples import TableFetcher
from tests.token_exchange.signing import public_jwk, sign
from token_exchange.claims import (
    AccessTokenClaims,
    Actor,
    Attestation,
    AuthorizationDetail,
    Confirmation,
    JwkThumbprint,
    UserContext,
)
from token_exchange.identifiers import new_id
from token_exchange.proof_of_possession import access_token_hash
from token_exchange.token_types import (
    ATTESTATION_TYP,
    CLIENT_ASSERTION_JWT_BEARER,
    CLIENT_ASSERTION_TYP,
    DPOP_PROOF_TYP,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
)

ISSUER = "http://127.0.0.1:8700"
TOKEN_URI = f"{ISSUER}/oauth/token"
CONTROL = f"{ISSUER}/control/v1"
ADMIN = f"{ISSUER}/admin"
BASE_URL = "http://127.0.0.1:8701"
CRM = f"{BASE_URL}/crm/mcp"
NOTES = f"{BASE_URL}/notes/mcp"
OTHER_CRM = "http://127.0.0.1:8702/ledger/mcp"
CRM_URL = "http://127.0.0.1:9001/mcp"
CRM_AUDIENCE = "https://crm.example.com"
NOTES_URL = "http://127.0.0.1:9002/mcp"
LEDGER_URL = "http://127.0.0.1:9003/mcp"
NOW = 1_800_000_000
API_KEY = "an-invented-api-key-0123456789"
SETTINGS_MODELS = connector_catalog.settings_models() | credential_catalog.settings_models()

POLICY = """
@id("grant-everything")
permit (principal in AgentGroup::"support-agents", action in Action::"call_read", resource);

@id("guard-night-watch")
@reason("The night watch gets no ledger credential.")
forbid (principal == Agent::"night-watch", action == Action::"issue_credential", resource);
"""


class Clock:
    """Stands still until told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RecordingSpool:
    """Keeps events in memory; refuses when told to."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.is_broken = False

    async def record(self, event: AuditEvent) -> AuditEvent:
        if self.is_broken:
            raise SpoolUnavailable("full")
        self.events.append(event)
        return event

    def of(self, event_type: EventType) -> list[AuditEvent]:
        return [event for event in self.events if event.type is event_type]


def declare(kind: str, name: str, **spec: object) -> DeclaredObject:
    return DeclaredObject.model_validate({"kind": kind, "name": name, "spec": spec})


def agent(name: str, uid: int, tools: Sequence[str], **spec: object) -> DeclaredObject:
    return declare(
        "Agent",
        name,
        owner="support@example.com",
        attestation={"providers": ["unix"], "match": {"unix.uid": str(uid)}},
        tools=list(tools),
        groups=["support-agents"],
        **spec,
    )


def objects() -> list[DeclaredObject]:
    """Three servers, two gateways, agents that act for people or alone, a declared client."""
    servers = {"crm": CRM_URL, "notes": NOTES_URL, "ledger": LEDGER_URL}
    providers = {"crm": "crm-token", "notes": "notes-key", "ledger": "ledger-token"}
    return [
        declare("TrustProvider", "unix", type="unix_process"),
        declare("IdentityProvider", "local", type="local_accounts"),
        declare("CredentialProvider", "crm-token", type="issued_token", audience=CRM_AUDIENCE),
        declare(
            "CredentialProvider",
            "notes-key",
            type="static_secret",
            secret="notes-api-key",
            header="x-api-key",
        ),
        declare("CredentialProvider", "ledger-token", type="issued_token", binding="call"),
        *(
            declare(
                "McpServer",
                name,
                url=url,
                person_attributes=["groups"],
                credential={"provider": providers[name]},
                approve="first_seen",
                tools={"get_account": {"read_only": True}, "search": {"read_only": True}},
            )
            for name, url in servers.items()
        ),
        declare("Gateway", "demo", base_url=BASE_URL, servers=["crm", "notes"]),
        declare("Gateway", "other", base_url="http://127.0.0.1:8702", servers=["ledger"]),
        agent(
            "support-bot",
            1000,
            ["crm/get_*", "notes/search"],
            acts_for={"groups": ["local/support"]},
        ),
        agent("night-watch", 1001, ["crm/get_*", "ledger/get_account"], acts_alone=True),
        agent("batch-bot", 1002, ["crm/get_*", "ledger/*"], invocation_seconds=600),
        declare(
            "OAuthClient", "portal", display_name="Portal", redirect_uris=["https://p.example/cb"]
        ),
        declare("Policy", "support", cedar=POLICY),
    ]


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}}
    return {"name": name, "description": "It does.", "inputSchema": schema}


class Authority:
    """The server under test and everything a test may turn."""

    def __init__(self, directory: Path, parts: Parts, database: Database, clock: Clock) -> None:
        self.directory = directory
        self.parts = parts
        self.database = database
        self.clock = clock
        self.app = create_app(parts)
        self.spool = cast("RecordingSpool", parts.spool)

    @property
    def now(self) -> int:
        return int(self.clock())

    def http(self) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url=ISSUER)

    async def post(
        self, form: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """One token request."""
        sent = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
        body = form if isinstance(form, bytes) else _encoded(form)
        async with self.http() as http:
            return await http.post("/oauth/token", content=body, headers=sent)

    async def block(self, kind: BlockKind, subject_id: str) -> None:
        await self.parts.revocations.block(kind, subject_id, reason="test", author="test")
        await self.parts.live.refresh()

    async def restore(self, kind: BlockKind, subject_id: str) -> None:
        await self.parts.revocations.restore(kind, subject_id, reason="test", author="test")
        await self.parts.live.refresh()

    async def enrolled(self, gateway: str = "demo") -> "GatewayProcess":
        """A process whose key is enrolled into `gateway`."""
        process = GatewayProcess(self, f"gateway:{gateway}")
        code = await self.parts.enrolment.create_code(gateway, "test", self.now)
        assert await self.parts.enrolment.consume_code(code, process.jwk, self.now) == gateway
        await self.parts.live.refresh()
        return process

    async def remove_key(self, gateway: "GatewayProcess") -> None:
        """As an operator would take back the key of a process."""
        name = gateway.client_id.removeprefix("gateway:")
        removing = self.parts.enrolment.remove_key(name, gateway.thumbprint, lambda _: None)
        assert await removing
        await self.parts.live.refresh()

    async def declare(self, kind: str, name: str, **spec: object) -> None:
        """As an operator would: the objects of that name get these fields, the rest stay."""
        settings = connector_catalog.settings_models() | credential_catalog.settings_models()
        store = RegistryStore(
            self.database, issuer=ISSUER, settings_models=settings, clock=self.clock
        )
        (before,) = (each for each in objects() if (each.kind, each.name) == (kind, name))
        plan = store.plan([declare(kind, name, **{**before.spec, **spec})])
        assert not plan.problems, plan.problems
        await store.apply(plan, "test")
        await self.parts.live.refresh()

    async def another_process(self) -> "Authority":
        """One more server on the same database; close its database when done."""
        return await start_authority(self.directory, database_file=self.database.path)

    def workload(self, uid: int = 1001, **changes: Any) -> "Workload":
        return Workload(self, uid, **changes)

    def sign_token(self, claims: AccessTokenClaims) -> str:
        return self.parts.keys.sign(KeyPurpose.TOKENS, claims)

    def blended(self, **changes: Any) -> AccessTokenClaims:
        """What support-bot holds for a person after login and consent."""
        actor = Actor(f"{ISSUER}/attest/unix", "unix:host/1000/-", "ai_agent", "support-bot")
        claims = AccessTokenClaims(
            iss=ISSUER,
            aud=CRM,
            jti=new_id("tok", secrets.token_bytes),
            iat=self.now,
            nbf=self.now,
            exp=self.now + 900,
            sub="usr_alice",
            sub_profile="user",
            client_id="support-bot",
            scope="mcp:tools",
            act=actor,
            cnf=Confirmation(JwkThumbprint(ECKey.generate_key("P-256").thumbprint())),
            authorization_details=(
                AuthorizationDetail("mcp_tool", "crm", ("get_account",), ("call",)),
            ),
            sid="ses_1",
            gid="grt_1",
            txn="txn_1",
            inv="inv_1",
            attn=Attestation("unix", "unix_process", 1, self.now, self.now + 900, "sha-256:x"),
            uctx=UserContext(groups=("local/support",)),
        )
        return msgspec.structs.replace(claims, **changes)

    def cuts(self, event_type: EventType) -> list[AuditEvent]:
        """The events written with what they tell of, in the database; oldest first."""
        return cuts_in(self.database, event_type)

    def refusals(self) -> list[AuditEvent]:
        kinds = (EventType.TOKEN_REFUSED, EventType.EXCHANGE_REFUSED, EventType.GATEWAY_REFUSED)
        return [event for event in self.spool.events if event.type in kinds]


@dataclass
class Keyholder:
    """Somebody with a P-256 key, that signs what is needed and what is not."""

    authority: Authority
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))

    @property
    def jwk(self) -> dict[str, Any]:
        return public_jwk(self.key)

    @property
    def thumbprint(self) -> JwkThumbprint:
        return JwkThumbprint(self.key.thumbprint())

    def proof(
        self,
        uri: str = TOKEN_URI,
        method: str = "POST",
        access_token: str | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        said = {"htm": method, "htu": uri, "iat": self.authority.now, "jti": secrets.token_hex(16)}
        if access_token is not None:
            said["ath"] = access_token_hash(access_token)
        head = {"typ": DPOP_PROOF_TYP, "alg": "ES256", "jwk": self.jwk}
        return sign({**head, **(header or {})}, {**said, **claims}, self.key)


class Workload(Keyholder):
    """A process of one user, which the kernel attested."""

    def __init__(self, authority: Authority, uid: int, **changes: Any) -> None:
        super().__init__(authority)
        self._uid = uid
        self._changes = changes

    def attestation(self, **changes: Any) -> str:
        """An attestation, as the listener would sign it."""
        now = self.authority.now
        claims = {
            "iss": f"{ISSUER}/attest/unix",
            "sub": f"unix:host/{self._uid}/-",
            "aud": ISSUER,
            "iat": now,
            "exp": now + 55,
            "jti": secrets.token_hex(16),
            "level": 1,
            "evidence": {"unix.uid": str(self._uid)},
            "cnf": {"jkt": self.thumbprint},
        }
        said = {**claims, **self._changes, **changes}
        kept = {name: value for name, value in said.items() if value is not None}
        return self.authority.parts.keys.signer(KeyPurpose.ATTESTATION).sign(
            kept, typ=ATTESTATION_TYP
        )

    def form(self, **changes: Any) -> dict[str, Any]:
        """A client_credentials request of this workload; None leaves a parameter out."""
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": self.attestation(),
            "resource": CRM,
        }
        return {name: value for name, value in {**form, **changes}.items() if value is not None}

    async def ask(self, **changes: Any) -> httpx2.Response:
        return await self.authority.post(self.form(**changes), {"dpop": self.proof()})


class GatewayProcess(Keyholder):
    """A process that holds a gateway's key."""

    def __init__(self, authority: Authority, client_id: str) -> None:
        super().__init__(authority)
        self.client_id = client_id

    def assertion(self, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        now = self.authority.now
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": ISSUER,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_hex(16),
        }
        said = {**claims, **changes}
        kept = {name: value for name, value in said.items() if value is not None}
        head = {"alg": "ES256", "typ": CLIENT_ASSERTION_TYP, "kid": self.thumbprint}
        return sign({**head, **(header or {})}, kept, self.key)

    def control_form(self, **changes: Any) -> dict[str, Any]:
        form = {
            "grant_type": GRANT_CLIENT_CREDENTIALS,
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": self.assertion(),
            "resource": CONTROL,
        }
        return {name: value for name, value in {**form, **changes}.items() if value is not None}

    async def ask_control(self, **changes: Any) -> httpx2.Response:
        return await self.authority.post(self.control_form(**changes), {"dpop": self.proof()})

    async def control_token(self) -> str:
        answer = await self.ask_control()
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def exchange_form(self, subject_token: str, /, **changes: Any) -> dict[str, Any]:
        """A tool call's exchange; `detail` and `details` shape the authorization_details."""
        detail = {
            "type": "mcp_tool_call",
            "server": "crm",
            "tool": "get_account",
            "args_sha256": "sha-256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU",
            "decision": new_id("dec", secrets.token_bytes),
            **changes.pop("detail", {}),
        }
        details = changes.pop("details", [detail])
        form = {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": self.assertion(),
            "subject_token": subject_token,
            "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "resource": CRM_URL,
            "requested_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "authorization_details": msgspec.json.encode(details).decode(),
        }
        return {name: value for name, value in {**form, **changes}.items() if value is not None}

    async def exchange(self, subject_token: str, /, **changes: Any) -> httpx2.Response:
        return await self.authority.post(self.exchange_form(subject_token, **changes))

    def control_headers(self, token: str, path: str, method: str = "GET") -> dict[str, str]:
        proof = self.proof(f"{CONTROL}/{path}", method, token)
        return {"authorization": f"DPoP {token}", "dpop": proof}


async def start_authority(
    directory: Path,
    *,
    database_file: Path | None = None,
    declared: Sequence[DeclaredObject] = (),
    mtls_base_url: str | None = None,
) -> Authority:
    """A server on a new database; or one more process on an existing `database_file`.

    `declared` are objects beside the usual ones.
    """
    file = database_file or directory / "countersign.db"
    if database_file is None:
        file.write_bytes(_prepared(tuple(each.model_dump_json() for each in declared)))
    database = Database.open(f"sqlite:///{file}")
    clock = Clock()
    keys = await _open_keys(database)
    vault = VaultStore(database, keys.vault_private_jwk)
    live = LiveRegistry(database, issuer=ISSUER, settings_models=SETTINGS_MODELS, monotonic=clock)
    workloads = WorkloadVerifiers(
        lambda: live.snapshot.trust_providers,
        WorkloadParts(
            issuer=ISSUER,
            attestation_keys=lambda: keys.verification_keys(KeyPurpose.ATTESTATION),
            fetcher=(fetcher := TableFetcher()),
            jwks=JwksCache(fetcher, clock),
            clock=clock,
        ),
    )
    random = secrets.token_bytes
    parts = Parts(
        issuer=ISSUER,
        clock=clock,
        random=random,
        live=live,
        keys=keys,
        spool=cast("Spool", RecordingSpool()),
        audit_store=AuditStore(database, clock=clock),
        revocations=RevocationStore(database, clock),
        acks=AckStore(database),
        enrolment=EnrolmentStore(database),
        catalogue=ToolCatalogue(
            database, issuer=ISSUER, settings_models=SETTINGS_MODELS, clock=clock
        ),
        server_reports=ServerReportStore(database),
        codes=CodeStore(database),
        sessions=SessionStore(database, random),
        consents=ConsentStore(database),
        interactions=InteractionStore(database, random),
        persons=PersonStore(database, random),
        refresh_tokens=RefreshTokenStore(database),
        replay=ReplayStore(database),
        upstream_sessions=UpstreamSessionStore(database),
        person_cuts=PersonCuts(database, clock),
        reported_changes=ReportedChanges(database),
        credential_providers=CredentialProviders(
            CredentialParts(random=random, pairwise_key=keys.pairwise_key, secrets=vault)
        ),
        person_logins=dict,
        upstream_logins=UpstreamLoginStore(database),
        session_seal=SessionSeal(keys.session_key, random),
        workload_verifier=workloads,
        lease_seconds=3.0,
        server_metadata=server_metadata(ISSUER, mtls_base_url=mtls_base_url),
        mtls_base_url=mtls_base_url,
        heartbeat_seconds=0.01,
    )
    return Authority(directory, parts, database, clock)


async def _open_keys(database: Database) -> KeyRing:
    return await KeyRing.open(
        SigningKeyStore(database),
        signing_kek=b"s" * 32,
        vault_kek=b"v" * 32,
        random=secrets.token_bytes,
        now_ms=NOW * 1000,
    )


@lru_cache(maxsize=16)
def _prepared(declared: tuple[str, ...]) -> bytes:
    """The file of a database with keys, a secret and every object; each server has its own copy."""
    with tempfile.TemporaryDirectory() as directory:
        database = new_database(Path(directory))
        _run_aside(_declare_everything(database, map(DeclaredObject.model_validate_json, declared)))
        file = database.path
        database.close()
        return file.read_bytes()


async def _declare_everything(database: Database, declared: Iterable[DeclaredObject]) -> None:
    clock = Clock()
    store = RegistryStore(database, issuer=ISSUER, settings_models=SETTINGS_MODELS, clock=clock)
    plan = store.plan([*objects(), *declared])
    assert not plan.problems, plan.problems
    await store.apply(plan, "test")
    catalogue = ToolCatalogue(database, issuer=ISSUER, settings_models=SETTINGS_MODELS, clock=clock)
    seen = {
        "crm": ["get_account", "refund"],
        "notes": ["search"],
        "ledger": ["get_account", "book"],
    }
    for server, names in seen.items():
        await catalogue.observe(server, [tool(name) for name in names])
    keys = await _open_keys(database)
    sealed = seal_secret("notes-api-key", API_KEY, keys.active_public_jwk(KeyPurpose.VAULT))
    vault = VaultStore(database, keys.vault_private_jwk)
    await vault.put("notes-api-key", sealed, "test", NOW * 1000)


def _run_aside(work: Any) -> None:
    """Finish a coroutine from inside a running loop."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            failures.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert not failures, failures


def _encoded(form: Mapping[str, Any]) -> bytes:
    return urlencode(form, doseq=True).encode()


def error_of(answer: httpx2.Response) -> str:
    """The error code of a refused token request, whose form is checked here as well."""
    assert answer.headers["content-type"] == "application/json", answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert set(body) == {"error", "error_description"}, body
    assert answer.status_code in {400, 401, 403, 503}
    return str(body["error"])


def payload_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims

"""One authorization server's front half on a real SQLite file, with a person at a browser."""

import asyncio
import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field, replace
from html import unescape
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
from httpx2 import Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from audit_log.event import AuditEvent, EventType
from audit_log.refusal_budgets import RefusalBudgets
from audit_log.spool import SpoolUnavailable
from authz_server.clients.documents import ClientDocuments
from authz_server.endpoints import (
    authorize,
    backchannel_logout,
    callback,
    consent,
    jwks,
    login,
    metadata,
    new_consent,
)
from authz_server.grants.authorization_code import grant
from authz_server.issuing.session_seal import SessionSeal
from authz_server.login_places import LoginPlaces
from authz_server.loop_turns import LoopTurns
from authz_server.store.codes import CodeStore
from authz_server.store.consents import ConsentStore
from authz_server.store.interactions import InteractionStore
from authz_server.store.person_cuts import Ending, PersonCut, PersonCuts
from authz_server.store.persons import PersonStore
from authz_server.store.refresh_tokens import RefreshTokenStore
from authz_server.store.replay import OnceKind, ReplayStore, UsedOnce
from authz_server.store.reported_changes import ReportedChanges
from authz_server.store.sessions import SessionStore
from authz_server.store.upstream_logins import UpstreamLoginStore
from authz_server.store.upstream_sessions import UpstreamSessionStore
from authz_server.token_request import AuthenticatedClient, IssuancePlan, TokenRequest
from authz_server.turns import Turns
from authz_server.unwatched import Unwatched
from database.engine import Database
from idp_connectors.evidence import Evidence, Person
from idp_connectors.workforce.login import (
    LoginFailure,
    LoginFailureCode,
    PersonLogin,
    RedirectLogin,
)
from registry.blocks import BlockKind, BlockState, Subject
from registry.revocations import RevocationStore
from registry.snapshot import (
    AgentEntry,
    AgentRecord,
    ClientRecord,
    CredentialProviderEntry,
    GatewayEntry,
    PolicySetEntry,
    ProviderRecord,
    RegistrySnapshot,
    ServerEntry,
    ToolEntry,
)
from tests.authz_server.cuts import cuts_in
from token_exchange.claims import JwkThumbprint, Refusal
from token_exchange.token_types import GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN

if TYPE_CHECKING:
    from authz_server.parts import Parts

T = TypeVar("T")

ISSUER = "http://127.0.0.1:8700"
HTTPS_ISSUER = "https://as.example.com"
ENDPOINT = "http://127.0.0.1:8701/crm/mcp"
NOTES_ENDPOINT = "http://127.0.0.1:8701/notes/mcp"
CRM_URL = "http://127.0.0.1:9001/mcp"
CRM_AUDIENCE = "https://crm.example.com"
REDIRECT_URI = "http://127.0.0.1:53682/callback"
VERIFIER = "a-code-verifier-of-at-least-forty-three-characters"
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
KEY = JwkThumbprint("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I")
OTHER_KEY = JwkThumbprint("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
NOW = 1_800_000_000


class Clock:
    """A clock that stands still until told."""

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
        return self.append(event)

    def append(self, event: AuditEvent) -> AuditEvent:
        if self.is_broken:
            raise SpoolUnavailable("full")
        self.events.append(event)
        return event

    def of(self, event_type: EventType) -> list[AuditEvent]:
        return [event for event in self.events if event.type is event_type]


@dataclass
class Live:
    """The registry in memory, set by the test."""

    snapshot: RegistrySnapshot
    blocks: BlockState = field(default_factory=BlockState)
    stale: bool = False

    def is_stale(self, _maximum_age_seconds: float) -> bool:
        return self.stale

    async def refresh(self) -> None:
        """News come when the test says so."""

    async def refresh_after_commit(self) -> None:
        """As `refresh`."""


class Accounts:
    """An identity provider with alice and bob, password `correct horse`."""

    def __init__(self, name: str = "local", issuer: str = ISSUER) -> None:
        self._name, self._issuer = name, issuer
        self.groups = {
            "alice": (f"{name}/support", f"{name}/staff"),
            "bob": (f"{name}/staff",),
        }
        self.failure: LoginFailure | None = None

    async def revalidate(
        self, person: Person, upstream: bytes | None, now: int
    ) -> Person | LoginFailure:
        del upstream, now
        if self.failure is not None:
            return self.failure
        return replace(person, groups=self.groups[person.name])

    async def authenticate(self, username: str, password: str, now: int) -> Person | LoginFailure:
        if self.failure is not None:
            return self.failure
        if username not in self.groups or password != "correct horse":
            return LoginFailure(
                LoginFailureCode.INVALID_CREDENTIALS, "Username or password is wrong.", "no match"
            )
        return Person(
            identity_provider=self._name,
            issuer=f"{self._issuer}/identity/{self._name}",
            subject=f"acc_{username}",
            name=username,
            groups=self.groups[username],
            acr="pwd",
            auth_time=now,
            attributes={"ticket": "T-4711"},
        )


def tool(name: str, *, read_only: bool = False, sensitivity: int = 0) -> ToolEntry:
    return ToolEntry(name, f"sha-256:{name}", {"name": name}, read_only, sensitivity)


def server(name: str, *tools: ToolEntry, **changes: Any) -> ServerEntry:
    entry = ServerEntry(
        name=name,
        url=CRM_URL if name == "crm" else f"http://127.0.0.1:9002/{name}",
        audience=CRM_AUDIENCE if name == "crm" else f"https://{name}.example.com",
        require_bound=True,
        person_attributes=("groups", "ticket"),
        credential=CredentialProviderEntry(f"{name}-token", "issued_token", "run", 300, 1),
        tools=tools,
        timeout_seconds=30,
        maximum_response_bytes=1 << 20,
    )
    return msgspec.structs.replace(entry, **changes)


def agent(name: str, *tools: str, **changes: Any) -> AgentRecord:
    record = AgentRecord(
        entry=AgentEntry(name, ("support-agents",), tools, "production", 1),
        owner="support-platform@example.com",
        providers=("unix",),
        match={"unix.uid": "1000"},
        may_act_alone=False,
        acts_for_groups=("local/support",),
        consent_days=30,
        client_ids=(name,),
        redirect_uris=("http://127.0.0.1/callback",),
        invocation_seconds=900,
    )
    return msgspec.structs.replace(record, **changes)


def client(client_id: str, kind: str, **changes: Any) -> ClientRecord:
    record = ClientRecord(
        client_id=client_id,
        kind=kind,
        display_name=client_id,
        redirect_uris=("http://127.0.0.1/callback",),
        authentication=("workload_assertion",),
        grant_types=(GRANT_AUTHORIZATION_CODE, GRANT_REFRESH_TOKEN),
    )
    return msgspec.structs.replace(record, **changes)


def sample_snapshot(issuer: str = ISSUER, **changes: Any) -> RegistrySnapshot:
    """support-bot may use crm and act for local/support; lonely-bot acts alone; one web client."""
    crm = server(
        "crm",
        tool("get_account", read_only=True),
        tool("list_hours", read_only=True),
        tool("refund", sensitivity=2),
        tool("delete_account", sensitivity=3),
    )
    snapshot = RegistrySnapshot(
        version=7,
        issuer=issuer,
        agents={
            "support-bot": agent("support-bot", "crm/get_*", "crm/refund"),
            "lonely-bot": agent("lonely-bot", "crm/*", acts_for_groups=(), may_act_alone=True),
            "web-bot": agent("web-bot", "crm/get_*"),
        },
        clients={
            "support-bot": client("support-bot", "agent", agent="support-bot"),
            "lonely-bot": client("lonely-bot", "agent", agent="lonely-bot"),
            "web-bot": client(
                "web-bot",
                "agent",
                agent="web-bot",
                redirect_uris=("https://app.example.com/cb?tenant=1", "http://app.example.com/cb"),
            ),
            "web-portal": client(
                "web-portal",
                "declared",
                agent="web-bot",
                authentication=("none",),
                redirect_uris=("http://127.0.0.1:8080/callback", "https://app.example.com/cb"),
            ),
            "countersign-cli": client(
                "countersign-cli",
                "cli",
                grant_types=(GRANT_AUTHORIZATION_CODE,),
                authentication=("none",),
            ),
            "gateway:demo": client(
                "gateway:demo", "gateway", grant_types=("client_credentials",), gateway="demo"
            ),
        },
        servers={"crm": crm, "notes": server("notes", tool("search", read_only=True))},
        gateways={
            "demo": GatewayEntry("demo", "http://127.0.0.1:8701", "gateway:demo", ("crm", "notes"))
        },
        trust_providers={"unix": ProviderRecord("unix", "unix_process", {})},
        identity_providers={"local": ProviderRecord("local", "local_accounts", {})},
        admin_roles=(),
        policies=PolicySetEntry(1),
    )
    return msgspec.structs.replace(snapshot, **changes)


def evidence(**changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "provider": "unix",
        "method": "unix_process",
        "level": 1,
        "issuer": f"{ISSUER}/attest/unix",
        "subject": "unix:host/1000/agent.service",
        "claims": {"unix.uid": "1000"},
        "digest": "sha-256:abc",
        "issued_at": NOW,
        "expires_at": NOW + 900,
        "proof_id": "att_1",
        "key_thumbprint": KEY,
    }
    return Evidence(**(fields | changes))


class FrontHalf:
    """The server under test and everything a test may turn."""

    def __init__(self, database: Database, issuer: str = ISSUER) -> None:
        random = secrets.token_bytes
        self.issuer = issuer
        self.database = database
        self.clock = Clock()
        self.spool = RecordingSpool()
        self.live = Live(sample_snapshot(issuer))
        self.accounts = Accounts(issuer=issuer)
        self.logins: dict[str, PersonLogin | RedirectLogin] = {"local": self.accounts}
        self.revocations = RevocationStore(database, self.clock)
        self.parts = cast("Parts", _PartsForPages(self, random))
        self.app = Starlette(
            routes=[
                *authorize.routes(self.parts),
                *login.routes(self.parts),
                *callback.routes(self.parts),
                *consent.routes(self.parts),
                *new_consent.routes(self.parts),
                *backchannel_logout.routes(self.parts),
                *metadata.routes(self.parts),
                *jwks.routes(self.parts),
            ]
        )

    def browser(self) -> "PersonsBrowser":
        return PersonsBrowser(self)

    def block(self, kind: BlockKind, subject_id: str) -> None:
        """Kill, and let the news arrive."""
        asyncio.run(self.revocations.block(kind, subject_id, reason="test", author="test"))
        self.live.blocks = self.revocations.state()

    def restore(self, kind: BlockKind, subject_id: str) -> None:
        asyncio.run(self.revocations.restore(kind, subject_id, reason="test", author="test"))
        self.live.blocks = self.revocations.state()

    async def claims_changed(self, sub: str) -> None:
        """As when a person's identity provider reports a change, and the news has arrived."""
        now = int(self.clock())
        once = UsedOnce(OnceKind.PERSON_CHANGE, "local", secrets.token_hex(8), now + 60)
        cut = PersonCut(once, (sub,), Ending.NONE, (), "groups", "test", lambda _: ())
        assert await self.parts.person_cuts.apply(cut)
        self.live.blocks = await asyncio.to_thread(self.revocations.state)

    def cuts(self, event_type: EventType) -> list[AuditEvent]:
        """The events written with what they tell of, in the database; oldest first."""
        return cuts_in(self.database, event_type)

    def is_blocked(self, kind: BlockKind, subject_id: str) -> bool:
        subject = Subject(kind, subject_id)
        hit = self.revocations.state().first_hit((subject,), int(self.clock()) + 10)
        return hit is not None and hit.blocked

    def redeem(self, code: str, **changes: Any) -> IssuancePlan | Refusal:
        """Present a code as the shared phases of the token endpoint hand it over, and use it up."""
        return asyncio.run(used_up(grant(self.token_request(code, **changes), self.parts)))

    def token_request(self, code: str, **changes: Any) -> TokenRequest:
        parameters: dict[str, str | None] = {
            "code": code,
            "redirect_uri": REDIRECT_URI,
            "code_verifier": VERIFIER,
        }
        parameters |= changes.pop("parameters", {})
        client_id = changes.pop("client_id", "support-bot")
        proved = AuthenticatedClient(
            self.live.snapshot.clients[client_id],
            changes.pop("method", "workload_assertion"),
            changes.pop("evidence", evidence()),
        )
        fields: dict[str, Any] = {
            "grant_type": GRANT_AUTHORIZATION_CODE,
            "parameters": {name: value for name, value in parameters.items() if value is not None},
            "resource": (),
            "client": proved,
            "proof_thumbprint": KEY,
            "now": int(self.clock()),
        }
        return TokenRequest(**(fields | changes))


async def used_up(asked: Awaitable[IssuancePlan | Refusal]) -> IssuancePlan | Refusal:
    """A plan, once what it is made from is used up, as by whoever records the issuance."""
    plan = await asked
    if isinstance(plan, Refusal) or plan.use_up is None:
        return plan
    return await plan.use_up(lambda _: None) or plan


class _PartsForPages:
    """The attributes of Parts that the front half touches."""

    def __init__(self, half: FrontHalf, random: Any) -> None:
        self.issuer = half.issuer
        self.clock = half.clock
        self.random = random
        self.live = half.live
        self.spool = half.spool
        self.refusal_budgets = RefusalBudgets()
        self.revocations = half.revocations
        self.codes = CodeStore(half.database)
        self.refresh_tokens = RefreshTokenStore(half.database)
        self.sessions = SessionStore(half.database, random)
        self.consents = ConsentStore(half.database)
        self.interactions = InteractionStore(half.database, random)
        self.persons = PersonStore(half.database, random)
        self.replay = ReplayStore(half.database)
        self.upstream_sessions = UpstreamSessionStore(half.database)
        self.person_cuts = PersonCuts(half.database, half.clock)
        self.reported_changes = ReportedChanges(half.database)
        self.unwatched = Unwatched()
        self.person_logins = lambda: dict(half.logins)
        self.upstream_logins = UpstreamLoginStore(half.database)
        self.session_seal = SessionSeal(lambda: b"s" * 32, random)
        self.revalidations = Turns()
        self.lease_seconds = 3.0
        self.server_metadata = metadata.server_metadata(half.issuer)
        self.keys = Keys()
        self.turns = LoopTurns()
        self.login_places = LoginPlaces()
        self.client_documents = ClientDocuments()


class Keys:
    """A published key set."""

    def __init__(self) -> None:
        self.jwks: tuple[dict[str, str], ...] = ({"kty": "EC", "crv": "P-256", "kid": "k1"},)

    def published_jwks(self) -> tuple[dict[str, str], ...]:
        return self.jwks

    def form_key(self) -> bytes:
        return b"f" * 32


class PersonsBrowser:
    """A browser with its cookies, that follows redirects inside the server only."""

    def __init__(self, half: FrontHalf) -> None:
        self._half = half
        self.http = TestClient(half.app, base_url=half.issuer, follow_redirects=False)

    def authorize(self, **changes: Any) -> Response:
        """Open the authorization URL of support-bot for crm, changed as told."""
        return self.follow(self.http.get("/oauth/authorize", params=request_parameters(**changes)))

    def follow(self, response: Response) -> Response:
        for _ in range(10):
            location = response.headers.get("location", "")
            if not location.startswith(f"{self._half.issuer}/oauth/"):
                return response
            response = self.http.get(location)
        raise AssertionError("too many redirects")

    def submit(self, page: Response, **changes: str | None) -> Response:
        """Send the page's form, with fields changed or (None) left out."""
        return self.follow(self.post(page, **changes))

    def post(self, page: Response, **changes: str | None) -> Response:
        fields = hidden_fields(page) | changes
        sent = {name: value for name, value in fields.items() if value is not None}
        return self.http.post(form_action(page), data=sent)

    def log_in(self, page: Response, username: str = "alice") -> Response:
        return self.submit(page, username=username, password="correct horse")

    def allow(self, page: Response) -> Response:
        return self.submit(page, answer="allow")

    def get_code(self, **changes: Any) -> str:
        """The whole way: authorize, log in, allow; the code."""
        page = self.authorize(**changes)
        if is_login(page):
            page = self.log_in(page)
        return answer_of(self.allow(page) if is_consent(page) else page)["code"]


def request_parameters(**changes: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "response_type": "code",
        "client_id": "support-bot",
        "redirect_uri": REDIRECT_URI,
        "resource": ENDPOINT,
        "scope": "mcp:tools",
        "state": "af0ifjsldkj",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    }
    return {name: value for name, value in (parameters | changes).items() if value is not None}


def cli_parameters(issuer: str = ISSUER, **changes: Any) -> dict[str, Any]:
    changed = {"client_id": "countersign-cli", "resource": f"{issuer}/admin", "scope": None}
    return changed | changes


def hidden_fields(page: Response) -> dict[str, str | None]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    return {name: unescape(value) for name, value in found}


def form_action(page: Response) -> str:
    found = re.search(r'<form method="post" action="([^"]+)"', page.text)
    assert found is not None, page.text
    return unescape(found.group(1))


def answer_of(response: Response) -> dict[str, str]:
    """The parameters of an authorization response."""
    assert response.status_code == 303, response.text
    location = response.headers["location"]
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


def is_login(page: Response) -> bool:
    return page.status_code == 200 and 'type="password"' in page.text


def is_consent(page: Response) -> bool:
    return page.status_code == 200 and 'value="allow"' in page.text


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)

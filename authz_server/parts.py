"""Everything an authorization-server process is made of, as one frozen value.

Built by `countersign.composition`; endpoints and grants take it as an argument. Protocols here
are declared by us, their consumer; the packages that fulfil them do not import this one.

Every endpoint module of the front half exports `routes(parts) -> list[Route]`; the application
concatenates them. `server_metadata` is made by `endpoints.metadata.server_metadata(issuer, ...)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from audit_log.refusal_budgets import RefusalBudgets
from audit_log.spool import Spool
from audit_log.store import AuditStore
from authz_server.clients.documents import ClientDocuments
from authz_server.compiled_snapshot import SnapshotCompiler
from authz_server.issuing.session_seal import SessionSeal
from authz_server.issuing.signing_keys import KeyRing
from authz_server.login_places import LoginPlaces
from authz_server.loop_turns import LoopTurns
from authz_server.serving_workers import ServingWorkers
from authz_server.stopping import Stopping
from authz_server.store.codes import CodeStore
from authz_server.store.consents import ConsentStore
from authz_server.store.interactions import InteractionStore
from authz_server.store.person_cuts import PersonCuts
from authz_server.store.persons import PersonStore
from authz_server.store.refresh_tokens import RefreshTokenStore
from authz_server.store.replay import ReplayStore
from authz_server.store.reported_changes import ReportedChanges
from authz_server.store.sessions import SessionStore
from authz_server.store.upstream_logins import UpstreamLoginStore
from authz_server.store.upstream_sessions import UpstreamSessionStore
from authz_server.turns import Turns
from authz_server.unwatched import Unwatched
from credential_providers.catalog import CredentialProviders
from idp_connectors.evidence import Evidence
from idp_connectors.workforce.login import PersonLogin, RedirectLogin
from registry.acks import AckStore
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.revocations import RevocationStore
from registry.server_reports import ServerReportStore
from registry.tool_catalogue import ToolCatalogue
from token_exchange.claims import Refusal

Clock = Callable[[], float]


class WorkloadVerifier(Protocol):
    """Verifies the proofs of exactly one assertion issuer."""

    issuer: str

    async def verify(self, unverified_assertion: str, now: int) -> Evidence | Refusal:
        """Check everything but replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one authorization-server process."""

    issuer: str
    clock: Clock
    random: Callable[[int], bytes]
    live: LiveRegistry
    keys: KeyRing
    spool: Spool
    audit_store: AuditStore
    revocations: RevocationStore
    acks: AckStore
    enrolment: EnrolmentStore
    catalogue: ToolCatalogue
    server_reports: ServerReportStore
    codes: CodeStore
    sessions: SessionStore
    consents: ConsentStore
    interactions: InteractionStore
    persons: PersonStore
    refresh_tokens: RefreshTokenStore
    replay: ReplayStore
    upstream_sessions: UpstreamSessionStore
    person_cuts: PersonCuts
    reported_changes: ReportedChanges
    credential_providers: CredentialProviders
    # By IdentityProvider name: takes a password itself, or sends the browser to another site.
    person_logins: Callable[[], dict[str, PersonLogin | RedirectLogin]]
    upstream_logins: UpstreamLoginStore
    session_seal: SessionSeal
    # By assertion issuer: chosen by the unverified `iss`, exactly one or none.
    workload_verifier: Callable[[str], WorkloadVerifier | None]
    lease_seconds: float
    server_metadata: dict[str, Any]
    # Compiled policies and look-up tables beside the live snapshot.
    compiler: SnapshotCompiler = field(default_factory=SnapshotCompiler)
    # `begin` it when the process is asked to end: open event streams finish.
    stopping: Stopping = field(default_factory=Stopping)
    # How many refusals a second are written; the attestation socket and the admin API share them.
    refusal_budgets: RefusalBudgets = field(default_factory=RefusalBudgets)
    # Which process serves which Gateway, by its open event stream.
    serving_workers: ServingWorkers = field(default_factory=ServingWorkers)
    # Identity providers that must be watched and do not answer: nobody logs in by them.
    unwatched: Unwatched = field(default_factory=Unwatched)
    # Where client certificates are taken (RFC 8705 §5); None: nowhere.
    mtls_base_url: str | None = None
    # Sessions whose identity provider is being asked.
    revalidations: Turns = field(default_factory=Turns)
    # Gateways whose report of tools is being read: up to 8 MiB each, so one of each at a time.
    reports: Turns = field(default_factory=Turns)
    # What a stranger makes us compute waits its turn; heartbeats do not.
    turns: LoopTurns = field(default_factory=LoopTurns)
    # Who may wait for a password to be checked.
    login_places: LoginPlaces = field(default_factory=LoginPlaces)
    # What programs that nobody registered say of themselves; nobody's, unless a process is told.
    client_documents: ClientDocuments = field(default_factory=ClientDocuments)
    heartbeat_seconds: float = 0.25  # of the control channel's event stream


def now_of(parts: Parts) -> int:
    """The clock as NumericDate seconds."""
    return int(parts.clock())

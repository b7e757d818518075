"""Everything the admin API is made of, and what it asks of packages it does not import."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anyio import CapacityLimiter
from sqlalchemy import Connection

from admin_console.facts import PeopleFacts, SystemFacts
from admin_console.setup_codes import SetupCodes
from admin_console.shared_answer import SharedAnswer
from audit_log.event import AuditEvent
from audit_log.refusal_budgets import RefusalBudgets
from audit_log.spool import Spool
from audit_log.store import AuditStore
from idp_connectors.evidence import Person
from idp_connectors.workforce.account_store import Account
from idp_connectors.workforce.local_accounts import AccountChange
from registry.acks import AckStore
from registry.enrolment import EnrolmentStore
from registry.live import LiveRegistry
from registry.revocations import RevocationStore
from registry.server_reports import ServerReportStore
from registry.store import RegistryStore
from registry.tool_catalogue import ToolCatalogue
from token_exchange.claims import Refusal
from token_exchange.keys import VerificationKeys
from token_exchange.proof_of_possession import DpopProof


class SecretFacts(Protocol):
    """What may be known of one version of a secret. `created_at_ms` is Unix milliseconds."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def key_id(self) -> str: ...  # noqa: D102
    @property
    def author(self) -> str: ...  # noqa: D102
    @property
    def created_at_ms(self) -> int: ...  # noqa: D102


class Vault(Protocol):
    """Where sealed secrets are put. Nothing here can open one."""

    async def put(self, name: str, sealed: str, author: str, now_ms: int) -> SecretFacts | Refusal:
        """Store a new version, if it is sealed under `name` to the vault's key."""

    def versions(self) -> Sequence[SecretFacts]:
        """Every version of every secret, without content."""


class Accounts(Protocol):
    """The people of one IdentityProvider whose passwords we keep. `now` is NumericDate seconds.

    `also` is done in the transaction of the change.
    """

    async def add(
        self,
        username: str,
        password: str,
        groups: Sequence[str],
        *,
        author: str,
        now: int,
        also: Callable[[Connection, Account], None],
    ) -> Account | Refusal:
        """Make an account."""

    async def change(
        self,
        username: str,
        change: AccountChange,
        *,
        author: str,
        now: int,
        also: Callable[[Connection, Person], None],
    ) -> Account | Refusal:
        """Change an account."""

    async def accounts(self) -> Sequence[Account]:
        """Every account."""


class CutOff(Protocol):
    """Makes what was issued for a person out of date, inside the write that is the reason."""

    def __call__(
        self,
        connection: Connection,
        person: Person,
        *,
        ends_sessions: bool,
        reason: str,
        author: str,
        event: AuditEvent,
    ) -> None:
        """Cut off, and record `event`, in this transaction."""


@dataclass(frozen=True, slots=True)
class PersonKey:
    """Who a `sub` is at its identity provider, whose issuer it was then.

    An AdminRole names provider and subject.
    """

    identity_provider: str
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminParts:
    """The parts of the admin API of one process.

    `token_keys`: the keys that sign access tokens. `person_of`: a person by `sub`. `use_proof`:
    whether a DPoP proof is used for the first time (remembered in one atomic statement).
    `accounts`: by IdentityProvider name, those that keep passwords here; `cut_off`: what has to
    happen to a person whose account changes. `vault_key`: the public JWK secrets are sealed to.
    `control_key_thumbprint`: what a joining gateway must find.
    """

    issuer: str
    clock: Callable[[], float]
    random: Callable[[int], bytes]
    registry: RegistryStore
    live: LiveRegistry
    revocations: RevocationStore
    acks: AckStore
    catalogue: ToolCatalogue
    server_reports: ServerReportStore
    enrolment: EnrolmentStore
    audit_store: AuditStore
    spool: Spool
    refusal_budgets: RefusalBudgets
    setup_codes: SetupCodes
    vault: Vault
    accounts: Callable[[], Mapping[str, Accounts]]
    cut_off: CutOff
    vault_key: Callable[[], Mapping[str, Any]]
    control_key_thumbprint: Callable[[], str]
    token_keys: Callable[[], VerificationKeys]
    person_of: Callable[[str], Awaitable[PersonKey | None]]
    use_proof: Callable[[DpopProof], Awaitable[bool]]
    system: SystemFacts
    people: PeopleFacts
    # One explanation at a time: each may try hundreds of changes.
    explaining: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    # One look at the whole deployment at a time, repeated for whoever asks within two seconds.
    doctor: SharedAnswer = field(default_factory=lambda: SharedAnswer(same_for_ms=2_000))

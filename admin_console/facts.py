"""What the admin API asks of parts of the server it does not import: facts, never a key.

Declared here, where they are used; `countersign.admin_facts` answers them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from policies.decide import CompiledPolicySet
from registry.snapshot import ProviderRecord, RegistrySnapshot


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key of the authority: its purpose, state and age (Unix ms). Never its content."""

    purpose: str
    state: str
    key_id: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the database is. `journal` is SQLite's journal mode, empty elsewhere.

    `schema` is the revision it has, `head` the one this release knows. `read_ms`: of one read.
    """

    kind: str
    version: str
    journal: str
    schema: str
    head: str
    read_ms: float


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """Whether an identity provider can be used now.

    `code` says what is wrong (a word of `outbound.fetcher.FetchError`, or `secret_missing`), empty
    when nothing is. `detail` is for operators and holds no secret.
    """

    code: str
    detail: str


class SystemFacts(Protocol):
    """What only the process as a whole knows of itself."""

    @property
    def lease_seconds(self) -> float:
        """How old a picture of the registry may be."""

    def keys(self) -> Sequence[KeyFacts]:
        """Every key that is not gone."""

    def published_key_ids(self) -> Sequence[str]:
        """The key ids of the JWK Set."""

    def database(self) -> DatabaseFacts:
        """Blocks for one small read."""

    async def provider(self, record: ProviderRecord) -> ProviderFacts:
        """Ask an identity provider, as a login would, past every cache."""

    async def policies(self, snapshot: RegistrySnapshot) -> CompiledPolicySet | None:
        """The policies of a snapshot as this server decides by them; None denies all."""


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """A person who has logged in. `login` is their user name where we keep it, else their name.

    `groups`, `acr` and `auth_time` (NumericDate seconds) are those of the latest session; None
    where no session is left to know them by. `by_shown_name`: found only by what they are shown
    as, which at many providers people choose themselves.
    """

    sub: str
    identity_provider: str
    login: str
    groups: tuple[str, ...] | None
    acr: str | None
    auth_time: int | None
    by_shown_name: bool = False


@dataclass(frozen=True, slots=True)
class CalledFacts:
    """What a person is called. `is_sure`: it is their user name here, and no other account's."""

    name: str
    is_sure: bool


@dataclass(frozen=True, slots=True)
class ConsentFacts:
    """A living consent: the tools it names in the form in which they are shown today."""

    gid: str
    tools: tuple[str, ...]
    expires_at: int


class PeopleFacts(Protocol):
    """Who has logged in, and what they agreed to."""

    async def named(self, name: str) -> Sequence[PersonFacts]:
        """Everybody of that user name, displayed name or opaque id; bounded."""

    async def names(self) -> Sequence[str]:
        """User names and displayed names, to find the one somebody meant; bounded."""

    async def logins(self, ids: Collection[str]) -> Mapping[str, CalledFacts]:
        """What people are called, by id or as authors (`PROVIDER/SUBJECT`).

        Whoever is not known here is left out.
        """

    async def consents(self, sub: str, agent: str, server: str, now: int) -> Sequence[ConsentFacts]:
        """What a person lets an agent use of a server today. `now` is NumericDate seconds."""

"""Persons: one stable opaque `sub` per (identity provider, issuer, subject).

The key is the pair the identity provider vouches for, never a name or an e-mail address: those
are reassigned, and linking by them hands one person's tokens to another. The same subject at two
providers is two persons.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Select, UniqueConstraint, insert, select, update
from sqlmodel import Field, SQLModel, col

from database.engine import Database
from idp_connectors.evidence import Person
from token_exchange.identifiers import new_id

PERSONS_AT_ONCE: Final = 200  # keeps a write transaction that concerns them short


@dataclass(frozen=True, slots=True)
class KnownPerson:
    """A person who has logged in. `sub` is what tokens carry."""

    sub: str
    identity_provider: str
    issuer: str
    subject: str
    display_name: str


@dataclass(frozen=True, slots=True)
class SeenPerson:
    """A person and since when (NumericDate seconds) we can have issued anything for them."""

    sub: str
    display_name: str
    first_seen_at: int


class PersonRow(SQLModel, table=True):
    """One person."""

    __tablename__ = "persons"
    __table_args__ = (UniqueConstraint("identity_provider", "issuer", "subject"),)

    sub: str = Field(primary_key=True, max_length=64)
    identity_provider: str = Field(max_length=64)
    issuer: str = Field(max_length=2048)
    subject: str = Field(max_length=512)
    display_name: str = Field(max_length=512)
    first_seen_at: int = Field(sa_type=BigInteger)
    last_login_at: int = Field(sa_type=BigInteger)


class PersonStore:
    """The repository of persons."""

    def __init__(self, database: Database, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._random = random

    async def remember(self, person: Person, now: int) -> KnownPerson:
        """The person's `sub`, made at the first login; the display name is the latest."""
        fresh_sub = new_id("usr", self._random)
        same_person = (
            col(PersonRow.identity_provider) == person.identity_provider,
            col(PersonRow.issuer) == person.issuer,
            col(PersonRow.subject) == person.subject,
        )

        def work(connection: Connection) -> str:
            # Read and insert are one write: of two first logins at once the second finds the row.
            sub = connection.execute(
                update(PersonRow)
                .where(*same_person)
                .values(display_name=person.name, last_login_at=now)
                .returning(col(PersonRow.sub))
            ).scalar_one_or_none()
            if sub is None:
                _add(connection, person, fresh_sub, seen_at=now, last_login_at=now)
            return fresh_sub if sub is None else str(sub)

        sub = await self._database.write(work)
        return KnownPerson(
            sub, person.identity_provider, person.issuer, person.subject, person.name
        )

    async def known(self, person: Person) -> KnownPerson | None:
        """The person, if we ever issued anything for them."""

        def work(connection: Connection) -> KnownPerson | None:
            sub = connection.execute(
                select(col(PersonRow.sub)).where(
                    col(PersonRow.identity_provider) == person.identity_provider,
                    col(PersonRow.issuer) == person.issuer,
                    col(PersonRow.subject) == person.subject,
                )
            ).scalar_one_or_none()
            if sub is None:
                return None
            return KnownPerson(
                sub, person.identity_provider, person.issuer, person.subject, person.name
            )

        return await self._database.fetch(work)

    async def of_subject(self, identity_provider: str, subject: str) -> tuple[SeenPerson, ...]:
        """As `of_subject_in`."""
        return await self._database.fetch(
            lambda connection: of_subject_in(connection, identity_provider, subject)
        )

    async def of_provider(
        self,
        identity_provider: str,
        *,
        after_sub: str = "",
        first_seen_since: int = 0,
        limit: int = PERSONS_AT_ONCE,
    ) -> tuple[SeenPerson, ...]:
        """Who ever logged in by a provider, first then or later, by `sub`, a page at a time."""
        query = (
            select(PersonRow)
            .where(
                col(PersonRow.identity_provider) == identity_provider,
                col(PersonRow.sub) > after_sub,
                col(PersonRow.first_seen_at) >= first_seen_since,
            )
            .order_by(col(PersonRow.sub))
            .limit(limit)
        )
        return await self._database.fetch(lambda connection: _seen(connection, query))

    def subs_in(self, connection: Connection, person: Person, now: int) -> tuple[str, ...]:
        """Inside a write: everybody this provider ever meant by the person's subject.

        Whoever never logged in gets their `sub` now: a login that is under way will have it, too.
        """
        found = {
            row.issuer: row.sub
            for row in connection.execute(
                select(col(PersonRow.issuer), col(PersonRow.sub)).where(
                    col(PersonRow.identity_provider) == person.identity_provider,
                    col(PersonRow.subject) == person.subject,
                )
            )
        }
        if person.issuer not in found:
            found[person.issuer] = new_id("usr", self._random)
            _add(connection, person, found[person.issuer], seen_at=now, last_login_at=0)
        return tuple(found.values())

    async def find(self, sub: str) -> KnownPerson | None:
        """Who an opaque `sub` is."""

        def work(connection: Connection) -> KnownPerson | None:
            row = connection.execute(
                select(PersonRow).where(col(PersonRow.sub) == sub)
            ).one_or_none()
            if row is None:
                return None
            return KnownPerson(
                row.sub, row.identity_provider, row.issuer, row.subject, row.display_name
            )

        return await self._database.fetch(work)


def _add(
    connection: Connection, person: Person, sub: str, *, seen_at: int, last_login_at: int
) -> None:
    connection.execute(
        insert(PersonRow).values(
            sub=sub,
            identity_provider=person.identity_provider,
            issuer=person.issuer,
            subject=person.subject,
            display_name=person.name,
            first_seen_at=seen_at,
            last_login_at=last_login_at,
        )
    )


def of_subject_in(
    connection: Connection, identity_provider: str, subject: str
) -> tuple[SeenPerson, ...]:
    """Whom a provider means by a subject: one person for each issuer it ever had."""
    query = select(PersonRow).where(
        col(PersonRow.identity_provider) == identity_provider, col(PersonRow.subject) == subject
    )
    return _seen(connection, query)


def of_subs_in(connection: Connection, subs: Iterable[str]) -> tuple[SeenPerson, ...]:
    """Persons by their opaque ids."""
    return _seen(connection, select(PersonRow).where(col(PersonRow.sub).in_(tuple(subs))))


def _seen(connection: Connection, query: Select[*tuple[Any, ...]]) -> tuple[SeenPerson, ...]:
    return tuple(
        SeenPerson(row.sub, row.display_name, row.first_seen_at)
        for row in connection.execute(query)
    )

"""Finding persons as operators name them. Reads only; the tables belong to their own modules."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, func, or_, select
from sqlmodel import col

from authz_server.store.persons import KnownPerson, PersonRow
from authz_server.store.sessions import LoginSessionRow
from database.engine import Database
from idp_connectors.evidence import Person

MAXIMUM_FOUND: Final = 20  # as many are told apart; more of one name need their ids
MAXIMUM_NAMES: Final = 501  # among more, `policies.problems` looks for no resemblance


@dataclass(frozen=True, slots=True)
class FoundPerson:
    """A person, and what their latest living session says of them, if there is one."""

    known: KnownPerson
    claims: Person | None


class PeopleFinder:
    """Looks persons up by what people call them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def named(self, name: str, subjects: frozenset[str], now: int) -> tuple[FoundPerson, ...]:
        """Persons displayed under `name` (in any case), of that id, or of one of `subjects`.

        `now` is NumericDate seconds.
        """
        matches = or_(
            func.lower(col(PersonRow.display_name)) == name.lower(),
            col(PersonRow.sub) == name,
            col(PersonRow.subject) == name,
            col(PersonRow.subject).in_(subjects),
        )
        query = select(PersonRow).where(matches).order_by(col(PersonRow.sub)).limit(MAXIMUM_FOUND)

        def work(connection: Connection) -> tuple[FoundPerson, ...]:
            known = [_known(row) for row in connection.execute(query)]
            return tuple(
                FoundPerson(each, _latest_claims(connection, each.sub, now)) for each in known
            )

        return await self._database.fetch(work)

    async def shown_names(self) -> tuple[str, ...]:
        """What people are shown as, `MAXIMUM_NAMES` of them at most."""
        query = select(col(PersonRow.display_name)).distinct().limit(MAXIMUM_NAMES)
        return await self._database.fetch(
            lambda connection: tuple(connection.scalars(query)),
        )

    async def known(
        self, subs: AbstractSet[str], subjects: AbstractSet[str]
    ) -> tuple[KnownPerson, ...]:
        """Persons of these ids, and of these subjects at whatever provider."""
        matches = or_(col(PersonRow.sub).in_(subs), col(PersonRow.subject).in_(subjects))
        query = select(PersonRow).where(matches)
        return await self._database.fetch(
            lambda connection: tuple(_known(row) for row in connection.execute(query))
        )


def _known(row: Row[Any]) -> KnownPerson:
    return KnownPerson(row.sub, row.identity_provider, row.issuer, row.subject, row.display_name)


def _latest_claims(connection: Connection, sub: str, now: int) -> Person | None:
    body = connection.scalar(
        select(col(LoginSessionRow.person))
        .where(col(LoginSessionRow.sub) == sub, col(LoginSessionRow.expires_at) > now)
        .order_by(col(LoginSessionRow.created_at).desc())
        .limit(1)
    )
    return None if body is None else msgspec.json.decode(body, type=Person)

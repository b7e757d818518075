"""Login sessions: which browser is which person, since when, until when.

The cookie holds a random value; the table holds its digest and the `sid` that tokens carry. A
login always makes a new session with a new value (session fixation); the cookie of the one before
it in the same browser opens nothing from then on, while what was issued in that session lives on
to its own end. Ending is for ever; blocking a `sid` is the registry's business.

What the identity provider gave for asking about the person again is kept here sealed; this module
could not read it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    delete,
    insert,
    select,
    update,
)
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of, new_secret
from database.engine import Database
from idp_connectors.evidence import Person

SESSION_LIFETIME_SECONDS: Final = 28_800  # a working day; every token ends with it at the latest


@dataclass(frozen=True, slots=True)
class Session:
    """A person's login. Times are NumericDate seconds.

    What the identity provider said counts until `claims_until`; it is asked again, or the person
    logs in again.
    """

    sid: str
    sub: str
    person: Person
    created_at: int
    expires_at: int
    claims_until: int


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session together with the cookie value that only the browser will know."""

    session: Session
    cookie_value: str


class LoginSessionRow(SQLModel, table=True):
    """One login session."""

    __tablename__ = "login_sessions"

    cookie_digest: str = Field(primary_key=True, max_length=64)
    sid: str = Field(unique=True, max_length=64)
    sub: str = Field(index=True, max_length=64)
    person: bytes = Field(sa_type=LargeBinary)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)
    claims_until: int | None = Field(default=None, sa_type=BigInteger)
    upstream: bytes | None = Field(default=None, sa_type=LargeBinary)
    asked_until: int | None = Field(default=None, sa_type=BigInteger)


def _nothing_else(_connection: Connection) -> None:
    """No more than the end."""


class SessionStore:
    """The repository of login sessions."""

    def __init__(self, database: Database, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._random = random

    async def start(
        self,
        sid: str,
        sub: str,
        person: Person,
        now: int,
        *,
        ends: int,
        claims_until: int,
        replacing: str | None = None,
        sealed_upstream: bytes | None = None,
    ) -> NewSession:
        """A new session for a person who just proved themself. Times are NumericDate seconds.

        Args:
            sid: A new id, made by the caller.
            sub: The person's opaque id.
            person: What the identity provider said; it counts until `claims_until`.
            now: When the provider was asked.
            ends: When the session does.
            claims_until: No later than `ends` counts.
            replacing: The cookie value the browser had before; it opens nothing any more.
            sealed_upstream: What another site gave for asking again, sealed for this `sid`.
        """
        cookie_value = new_secret(self._random)
        session = Session(sid, sub, person, now, ends, min(ends, claims_until))

        def work(connection: Connection) -> None:
            connection.execute(
                delete(LoginSessionRow).where(col(LoginSessionRow.expires_at) <= now)
            )
            connection.execute(
                update(LoginSessionRow)
                .where(col(LoginSessionRow.cookie_digest) == digest_of(replacing or ""))
                # A cookie's value has no spaces: none has this digest.
                .values(cookie_digest=digest_of(f"replaced by {sid}"))
            )
            connection.execute(
                insert(LoginSessionRow).values(
                    cookie_digest=digest_of(cookie_value),
                    sid=sid,
                    sub=sub,
                    person=msgspec.json.encode(person),
                    created_at=session.created_at,
                    expires_at=session.expires_at,
                    claims_until=session.claims_until,
                    upstream=sealed_upstream,
                )
            )

        await self._database.write(work)
        return NewSession(session, cookie_value)

    async def find(self, unverified_cookie_value: str, now: int) -> Session | None:
        """The living session of this cookie value."""
        digest = digest_of(unverified_cookie_value)
        found = await self._find(col(LoginSessionRow.cookie_digest) == digest, now)
        return None if found is None else found[0]

    async def find_upstream(self, sid: str, now: int) -> tuple[Session, bytes | None] | None:
        """The living session of this id, whoever holds its cookie, and what is sealed in it."""
        return await self._find(col(LoginSessionRow.sid) == sid, now)

    async def claim(self, sid: str, now: int, until: int) -> bool:
        """Be the only one of all processes that asks about this session, until `until`.

        False: another does, or the session has ended.
        """

        def work(connection: Connection) -> bool:
            claimed = connection.execute(
                update(LoginSessionRow)
                .where(
                    col(LoginSessionRow.sid) == sid,
                    col(LoginSessionRow.asked_until).is_(None)
                    | (col(LoginSessionRow.asked_until) <= now),
                )
                .values(asked_until=until)
                .returning(col(LoginSessionRow.sid))
            ).one_or_none()
            return claimed is not None

        return await self._database.write(work)

    async def release(self, sid: str) -> None:
        """Let others ask about this session; `renew` does it too."""

        def work(connection: Connection) -> None:
            connection.execute(
                update(LoginSessionRow)
                .where(col(LoginSessionRow.sid) == sid)
                .values(asked_until=None)
            )

        await self._database.write(work)

    async def renew(
        self, sid: str, person: Person, claims_until: int, sealed_upstream: bytes | None
    ) -> bool:
        """Take over what the identity provider says now. False: the session has ended."""

        def work(connection: Connection) -> bool:
            renewed = connection.execute(
                update(LoginSessionRow)
                .where(col(LoginSessionRow.sid) == sid)
                .values(
                    person=msgspec.json.encode(person),
                    claims_until=claims_until,
                    upstream=sealed_upstream,
                    asked_until=None,
                )
                .returning(col(LoginSessionRow.sid))
            ).one_or_none()
            return renewed is not None

        return await self._database.write(work)

    async def _find(
        self, which: ColumnElement[bool], now: int
    ) -> tuple[Session, bytes | None] | None:
        def work(connection: Connection) -> tuple[Session, bytes | None] | None:
            row = connection.execute(
                select(LoginSessionRow).where(which, col(LoginSessionRow.expires_at) > now)
            ).one_or_none()
            if row is None:
                return None
            person = msgspec.json.decode(row.person, type=Person)
            until = row.expires_at if row.claims_until is None else row.claims_until
            session = Session(row.sid, row.sub, person, row.created_at, row.expires_at, until)
            return session, row.upstream

        return await self._database.fetch(work)

    async def end(self, sid: str, *, also: Callable[[Connection], None] = _nothing_else) -> None:
        """Forget a session; its cookie means nothing from now on.

        `also` is done in the same transaction, if there was a session to end: its record.
        """

        def work(connection: Connection) -> None:
            ended = delete(LoginSessionRow).where(col(LoginSessionRow.sid) == sid)
            if connection.execute(ended).rowcount:
                also(connection)

        await self._database.write(work)

"""Login sessions: which browser is which person, since when, until when.

The cookie holds a random value; the table holds its digest and the `sid` that tokens carry. A
login always makes a new session with a new value (session fixation), and ends the one before it
in the same browser. Ending is for ever; blocking a `sid` is the registry's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, delete, insert, select
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of, new_secret
from database.engine import Database
from idp_connectors.evidence import Person
from token_exchange.identifiers import new_id

SESSION_LIFETIME_SECONDS: Final = 28_800  # a working day; every token ends with it at the latest


@dataclass(frozen=True, slots=True)
class Session:
    """A person's login. `created_at` and `expires_at` are NumericDate seconds."""

    sid: str
    sub: str
    person: Person
    created_at: int
    expires_at: int


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


class SessionStore:
    """The repository of login sessions."""

    def __init__(self, database: Database, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._random = random

    async def start(
        self, sub: str, person: Person, now: int, *, replacing: str | None = None
    ) -> NewSession:
        """A new session for a person who just logged in.

        Args:
            sub: The person's opaque id.
            person: What the identity provider said.
            now: NumericDate seconds.
            replacing: The cookie value the browser had before; that session ends.
        """
        cookie_value = new_secret(self._random)
        session = Session(
            sid=new_id("ses", self._random),
            sub=sub,
            person=person,
            created_at=now,
            expires_at=now + SESSION_LIFETIME_SECONDS,
        )

        def work(connection: Connection) -> None:
            connection.execute(
                delete(LoginSessionRow).where(
                    (col(LoginSessionRow.expires_at) <= now)
                    | (col(LoginSessionRow.cookie_digest) == digest_of(replacing or ""))
                )
            )
            connection.execute(
                insert(LoginSessionRow).values(
                    cookie_digest=digest_of(cookie_value),
                    sid=session.sid,
                    sub=sub,
                    person=msgspec.json.encode(person),
                    created_at=session.created_at,
                    expires_at=session.expires_at,
                )
            )

        await self._database.write(work)
        return NewSession(session, cookie_value)

    def find(self, unverified_cookie_value: str, now: int) -> Session | None:
        """The living session of this cookie value."""
        digest = digest_of(unverified_cookie_value)

        def work(connection: Connection) -> Session | None:
            row = connection.execute(
                select(LoginSessionRow).where(
                    col(LoginSessionRow.cookie_digest) == digest,
                    col(LoginSessionRow.expires_at) > now,
                )
            ).one_or_none()
            if row is None:
                return None
            person = msgspec.json.decode(row.person, type=Person)
            return Session(row.sid, row.sub, person, row.created_at, row.expires_at)

        return self._database.read(work)

    async def end(self, sid: str) -> None:
        """Forget a session; its cookie means nothing from now on."""

        def work(connection: Connection) -> None:
            connection.execute(delete(LoginSessionRow).where(col(LoginSessionRow.sid) == sid))

        await self._database.write(work)

"""Refresh token families: what one consent yields again and again, until somebody replays.

A family begins with a code and ends with the person's session, the consent or a replay. Each of its
tokens is good for one use, which yields the next one. Only digests are kept. As with codes, a token
is found, everything about the request is checked by pure code, and one conditional write uses it up
and makes its successor: of any number of parallel requests in any number of processes one wins. A
token presented after its use means that two parties hold it, and the caller ends the whole family
(RFC 9700 §4.14.2). Used tokens are kept as long as their family, so that every replay is seen.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, delete, exists, insert, select, update
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of
from database.engine import Database
from token_exchange.claims import AuthorizationDetail, JwkThumbprint


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshGrant:
    """What a family may yield at most. Nothing here ever grows. Times are NumericDate seconds.

    `key` is the DPoP key of the family: tokens of another key are other tokens (RFC 9449 §5);
    None where its client proves none. Both kinds are told apart for ever.
    `created_at` meets epochs: a family from before one never yields again.
    """

    client_id: str
    agent: str
    resource: str
    scope: str
    details: tuple[AuthorizationDetail, ...]
    key: JwkThumbprint | None
    sub: str
    sid: str
    session_created_at: int
    gid: str | None
    invocation: str | None
    transaction: str
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """A refresh token as found: used ones and those of ended families too, the caller judges."""

    digest: str
    family_id: str
    grant: RefreshGrant
    is_used: bool
    is_revoked: bool


class RefreshFamilyRow(SQLModel, table=True):
    """One family."""

    __tablename__ = "refresh_families"

    family_id: str = Field(primary_key=True, max_length=64)
    granted: bytes = Field(sa_type=LargeBinary)  # "grant" is a reserved word of SQL
    expires_at: int = Field(sa_type=BigInteger, index=True)
    invocation: str | None = Field(default=None, max_length=64, index=True)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)


class RefreshTokenRow(SQLModel, table=True):
    """One token of a family."""

    __tablename__ = "refresh_tokens"

    token_digest: str = Field(primary_key=True, max_length=64)
    family_id: str = Field(index=True, max_length=64)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class RefreshTokenStore:
    """The repository of refresh token families."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, unverified_token: str) -> StoredRefreshToken | None:
        """The token as stored."""
        digest = digest_of(unverified_token)

        def work(connection: Connection) -> StoredRefreshToken | None:
            row = connection.execute(
                select(
                    col(RefreshTokenRow.family_id),
                    col(RefreshTokenRow.used_at),
                    col(RefreshFamilyRow.granted),
                    col(RefreshFamilyRow.revoked_at),
                )
                .join(
                    RefreshFamilyRow,
                    col(RefreshFamilyRow.family_id) == col(RefreshTokenRow.family_id),
                )
                .where(col(RefreshTokenRow.token_digest) == digest)
            ).one_or_none()
            if row is None:
                return None
            grant = msgspec.json.decode(row.granted, type=RefreshGrant)
            is_revoked = row.revoked_at is not None
            return StoredRefreshToken(
                digest, row.family_id, grant, row.used_at is not None, is_revoked
            )

        return await self._database.fetch(work)

    async def rotate(
        self,
        stored: StoredRefreshToken,
        successor: str,
        now: int,
        *,
        also: Callable[[Connection], None] = lambda _: None,
    ) -> bool:
        """Use the token, make its successor and do `also` in the same write.

        False: used, ended or revoked meanwhile, and nothing is done.

        INVARIANT: one statement decides, so of parallel calls at most one returns True. What
        cannot be done leaves the token usable: else the honest client's retry would be a replay.
        """
        family = (
            select(col(RefreshFamilyRow.family_id))
            .where(
                col(RefreshFamilyRow.family_id) == stored.family_id,
                col(RefreshFamilyRow.revoked_at).is_(None),
                col(RefreshFamilyRow.expires_at) > now,
            )
            .exists()
        )

        def work(connection: Connection) -> bool:
            used = connection.execute(
                update(RefreshTokenRow)
                .where(
                    col(RefreshTokenRow.token_digest) == stored.digest,
                    col(RefreshTokenRow.used_at).is_(None),
                    family,
                )
                .values(used_at=now)
                .returning(col(RefreshTokenRow.token_digest))
            ).one_or_none()
            if used is None:
                return False
            connection.execute(
                insert(RefreshTokenRow).values(
                    token_digest=digest_of(successor), family_id=stored.family_id
                )
            )
            also(connection)
            return True

        return await self._database.write(work)

    async def revoke(self, family_id: str, now: int) -> None:
        """End a family: none of its tokens yields anything from now on."""
        await self._database.write(lambda connection: revoke_in(connection, family_id, now))

    async def revoke_of_run(
        self, invocation: str, now: int, *, also: Callable[[Connection], None] = lambda _: None
    ) -> bool:
        """End every family of a run; whether there was one, and then `also` in that transaction."""

        def work(connection: Connection) -> bool:
            is_any = revoke_of_run_in(connection, invocation, now)
            if is_any:
                also(connection)
            return is_any

        return await self._database.write(work)


def begin_in(connection: Connection, family_id: str, token: str, grant: RefreshGrant) -> None:
    """Inside a write: store a new family with its first token, and drop those that ended."""
    _drop_ended(connection, grant.created_at)
    connection.execute(
        insert(RefreshFamilyRow).values(
            family_id=family_id,
            granted=msgspec.json.encode(grant),
            expires_at=grant.expires_at,
            invocation=grant.invocation,
        )
    )
    connection.execute(
        insert(RefreshTokenRow).values(token_digest=digest_of(token), family_id=family_id)
    )


def revoke_in(connection: Connection, family_id: str, now: int) -> None:
    """Inside a write: end a family."""
    connection.execute(
        update(RefreshFamilyRow)
        .where(
            col(RefreshFamilyRow.family_id) == family_id,
            col(RefreshFamilyRow.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )


def revoke_of_run_in(connection: Connection, invocation: str, now: int) -> bool:
    """Inside a write: end every family of a run; whether there was one."""
    ended = connection.execute(
        update(RefreshFamilyRow)
        .where(
            col(RefreshFamilyRow.invocation) == invocation,
            col(RefreshFamilyRow.revoked_at).is_(None),
        )
        .values(revoked_at=now)
    )
    return ended.rowcount > 0


def _drop_ended(connection: Connection, now: int) -> None:
    ended = col(RefreshFamilyRow.expires_at) <= now
    connection.execute(
        delete(RefreshTokenRow).where(
            exists().where(col(RefreshFamilyRow.family_id) == col(RefreshTokenRow.family_id), ended)
        )
    )
    connection.execute(delete(RefreshFamilyRow).where(ended))

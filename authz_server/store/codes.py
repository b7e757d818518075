"""Authorization codes: what one was issued for, and that it is used at most once.

A code is found by its digest, everything about the request is then checked by pure code, and only
then is it consumed, by one conditional UPDATE: of any number of parallel requests in any number of
processes one gets the row, and a wrong request burns nobody's code (RFC 6749 §10.5). Used codes
are kept until no token issued from them can be alive, so that a second use is recognised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import BigInteger, Connection, LargeBinary, delete, insert, select, update
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of
from database.engine import Database
from idp_connectors.evidence import Person
from token_exchange.claims import AuthorizationDetail

CODE_LIFETIME_SECONDS: Final = 60  # RFC 6749 §4.1.2 allows ten minutes; a redirect needs seconds
KEPT_AFTER_USE_SECONDS: Final = 86_400  # longest invocation: a replay of the code is still seen


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeGrant:
    """What a person let a client have, waiting for its token request. Never the code itself.

    `agent` is None only for the person's own command line. `invocation` (an agent's run) and
    `token_id` are minted with the code, so that using the code twice can revoke whatever the
    first use yielded, without a second write. Times are NumericDate seconds: nothing issued
    outlives `valid_until` (the person's session and consent). `requested_at`, when the request
    came that the person answered, and `session_created_at` meet epochs. `document_digest` is what
    a client that describes itself said when it asked
    (draft-ietf-oauth-client-id-metadata-document).
    """

    client_id: str
    agent: str | None
    redirect_uri: str
    code_challenge: str
    resource: str
    scope: str
    details: tuple[AuthorizationDetail, ...]
    nonce: str | None
    dpop_jkt: str | None
    sub: str
    person: Person
    sid: str
    session_created_at: int
    valid_until: int
    gid: str | None
    invocation: str | None
    token_id: str
    transaction: str
    created_at: int
    document_digest: str | None = None
    requested_at: int = 0  # a code of before this was kept meets every epoch


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A code as found. `used_at` is set once it was consumed."""

    digest: str
    grant: CodeGrant
    expires_at: int
    used_at: int | None


class AuthorizationCodeRow(SQLModel, table=True):
    """One authorization code."""

    __tablename__ = "authorization_codes"

    code_digest: str = Field(primary_key=True, max_length=64)
    # "grant" is a reserved word of SQL.
    granted: bytes = Field(sa_type=LargeBinary)
    expires_at: int = Field(sa_type=BigInteger, index=True)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class CodeStore:
    """The repository of authorization codes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, unverified_code: str) -> StoredCode | None:
        """The code as stored, used and expired ones too: the caller judges."""
        digest = digest_of(unverified_code)

        def work(connection: Connection) -> StoredCode | None:
            row = connection.execute(
                select(AuthorizationCodeRow).where(col(AuthorizationCodeRow.code_digest) == digest)
            ).one_or_none()
            if row is None:
                return None
            granted = msgspec.json.decode(row.granted, type=CodeGrant)
            return StoredCode(digest, granted, row.expires_at, row.used_at)

        return await self._database.fetch(work)

    async def consume(
        self, digest: str, now: int, *, also: Callable[[Connection], None] = lambda _: None
    ) -> bool:
        """Use the code, and do `also` in the same write. False: used before, or expired meanwhile.

        INVARIANT: one statement decides, so of parallel calls at most one returns True. What
        cannot be done leaves the code usable: else the honest client's retry would be a replay.
        """

        def work(connection: Connection) -> bool:
            used = connection.execute(
                update(AuthorizationCodeRow)
                .where(
                    col(AuthorizationCodeRow.code_digest) == digest,
                    col(AuthorizationCodeRow.used_at).is_(None),
                    col(AuthorizationCodeRow.expires_at) > now,
                )
                .values(used_at=now)
                .returning(col(AuthorizationCodeRow.code_digest))
            ).one_or_none()
            if used is None:
                return False
            also(connection)
            return True

        return await self._database.write(work)


def save_in(connection: Connection, code: str, grant: CodeGrant) -> None:
    """Inside a write: store a new code by its digest; drop those nobody can replay any more."""
    stale_before = grant.created_at - KEPT_AFTER_USE_SECONDS
    connection.execute(
        delete(AuthorizationCodeRow).where(col(AuthorizationCodeRow.expires_at) < stale_before)
    )
    connection.execute(
        insert(AuthorizationCodeRow).values(
            code_digest=digest_of(code),
            granted=msgspec.json.encode(grant),
            expires_at=grant.created_at + CODE_LIFETIME_SECONDS,
        )
    )

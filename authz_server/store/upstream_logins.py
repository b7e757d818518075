"""Logins under way at other sites: which `state` belongs to which request of which browser.

The row says where a callback belongs, and nothing in it is a secret: `state` is stored as its
digest, nonce and code verifier are derived from it and the browser's cookie when they are needed
(`authz_server.upstream_login`). One login per authorization request: starting again forgets the
one before. Used once, by one conditional statement, by the browser that started it, at the
provider it was started at: the same issuer and client, not only the same name.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Connection, delete, insert, select
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of
from database.engine import Database

UPSTREAM_LOGIN_SECONDS: Final = 600  # time enough for a second factor


def registration_of(issuer: str, client_id: str) -> str:
    """What a row says of where a login was begun. Neither of the two has a NUL."""
    return digest_of(f"{issuer}\0{client_id}")


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """A login at another site. Times are NumericDate seconds.

    `registration` names the issuer it was begun at and the client we are there
    (`registration_of`); None is nobody's.
    """

    interaction_id: str
    identity_provider: str
    registration: str | None
    created_at: int
    expires_at: int


class UpstreamLoginRow(SQLModel, table=True):
    """One login at another site."""

    __tablename__ = "upstream_logins"

    interaction_id: str = Field(primary_key=True, max_length=64)
    state_digest: str = Field(unique=True, max_length=64)
    browser_digest: str = Field(max_length=64)
    identity_provider: str = Field(max_length=64)
    registration: str | None = Field(default=None, max_length=64)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)


class UpstreamLoginStore:
    """The repository of logins at other sites. Bounded by the interactions that are open."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(
        self,
        interaction_id: str,
        identity_provider: str,
        registration: str,
        state: str,
        browser_secret: str,
        *,
        now: int,
    ) -> None:
        """Remember a login; it takes the place of any other for the same request."""

        def work(connection: Connection) -> None:
            connection.execute(
                delete(UpstreamLoginRow).where(
                    (col(UpstreamLoginRow.expires_at) <= now)
                    | (col(UpstreamLoginRow.interaction_id) == interaction_id)
                )
            )
            connection.execute(
                insert(UpstreamLoginRow).values(
                    interaction_id=interaction_id,
                    state_digest=digest_of(state),
                    browser_digest=digest_of(browser_secret),
                    identity_provider=identity_provider,
                    registration=registration,
                    created_at=now,
                    expires_at=now + UPSTREAM_LOGIN_SECONDS,
                )
            )

        await self._database.write(work)

    async def find(
        self, unverified_state: str, unverified_browser_secret: str, provider: str, now: int
    ) -> PendingLogin | None:
        """The login of this state, if this browser started it at this provider. Not used up."""

        def work(connection: Connection) -> PendingLogin | None:
            row = connection.execute(
                select(UpstreamLoginRow).where(
                    col(UpstreamLoginRow.state_digest) == digest_of(unverified_state),
                    col(UpstreamLoginRow.browser_digest) == digest_of(unverified_browser_secret),
                    col(UpstreamLoginRow.identity_provider) == provider,
                    col(UpstreamLoginRow.expires_at) > now,
                )
            ).one_or_none()
            if row is None:
                return None
            return PendingLogin(
                row.interaction_id,
                row.identity_provider,
                row.registration,
                row.created_at,
                row.expires_at,
            )

        return await self._database.fetch(work)

    async def use(self, state: str) -> bool:
        """Use the login up. False: somebody was first."""

        def work(connection: Connection) -> bool:
            used = connection.execute(
                delete(UpstreamLoginRow)
                .where(col(UpstreamLoginRow.state_digest) == digest_of(state))
                .returning(col(UpstreamLoginRow.interaction_id))
            ).one_or_none()
            return used is not None

        return await self._database.write(work)

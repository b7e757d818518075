"""Authorization requests in progress, between /authorize and the code.

What was asked is kept here, validated, so that login and consent never read it from the browser
again. An interaction belongs to the browser that started it (a cookie whose digest is stored),
lives ten minutes, and is answered once: one conditional UPDATE, so that a double click or a
replayed form yields no second code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Index,
    LargeBinary,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlmodel import Field, SQLModel, col

from authz_server.store.digests import digest_of
from database.engine import Database
from registry.snapshot import ClientRecord
from token_exchange.identifiers import new_id

# Anybody may start one. When there are too many, the network with most of those that nobody has
# logged in to loses its own oldest: a flood shortens the time that people of its own network have
# for typing a password, evicts nobody else's, and locks nobody out.
MAXIMUM_OPEN: Final = 20_000
EVICTED_AT_ONCE: Final = 1_000
INTERACTION_LIFETIME_SECONDS: Final = 600  # MCP authorization: state lives at most ten minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationRequest:
    """An authorization request after every check of /authorize.

    `tools` are exact names, already cut to what the agent may use and the catalogue has.
    `server` and `agent` are None only for the person's own command line. `fresh_login`: the
    person must log in even with a session; `login_not_before` is the oldest acceptable
    `auth_time` (NumericDate seconds, 0: any). `document` is a client that describes itself, as it
    did when it asked. `consent_only`: no program waits for a code, so there is no redirect URI,
    and the answer is a page.
    """

    client_id: str
    agent: str | None
    server: str | None
    redirect_uri: str
    state: str | None
    code_challenge: str
    resource: str
    scope: str
    tools: tuple[str, ...]
    nonce: str | None
    dpop_jkt: str | None
    fresh_login: bool
    ask_consent: bool
    silent: bool
    login_not_before: int
    document: ClientRecord | None = None
    consent_only: bool = False


@dataclass(frozen=True, slots=True)
class Interaction:
    """A request waiting for its person. `created_at` is NumericDate seconds.

    `login_sid` is the session of the login that happened inside this interaction, if one did.
    """

    interaction_id: str
    browser_digest: str
    request: AuthorizationRequest
    created_at: int
    expires_at: int
    login_sid: str | None = None


class InteractionRow(SQLModel, table=True):
    """One authorization request in progress."""

    __tablename__ = "interactions"
    # INVARIANT: `_make_room` reads these alone. The requests themselves are large, and a flood from
    # two networks makes it run for each new one, inside the one write of all processes.
    __table_args__ = (
        Index(None, "finished_at", "created_at", "interaction_id"),
        Index(None, "login_sid", "network", "created_at", "interaction_id"),
    )

    interaction_id: str = Field(primary_key=True, max_length=64)
    browser_digest: str = Field(max_length=64)
    request: bytes = Field(sa_type=LargeBinary)
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int = Field(sa_type=BigInteger, index=True)
    login_sid: str | None = Field(default=None, max_length=64)
    network: str | None = Field(default=None, max_length=64)
    finished_at: int | None = Field(default=None, sa_type=BigInteger)


class InteractionStore:
    """The repository of authorization requests in progress."""

    def __init__(self, database: Database, random: Callable[[int], bytes]) -> None:
        self._database = database
        self._random = random

    async def start(
        self, request: AuthorizationRequest, browser_secret: str, now: int, *, network: str = ""
    ) -> Interaction | None:
        """Keep a validated request for the browser that holds `browser_secret`.

        `network` is where it came from (`authz_server.network`). None: too many are open, with
        somebody logged in for each.
        """
        interaction = Interaction(
            new_id("itx", self._random),
            digest_of(browser_secret),
            request,
            now,
            now + INTERACTION_LIFETIME_SECONDS,
        )

        def work(connection: Connection) -> Interaction | None:
            connection.execute(delete(InteractionRow).where(col(InteractionRow.expires_at) <= now))
            waiting = connection.execute(select(func.count()).select_from(InteractionRow))
            if waiting.scalar_one() >= MAXIMUM_OPEN and not _make_room(connection):
                return None
            connection.execute(
                insert(InteractionRow).values(
                    interaction_id=interaction.interaction_id,
                    browser_digest=interaction.browser_digest,
                    request=msgspec.json.encode(request),
                    created_at=interaction.created_at,
                    expires_at=interaction.expires_at,
                    network=network,
                )
            )
            return interaction

        return await self._database.write(work)

    async def find(
        self, unverified_interaction_id: str, unverified_browser_secret: str, now: int
    ) -> Interaction | None:
        """The open interaction of this id, if this browser started it."""
        digest = digest_of(unverified_browser_secret)

        def work(connection: Connection) -> Interaction | None:
            row = connection.execute(
                select(InteractionRow).where(
                    col(InteractionRow.interaction_id) == unverified_interaction_id,
                    col(InteractionRow.browser_digest) == digest,
                    col(InteractionRow.expires_at) > now,
                    col(InteractionRow.finished_at).is_(None),
                )
            ).one_or_none()
            if row is None:
                return None
            request = msgspec.json.decode(row.request, type=AuthorizationRequest)
            return Interaction(
                row.interaction_id,
                row.browser_digest,
                request,
                row.created_at,
                row.expires_at,
                row.login_sid,
            )

        return await self._database.fetch(work)

    async def logged_in(self, interaction_id: str, sid: str) -> None:
        """Remember that the person logged in for this very request (`prompt=login`)."""

        def work(connection: Connection) -> None:
            connection.execute(
                update(InteractionRow)
                .where(
                    col(InteractionRow.interaction_id) == interaction_id,
                    col(InteractionRow.finished_at).is_(None),
                )
                .values(login_sid=sid)
            )

        await self._database.write(work)

    async def finish(
        self, interaction_id: str, now: int, *, also: Callable[[Connection], None] = lambda _: None
    ) -> bool:
        """Answer the interaction, and do `also` in the same write.

        False: it was answered already, or ended meanwhile.
        """

        def work(connection: Connection) -> bool:
            finished = connection.execute(
                update(InteractionRow)
                .where(
                    col(InteractionRow.interaction_id) == interaction_id,
                    col(InteractionRow.finished_at).is_(None),
                    col(InteractionRow.expires_at) > now,
                )
                .values(finished_at=now)
                .returning(col(InteractionRow.interaction_id))
            ).one_or_none()
            if finished is None:
                return False
            also(connection)
            return True

        return await self._database.write(work)


def _make_room(connection: Connection) -> bool:
    """Forget finished requests, else some that nobody has logged in to; whether any went."""
    finished = col(InteractionRow.finished_at).is_not(None)
    return _forget(connection, finished) or _forget_of_the_largest(connection)


def _forget_of_the_largest(connection: Connection) -> bool:
    """Forget the oldest requests of the network that has most of those without a login.

    INVARIANT: no network loses one while another has more.
    """
    nobody_here = col(InteractionRow.login_sid).is_(None)
    size = func.count()
    sizes = connection.execute(
        select(col(InteractionRow.network), size)
        .where(nobody_here)
        .group_by(col(InteractionRow.network))
        .order_by(size.desc())
        .limit(2)
    ).all()
    if not sizes:
        return False
    largest, second = sizes[0], sizes[1][1] if len(sizes) > 1 else 0
    # Down to what the next one has, at most: then they take turns.
    surplus = max(1, min(largest[1] - second, EVICTED_AT_ONCE))
    is_largest = col(InteractionRow.network).is_not_distinct_from(largest[0])
    return _forget(connection, nobody_here & is_largest, surplus)


def _forget(connection: Connection, which: ColumnElement[bool], at_most: int | None = None) -> bool:
    oldest = (
        select(col(InteractionRow.interaction_id))
        .where(which)
        .order_by(col(InteractionRow.created_at), col(InteractionRow.interaction_id))
        .limit(at_most or EVICTED_AT_ONCE)
    )
    gone = connection.execute(
        delete(InteractionRow).where(col(InteractionRow.interaction_id).in_(oldest))
    )
    return gone.rowcount > 0

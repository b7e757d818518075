"""How a process becomes part of a Gateway: a single-use code, exchanged for an enrolled key.

The code has 256 bits; only its hash is stored; it is good for ten minutes and one use. Consuming
it and storing the key is one transaction. What is enrolled is a public ES256 key and nothing else.
Left out: the proof that the caller holds the key (the endpoint checks it before).
"""

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, ColumnElement, Connection, delete, insert, select, update
from sqlmodel import Field, SQLModel, col

from database.engine import Database
from registry.counters import REGISTRY_VERSION, next_value
from registry.public_keys import public_jwk, thumbprint_of

CODE_BYTES: Final = 32
CODE_LIFETIME_SECONDS: Final = 600


class EnrolmentCodeRow(SQLModel, table=True):
    """A code that was handed out; `code_hash` is SHA-256 in hexadecimal."""

    __tablename__ = "enrolment_codes"

    code_hash: str = Field(primary_key=True)
    gateway: str
    author: str
    expires_at: int = Field(sa_type=BigInteger)
    used_at: int | None = Field(default=None, sa_type=BigInteger)


class GatewayKeyRow(SQLModel, table=True):
    """A public key that enrolled into a Gateway."""

    __tablename__ = "gateway_keys"

    thumbprint: str = Field(primary_key=True)
    gateway: str = Field(index=True)
    jwk: dict[str, Any] = Field(sa_type=JSON)
    enrolled_at: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class EnrolledKey:
    """A key of a Gateway; `enrolled_at` is NumericDate seconds."""

    gateway: str
    thumbprint: str
    jwk: dict[str, Any]
    enrolled_at: int


class EnrolmentStore:
    """Codes and the keys that enrolled with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_code(self, gateway: str, author: str, now: int) -> str:
        """A new single-use code for `gateway`; the only time it can be read."""
        return await self._database.write(
            lambda connection: _create_code(connection, gateway, author, now)
        )

    def gateway_of_code(self, code: str, now: int) -> str | None:
        """The Gateway a code that is good at `now` was made for; the code stays good."""
        query = select(col(EnrolmentCodeRow.gateway)).where(*_is_good(code, now))
        return self._database.read(lambda connection: connection.scalar(query))

    async def consume_code(
        self,
        code: str,
        jwk: Mapping[str, Any],
        now: int,
        *,
        also: Callable[[Connection], None] = lambda _: None,
    ) -> str | None:
        """Enrol the public `jwk`; the Gateway's name, or None for a code that is not good.

        `also` is done in the same transaction: its record.

        Raises:
            InvalidKeyError: `jwk` is not a public ES256 key; the code stays unused.
        """
        key = public_jwk(jwk)

        def work(connection: Connection) -> str | None:
            gateway = _consume_code(connection, code, key, now)
            if gateway is not None:
                also(connection)
            return gateway

        return await self._database.write(work)

    async def remove_key(
        self, gateway: str, thumbprint: str, also: Callable[[Connection], None]
    ) -> bool:
        """Forget one key of a Gateway: its holder is nobody from now on. False: it has no such key.

        `also` is done in the same transaction, if there was a key to forget: its record.
        """
        which = (col(GatewayKeyRow.gateway) == gateway, col(GatewayKeyRow.thumbprint) == thumbprint)

        def work(connection: Connection) -> bool:
            if not connection.execute(delete(GatewayKeyRow).where(*which)).rowcount:
                return False
            next_value(connection, REGISTRY_VERSION)
            also(connection)
            return True

        return await self._database.write(work)

    def enrolled(self) -> tuple[EnrolledKey, ...]:
        """Every enrolled key."""
        return self._database.read(enrolled_keys)


def enrolled_keys(connection: Connection) -> tuple[EnrolledKey, ...]:
    """Every enrolled key, oldest first."""
    query = select(
        col(GatewayKeyRow.gateway),
        col(GatewayKeyRow.thumbprint),
        col(GatewayKeyRow.jwk),
        col(GatewayKeyRow.enrolled_at),
    ).order_by(col(GatewayKeyRow.enrolled_at), col(GatewayKeyRow.thumbprint))
    return tuple(EnrolledKey(*row) for row in connection.execute(query))


def forget_gateway(connection: Connection, gateway: str) -> None:
    """Inside a write: a Gateway with the same name, later, is another Gateway."""
    connection.execute(delete(GatewayKeyRow).where(col(GatewayKeyRow.gateway) == gateway))
    connection.execute(delete(EnrolmentCodeRow).where(col(EnrolmentCodeRow.gateway) == gateway))


def _create_code(connection: Connection, gateway: str, author: str, now: int) -> str:
    code = urlsafe_b64encode(secrets.token_bytes(CODE_BYTES)).rstrip(b"=").decode()
    connection.execute(delete(EnrolmentCodeRow).where(col(EnrolmentCodeRow.expires_at) <= now))
    connection.execute(
        insert(EnrolmentCodeRow).values(
            code_hash=_hash(code),
            gateway=gateway,
            author=author,
            expires_at=now + CODE_LIFETIME_SECONDS,
            used_at=None,
        )
    )
    return code


def _is_good(code: str, now: int) -> tuple[ColumnElement[bool], ...]:
    return (
        col(EnrolmentCodeRow.code_hash) == _hash(code),
        col(EnrolmentCodeRow.used_at).is_(None),
        col(EnrolmentCodeRow.expires_at) > now,
    )


def _consume_code(connection: Connection, code: str, jwk: dict[str, Any], now: int) -> str | None:
    consume = (
        update(EnrolmentCodeRow)
        .where(*_is_good(code, now))
        .values(used_at=now)
        .returning(col(EnrolmentCodeRow.gateway))
    )
    gateway: str | None = connection.execute(consume).scalar_one_or_none()
    if gateway is None:
        return None
    thumbprint = thumbprint_of(jwk)
    # A key belongs to one Gateway: enrolling it again moves it.
    connection.execute(delete(GatewayKeyRow).where(col(GatewayKeyRow.thumbprint) == thumbprint))
    connection.execute(
        insert(GatewayKeyRow).values(
            thumbprint=thumbprint, gateway=gateway, jwk=jwk, enrolled_at=now
        )
    )
    next_value(connection, REGISTRY_VERSION)
    return gateway


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()

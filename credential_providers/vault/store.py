"""The vault: sealed secrets by name and version, and the one place that opens them.

A row holds ciphertext only (`credential_providers.vault.seal`), the key it is sealed to, and who
stored it when. Storing checks the shape and the name before anything is written; opening reads
the newest version, asks for the private key and keeps neither. Left out: who may store (the
admin API) and the private key at rest (the authorization server).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, String, Text, func, insert, select
from sqlmodel import Field, SQLModel

from credential_providers.vault.seal import (
    MAXIMUM_SEALED_BYTES,
    SECRET_TYP,
    sealed_header,
    unseal_secret,
)
from database.engine import Database
from token_exchange.claims import Refusal

PrivateKeyOf = Callable[[str], Mapping[str, Any] | None]

MAXIMUM_AUTHOR_LENGTH: Final = 256


class SealedSecretRow(SQLModel, table=True):
    """One version of one secret. Never changed: a new value is a new version."""

    __tablename__ = "sealed_secrets"

    name: str = Field(primary_key=True, sa_type=String(63))
    version: int = Field(primary_key=True)
    key_id: str = Field(sa_type=String(64))
    sealed: str = Field(sa_type=Text)
    author: str = Field(sa_type=String(MAXIMUM_AUTHOR_LENGTH))
    created_at_ms: int = Field(sa_type=BigInteger)


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """What may be known of a secret: never its value. `created_at_ms` is Unix milliseconds."""

    name: str
    version: int
    key_id: str
    author: str
    created_at_ms: int


_TABLE: Final = SealedSecretRow.__table__  # type: ignore[attr-defined]  # SQLModel's own attribute
_FACTS: Final = (
    _TABLE.c.name,
    _TABLE.c.version,
    _TABLE.c.key_id,
    _TABLE.c.author,
    _TABLE.c.created_at_ms,
)


class VaultStore:
    """Stores and opens sealed secrets.

    `private_key_of` gives the private JWK of a `kid`, or None when this process has none; it is
    called at each opening, so that nothing unsealed or private stays here.
    """

    def __init__(self, database: Database, private_key_of: PrivateKeyOf) -> None:
        self._database = database
        self._private_key_of = private_key_of

    async def put(
        self, name: str, sealed: str, author: str, now_ms: int
    ) -> SecretVersion | Refusal:
        """Store a new version. It must be sealed under `name` to a key we hold."""
        key_id = self._sealed_to(name, sealed)
        if isinstance(key_id, Refusal):
            return key_id

        def work(connection: Connection) -> SecretVersion:
            newest = connection.scalar(
                select(func.max(_TABLE.c.version)).where(_TABLE.c.name == name)
            )
            stored = SecretVersion(
                name, (newest or 0) + 1, key_id, author[:MAXIMUM_AUTHOR_LENGTH], now_ms
            )
            connection.execute(
                insert(_TABLE).values(
                    name=stored.name,
                    version=stored.version,
                    key_id=stored.key_id,
                    sealed=sealed,
                    author=stored.author,
                    created_at_ms=stored.created_at_ms,
                )
            )
            return stored

        return await self._database.write(work)

    def versions(self) -> tuple[SecretVersion, ...]:
        """Every version of every secret, by name, newest first; without any content."""
        statement = select(*_FACTS).order_by(_TABLE.c.name, _TABLE.c.version.desc())
        return self._database.read(
            lambda connection: tuple(SecretVersion(*row) for row in connection.execute(statement))
        )

    async def open(self, name: str) -> str | Refusal:
        """The newest value of a secret. Call at the moment of use and let go of it at once."""
        statement = (
            select(_TABLE.c.sealed, _TABLE.c.key_id)
            .where(_TABLE.c.name == name)
            .order_by(_TABLE.c.version.desc())
            .limit(1)
        )
        row = await self._database.fetch(
            lambda connection: connection.execute(statement).one_or_none()
        )
        if row is None:
            return _refused("vault.absent", f"there is no secret {name}")
        private_key = self._private_key_of(row.key_id)
        if private_key is None:
            return _refused("vault.key", f"secret {name} is sealed to a key that is gone")
        return unseal_secret(name, row.sealed, private_key)

    def _sealed_to(self, name: str, sealed: str) -> str | Refusal:
        """The id of the key a value is sealed to, once its outside is as it must be."""
        if len(sealed) > MAXIMUM_SEALED_BYTES:
            return _not_stored("the sealed value is too large")
        header = sealed_header(sealed)
        if isinstance(header, Refusal):
            return _not_stored("the value is not sealed as `countersign secret set` seals")
        if header.get("typ") != SECRET_TYP or header.get("secret") != name:
            return _not_stored("the value is sealed under another name")
        key_id = header.get("kid")
        if not isinstance(key_id, str) or self._private_key_of(key_id) is None:
            return _not_stored("the value is not sealed to this authority's vault key")
        return key_id


def _refused(rule: str, detail: str) -> Refusal:
    return Refusal(
        code="invalid_target",
        description="The secret for this target cannot be opened.",
        detail=detail,
        rule=rule,
    )


def _not_stored(description: str) -> Refusal:
    return Refusal(
        code="invalid_request", description=description, detail=description, rule="vault.put"
    )

"""The vault from outside: names, versions and ciphertext. No value ever passes here in clear."""

from datetime import datetime
from typing import Any, Final

from anyio import to_thread
from pydantic import Field

from admin_console.errors import refused_by
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.parts import SecretFacts
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from token_exchange.claims import Refusal

MAXIMUM_SEALED_CHARACTERS: Final = 16_384


class SealedBody(Wire):
    """A compact JWE to the vault's key, with the secret's name in its protected header."""

    sealed: str = Field(min_length=1, max_length=MAXIMUM_SEALED_CHARACTERS)


class SecretItem(Wire):
    """One version of a secret; never its value."""

    name: str
    version: int
    key_id: str
    author: str
    created_at: datetime


class SecretsAnswer(Wire):
    """The newest version of every secret."""

    secrets: list[SecretItem]


class VaultKeyAnswer(Wire):
    """The public key to seal secrets to."""

    jwk: dict[str, Any]


async def put_secret(call: AdminCall) -> SecretItem:
    """Store a new version of a secret that was sealed elsewhere."""
    name = call.path["name"]
    stored = await call.parts.vault.put(
        name, call.body_as(SealedBody).sealed, call.author, call.now_ms
    )
    if isinstance(stored, Refusal):
        raise refused_by(stored)
    await call.record(
        EventType.SECRET_SEALED,
        Outcome.SUCCEEDED,
        object_ref=f"Secret/{name}",
        detail=f"version {stored.version}",
    )
    return _item(stored)


async def list_secrets(call: AdminCall) -> SecretsAnswer:
    """Names and versions."""
    newest: dict[str, SecretFacts] = {}
    for each in await to_thread.run_sync(call.parts.vault.versions):
        if each.name not in newest or newest[each.name].version < each.version:
            newest[each.name] = each
    return SecretsAnswer(secrets=[_item(newest[name]) for name in sorted(newest)])


async def vault_key(call: AdminCall) -> VaultKeyAnswer:
    """The public key to seal secrets to."""
    return VaultKeyAnswer(jwk=dict(call.parts.vault_key()))


def _item(facts: SecretFacts) -> SecretItem:
    return SecretItem(
        name=facts.name,
        version=facts.version,
        key_id=facts.key_id,
        author=facts.author,
        created_at=moment(facts.created_at_ms),
    )

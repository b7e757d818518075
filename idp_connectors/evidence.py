"""The two frozen values every connector returns: who the workload is, and who the person is."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verified workload proof says. Made only after every check of its provider passed.

    `claims` are flat and named `<provider kind>.<claim>` (such as `unix.uid`); an Agent's match
    rules compare them byte for byte. `issued_at` and `expires_at` are NumericDate seconds.
    `key_thumbprint` is the key the proof is bound to, if any (RFC 7638).
    """

    provider: str
    method: str
    level: int
    issuer: str
    subject: str
    claims: Mapping[str, str]
    digest: str
    issued_at: int
    expires_at: int
    proof_id: str | None = None
    key_thumbprint: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """What an identity provider says of an authenticated person.

    `groups` already carry the provider's prefix (`local/support`). `auth_time` is NumericDate.
    """

    identity_provider: str
    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]
    acr: str
    auth_time: int
    attributes: Mapping[str, str] = field(default_factory=dict)

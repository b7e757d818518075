"""For whom a declared IdentityProvider speaks: the persons of one issuer.

A provider keeps its name when it is declared anew with another issuer, and a subject there is
somebody else (OpenID Connect Core §2: `sub` is unique within its issuer). Whatever is kept about a
person, a session, a code or a role, counts only while their provider still is that issuer. Pure.
"""

from collections.abc import Mapping

from registry.snapshot import ProviderRecord


def is_vouched_for(
    providers: Mapping[str, ProviderRecord], own_issuer: str, *, name: str, issuer: str
) -> bool:
    """Whether the provider of this name is declared, and its persons are those of `issuer`."""
    provider = providers.get(name)
    return provider is not None and issuer_of(provider, own_issuer) == issuer


def issuer_of(provider: ProviderRecord, own_issuer: str) -> str:
    """`Person.issuer` of everybody it logs in: its own, or for accounts kept here one of ours."""
    stated = provider.settings.get("issuer")
    return stated if isinstance(stated, str) else local_issuer(own_issuer, provider.name)


def local_issuer(own_issuer: str, name: str) -> str:
    """The issuer of the accounts that are kept here under this provider's name."""
    return f"{own_issuer}/identity/{name}"

"""The table of credential provider types, and the one object that issues through it.

Adding a type is one file and one row here. What a row must bring: a settings model that refuses
unknown fields, and a factory. Settings were validated when the object was applied; they are
validated again here, because what reaches a factory decides who gets which secret.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from credential_providers import issued_token, static_secret
from credential_providers.parts import CredentialParts
from credential_providers.request import (
    CredentialProvider,
    CredentialRequest,
    IssuedCredential,
)
from token_exchange.claims import Refusal

__all__ = [
    "PROVIDERS",
    "CredentialParts",
    "CredentialProvider",
    "CredentialProviders",
    "CredentialRequest",
    "IssuedCredential",
    "ProviderType",
    "settings_models",
]


@dataclass(frozen=True, slots=True)
class ProviderType:
    """One row: which settings a type takes and how its provider is built."""

    settings: type[BaseModel]
    build: Callable[[Any, CredentialParts], CredentialProvider]


PROVIDERS: Final[Mapping[str, ProviderType]] = {
    "issued_token": ProviderType(issued_token.IssuedTokenSettings, issued_token.IssuedToken),
    "static_secret": ProviderType(static_secret.StaticSecretSettings, static_secret.StaticSecret),
}


def settings_models() -> dict[tuple[str, str], type[BaseModel]]:
    """(kind, type) → settings model, for the registry to name a bad field at apply."""
    return {("CredentialProvider", name): row.settings for name, row in PROVIDERS.items()}


class CredentialProviders:
    """Issues the credential a server's declared provider makes. Holds no state of its own."""

    def __init__(
        self, parts: CredentialParts, providers: Mapping[str, ProviderType] = PROVIDERS
    ) -> None:
        self._parts = parts
        self._providers = providers

    async def issue(self, request: CredentialRequest) -> IssuedCredential | Refusal:
        """Issue by the type of `request.provider`; an unknown type or bad settings refuse."""
        plan = request.plan
        is_bound = "call" in (request.provider.binding, plan.binding)
        if is_bound and plan.kind == "tool_call" and plan.decision_id is None:
            return _refused(
                "invalid_authorization_details",
                "This target's credential is bound to one call: a decision id is required.",
                "credential.binding",
                f"provider {request.provider.name} has binding call",
            )
        row = self._providers.get(request.provider.type)
        if row is None:
            return _misconfigured(request, f"unknown type {request.provider.type}")
        try:
            settings = row.settings.model_validate(request.provider.settings)
        except ValidationError as problem:
            # The problem's own text would repeat the values given.
            fields = ", ".join(".".join(map(str, error["loc"])) for error in problem.errors())
            return _misconfigured(request, f"bad settings: {fields}")
        return await row.build(settings, self._parts).issue(request)


def _misconfigured(request: CredentialRequest, detail: str) -> Refusal:
    return _refused(
        "invalid_target",
        "The credential provider of this target is not usable.",
        "credential.provider",
        f"provider {request.provider.name}: {detail}",
    )


def _refused(code: str, description: str, rule: str, detail: str) -> Refusal:
    return Refusal(code=code, description=description, detail=detail, rule=rule)

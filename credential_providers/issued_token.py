"""`issued_token`: the target accepts our own access tokens (RFC 9068) and gets one of its own.

Decides only what such a token says (`credential_providers.target_claims`); the token endpoint
signs it with `typ: at+jwt`. A person's `sub` is pairwise by default, so that two targets cannot
join what they know of one person.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from credential_providers.parts import CredentialParts
from credential_providers.request import BEARER, CredentialRequest, IssuedCredential
from credential_providers.target_claims import is_for_person, pairwise_subject, target_claims
from token_exchange.claims import Refusal
from token_exchange.identifiers import new_id
from token_exchange.token_types import TOKEN_TYPE_ACCESS_TOKEN


class IssuedTokenSettings(BaseModel):
    """Settings of an `issued_token` provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Literal["pairwise", "public"] = Field(
        default="pairwise",
        description="pairwise: an id of the person of this target's own. public: our own id.",
    )
    sector: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Targets of one sector see the same pairwise id. Default: the audience.",
    )


class IssuedToken:
    """Describes tokens for one target."""

    def __init__(self, settings: IssuedTokenSettings, parts: CredentialParts) -> None:
        self._settings = settings
        self._parts = parts

    async def issue(self, request: CredentialRequest) -> IssuedCredential | Refusal:
        """The claims of a token for the target; nothing is signed here."""
        claims = target_claims(
            request,
            subject=self._subject(request),
            token_id=new_id("tok_", self._parts.random),
        )
        if isinstance(claims, Refusal):
            return claims
        return IssuedCredential(
            claims=claims, issued_token_type=TOKEN_TYPE_ACCESS_TOKEN, token_type=BEARER
        )

    def _subject(self, request: CredentialRequest) -> str:
        plan = request.plan
        if self._settings.subject == "public" or not is_for_person(plan):
            return plan.subject.sub
        sector = self._settings.sector or plan.audience
        return pairwise_subject(self._parts.pairwise_key(), sector, plan.subject.sub)

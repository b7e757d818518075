"""What the authority answers to an exchange (RFC 8693 §2.2): a credential, or why there is none."""

from dataclasses import dataclass
from typing import Any

import msgspec

from mcp_gateway.authority import AuthorityAnswer
from mcp_gateway.credential import Credential, bearer_credential, static_credential
from mcp_gateway.gateway_key import GatewayKey, UnsealError
from token_exchange.token_types import TOKEN_TYPE_STATIC_SECRET


@dataclass(frozen=True, slots=True)
class ExchangeRefusal:
    """Why there is no credential. `code` is the authority's, `status` 0 when it was not reached."""

    code: str
    description: str
    status: int


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    issued_token_type: str
    token_type: str
    expires_in: int | None = None


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: str
    error_description: str = ""


def credential_in(
    answer: AuthorityAnswer, requested: str, key: GatewayKey, asked_at: int
) -> Credential | ExchangeRefusal:
    """The credential of the type `requested`; `asked_at` is NumericDate seconds."""
    if answer.status != 200:  # noqa: PLR2004 - RFC 6749 §5.1
        return _refusal_of(answer)
    try:
        token = msgspec.json.decode(answer.body, type=_TokenAnswer)
    except msgspec.MsgspecError:
        return _unusable(answer, "The answer is not a token response.")
    if token.issued_token_type != requested:
        return _unusable(answer, "The answer has another type than was asked for.")
    expires_at = None if token.expires_in is None else asked_at + token.expires_in
    if requested == TOKEN_TYPE_STATIC_SECRET:
        try:
            plaintext = key.unseal(token.access_token)
        except UnsealError:
            return _unusable(answer, "The secret is not sealed to this gateway.")
        credential = static_credential(plaintext, expires_at)
    else:
        credential = bearer_credential(token.access_token, expires_at)
    return credential or _unusable(answer, "The credential cannot stand in a header.")


def _refusal_of(answer: AuthorityAnswer) -> ExchangeRefusal:
    try:
        error: Any = msgspec.json.decode(answer.body, type=_ErrorAnswer)
    except msgspec.MsgspecError:
        return ExchangeRefusal("server_error", "The authority gave no reason.", answer.status)
    return ExchangeRefusal(error.error[:64], error.error_description[:256], answer.status)


def _unusable(answer: AuthorityAnswer, description: str) -> ExchangeRefusal:
    return ExchangeRefusal("server_error", description, answer.status)

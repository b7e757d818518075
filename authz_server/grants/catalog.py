"""The grants we serve, and nothing else. Adding one is a file and a row here."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from audit_log.event import EventType
from authz_server.grants import (
    authorization_code,
    client_credentials,
    refresh_token,
    token_exchange,
)
from authz_server.parts import Parts
from authz_server.token_request import IssuancePlan, RefusedForPerson, TokenRequest
from token_exchange.claims import Refusal
from token_exchange.token_types import (
    GRANT_AUTHORIZATION_CODE,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_REFRESH_TOKEN,
    GRANT_TOKEN_EXCHANGE,
)

Grant = Callable[[TokenRequest, Parts], Awaitable[IssuancePlan | Refusal | RefusedForPerson]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantType:
    """One grant: its parameters beside the shared ones, and whether its tokens are key-bound.

    A grant whose tokens are bound needs a DPoP proof; one whose tokens are not refuses a proof,
    because answering it with a bearer would be a silent downgrade (RFC 9449 §5).
    """

    grant: Grant
    parameters: frozenset[str]
    binds_key: bool
    issued: EventType = EventType.TOKEN_ISSUED
    refused: EventType = EventType.TOKEN_REFUSED


GRANTS: Final[Mapping[str, GrantType]] = {
    GRANT_AUTHORIZATION_CODE: GrantType(
        grant=authorization_code.grant,
        parameters=frozenset({"code", "redirect_uri", "code_verifier"}),
        binds_key=True,
    ),
    GRANT_REFRESH_TOKEN: GrantType(
        grant=refresh_token.grant,
        parameters=frozenset({"refresh_token", "scope"}),
        binds_key=True,
    ),
    GRANT_CLIENT_CREDENTIALS: GrantType(
        grant=client_credentials.grant,
        parameters=frozenset({"scope", "authorization_details", "invocation_token"}),
        binds_key=True,
    ),
    GRANT_TOKEN_EXCHANGE: GrantType(
        grant=token_exchange.grant,
        parameters=frozenset(
            {
                "subject_token",
                "subject_token_type",
                "actor_token",
                "actor_token_type",
                "requested_token_type",
                "scope",
                "authorization_details",
            }
        ),
        binds_key=False,
        issued=EventType.TOKEN_EXCHANGED,
        refused=EventType.EXCHANGE_REFUSED,
    ),
}

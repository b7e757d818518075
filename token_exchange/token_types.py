"""The names OAuth and this product give to kinds of token. Constants only.

One place, because a token whose `typ` or URN is misspelt on one side is either refused for no
visible reason or, worse, accepted as something else (RFC 8725 §3.11).
"""

from enum import StrEnum
from typing import Final

# JOSE `typ` header values: every kind of token we sign has its own (RFC 8725 §3.11).
ACCESS_TOKEN_TYP: Final = "at+jwt"  # RFC 9068 §2.1
ID_TOKEN_TYP: Final = "JWT"
DPOP_PROOF_TYP: Final = "dpop+jwt"  # RFC 9449 §4.2
ATTESTATION_TYP: Final = "countersign-attestation+jwt"
SNAPSHOT_TYP: Final = "countersign-snapshot+jwt"
# draft-ietf-oauth-rfc7523bis: a private_key_jwt assertion says what it is.
CLIENT_ASSERTION_TYP: Final = "client-authentication+jwt"

GRANT_AUTHORIZATION_CODE: Final = "authorization_code"
GRANT_CLIENT_CREDENTIALS: Final = "client_credentials"
GRANT_REFRESH_TOKEN: Final = "refresh_token"
GRANT_TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1

CLIENT_ASSERTION_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# draft-ietf-oauth-spiffe-client-auth §3.1: a JWT-SVID, which need not have an `iss`.
CLIENT_ASSERTION_JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"

# RFC 8693 §3.
TOKEN_TYPE_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
TOKEN_TYPE_ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"
TOKEN_TYPE_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
# Ours: a credential that is no OAuth token; `access_token` is then a JWE to the gateway's key.
TOKEN_TYPE_STATIC_SECRET: Final = "urn:countersign:params:oauth:token-type:static-secret"

SCOPE_TOOLS: Final = "mcp:tools"
SCOPE_DISCOVER: Final = "mcp:discover"

DETAIL_TOOL: Final = "mcp_tool"  # what a person consented to, what an agent holds
DETAIL_TOOL_CALL: Final = "mcp_tool_call"  # one call: sent by a gateway at exchange
DETAIL_DISCOVERY: Final = "mcp_discovery"  # a gateway lists a server without a person

SIGNING_ALGORITHM: Final = "ES256"

MAXIMUM_TOKEN_BYTES: Final = 16_384  # size gate before any parsing: far above the largest we issue
MAXIMUM_LIFETIME_SECONDS: Final = 900
MAXIMUM_TARGET_LIFETIME_SECONDS: Final = 300
MAXIMUM_ACTOR_DEPTH: Final = 4


class AudienceClass(StrEnum):
    """What an audience is for; one value belongs to exactly one class."""

    ENDPOINT = "endpoint"
    TARGET = "target"
    CONTROL = "control"
    ADMIN = "admin"


class SubjectProfile(StrEnum):
    """`sub_profile`: what kind of principal a `sub` names (draft-mora-oauth-entity-profiles)."""

    USER = "user"
    AI_AGENT = "ai_agent"
    SERVICE = "service"

"""Signs whatever a test wants to present, right or wrong, without any library's own checks."""

import base64
import json
from typing import Any, Final

from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from token_exchange.keys import VerificationKeys

ISSUER: Final = "http://127.0.0.1:8700"
ENDPOINT: Final = "http://127.0.0.1:8701/crm/mcp"
NOW: Final = 1_800_000_000

SIGNER: Final = ECKey.generate_key("P-256")
STRANGER: Final = ECKey.generate_key("P-256")

_ES256: Final = JWSRegistry(algorithms=["ES256"]).get_alg("ES256")


def public_jwk(key: ECKey) -> dict[str, Any]:
    """The four members of a public key."""
    jwk = key.as_dict(private=False)
    return {name: jwk[name] for name in ("kty", "crv", "x", "y")}


KEYS: Final = VerificationKeys.of([public_jwk(SIGNER)])
KEY_ID: Final = SIGNER.thumbprint()


def base64url(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sign_bytes(header: bytes, payload: bytes, key: ECKey = SIGNER) -> str:
    """A compact JWS over exactly these bytes."""
    signing_input = f"{base64url(header)}.{base64url(payload)}"
    return f"{signing_input}.{base64url(_ES256.sign(signing_input.encode(), key))}"


def sign(header: dict[str, Any], payload: dict[str, Any], key: ECKey = SIGNER) -> str:
    """A compact JWS over these members."""
    return sign_bytes(json.dumps(header).encode(), json.dumps(payload).encode(), key)


def without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    """`members` but for `names`."""
    return {name: value for name, value in members.items() if name not in names}


def access_token_header(**changes: Any) -> dict[str, Any]:
    """The header of an access token, with changes."""
    return {"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID, **changes}


def access_token_claims(**changes: Any) -> dict[str, Any]:
    """The claims of a token of an agent that acts for a person, with changes."""
    return {
        "iss": ISSUER,
        "aud": ENDPOINT,
        "jti": "tok_1",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 900,
        "sub": "usr_alice",
        "sub_profile": "user",
        "client_id": "support-bot",
        "scope": "mcp:tools",
        "act": {
            "iss": f"{ISSUER}/attest/local",
            "sub": "unix:host/1000/bot",
            "sub_profile": "ai_agent",
            "agent": "support-bot",
        },
        "authorization_details": [
            {"type": "mcp_tool", "server": "crm", "tools": ["get_*"], "actions": ["call"]}
        ],
        **changes,
    }


def access_token(**changes: Any) -> str:
    """An access token that verifies, but for the changes to its claims."""
    return sign(access_token_header(), access_token_claims(**changes))

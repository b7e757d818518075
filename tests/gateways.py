"""A gateway in the test's hands: a really enrolled key, and every lie it could tell the authority.

`running` takes the key of the stack's own gateway process out of its state directory; `enrol`
joins a new key to a declared Gateway, as a second worker or as another Gateway.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from joserfc.jwk import ECKey

from compose.demo.stack import Stack
from mcp_gateway.gateway_key import GatewayKey
from tests.stack import admin
from token_exchange.token_types import (
    CLIENT_ASSERTION_JWT_BEARER,
    GRANT_CLIENT_CREDENTIALS,
    GRANT_TOKEN_EXCHANGE,
    TOKEN_TYPE_ACCESS_TOKEN,
)

DIGEST = "sha-256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"


def now() -> int:
    """Real processes have real time."""
    return int(time.time())  # noqa: TID251


def decision() -> str:
    """A decision id nobody has used."""
    return f"dec_{secrets.token_hex(13)}"


@dataclass(frozen=True)
class TestGateway:
    """One enrolled key of one Gateway."""

    __test__ = False

    stack: Stack
    name: str
    key: GatewayKey

    @classmethod
    def running(cls, stack: Stack) -> "TestGateway":
        """The gateway process of the stack: the very key it uses."""
        path = stack.directory / "gateway" / "gateway.key"
        return cls(stack, stack.gateway, GatewayKey.load_or_create(path, secrets.token_bytes))

    @classmethod
    def enrol(cls, stack: Stack, name: str) -> "TestGateway":
        """Join a new key to a declared Gateway."""
        key = GatewayKey(ECKey.generate_key("P-256"), secrets.token_bytes)
        with admin(stack) as api:
            code = api.call("POST", f"/gateways/{name}/join")["join_code"].partition(".")[0]
        url = f"{stack.issuer}/control/v1/enrol"
        proof = key.dpop_proof(method="POST", uri=url, now=now())
        body = {"code": code, "jwk": key.public_jwk}
        answer = stack.http.post(url, json=body, headers={"dpop": proof})
        answer.raise_for_status()
        return cls(stack, name, key)

    @property
    def client_id(self) -> str:
        return f"gateway:{self.name}"

    def assertion(self) -> str:
        """A fresh private_key_jwt."""
        return self.key.client_assertion(
            client_id=self.client_id, issuer=self.stack.issuer, now=now()
        )

    def token_request(
        self, form: Mapping[str, Any], *, proof: str | None = None, assertion: str | None = None
    ) -> httpx2.Response:
        """POST to the token endpoint as this gateway."""
        own = {
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": assertion or self.assertion(),
        }
        headers = {} if proof is None else {"dpop": proof}
        url = f"{self.stack.issuer}/oauth/token"
        return self.stack.http.post(url, data=own | dict(form), headers=headers)

    def client_credentials(self, resource: str | None) -> httpx2.Response:
        """Ask for a token of its own."""
        url = f"{self.stack.issuer}/oauth/token"
        form = {"grant_type": GRANT_CLIENT_CREDENTIALS}
        if resource is not None:
            form["resource"] = resource
        proof = self.key.dpop_proof(method="POST", uri=url, now=now())
        return self.token_request(form, proof=proof)

    def control_token(self) -> str:
        """The token of the control channel."""
        answer = self.client_credentials(f"{self.stack.issuer}/control/v1")
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def exchange(
        self,
        subject_token: str,
        *,
        detail: Mapping[str, Any] | None = None,
        assertion: str | None = None,
        **changes: object,
    ) -> httpx2.Response:
        """An exchange for a crm/get_account call; None in `changes` leaves a parameter out."""
        said = {
            "type": "mcp_tool_call",
            "server": "crm",
            "tool": "get_account",
            "args_sha256": DIGEST,
            "decision": decision(),
        } | dict(detail or {})
        described = {name: value for name, value in said.items() if value is not None}
        form = {
            "grant_type": GRANT_TOKEN_EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "resource": self.stack.crm_url,
            "requested_token_type": TOKEN_TYPE_ACCESS_TOKEN,
            "authorization_details": json.dumps([described]),
        } | changes
        sent = {name: value for name, value in form.items() if value is not None}
        return self.token_request(sent, assertion=assertion)

    def discover(self, server: str, url: str, subject_token: str | None = None) -> httpx2.Response:
        """The exchange without a person: the gateway's own token, for listing a server."""
        detail = {"type": "mcp_discovery", "tool": None, "args_sha256": None, "decision": None}
        return self.exchange(
            subject_token or self.control_token(), detail={"server": server} | detail, resource=url
        )

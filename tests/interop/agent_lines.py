# mypy: ignore-errors
"""What the agents of the era matrix share: commands as JSON lines, and proofs of one key.

Run by the interpreter of either SDK, so it needs no more than what both bring. A command names
what to `do`, the server's `url` and the `token`; `key` is the private JWK the token is bound to.
One line is written for each, with `error` instead of a result where it failed.
"""

import base64
import hashlib
import json
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import jwt

Command = dict[str, Any]
Seen = dict[str, Any]


class Signer:
    """Adds the bound token and a fresh proof to a request (RFC 9449 §7.1)."""

    def __init__(self, key: dict[str, str], token: str) -> None:
        self._key, self._token = jwt.PyJWK(key), token
        self._public = {name: key[name] for name in ("kty", "crv", "x", "y")}

    def sign(self, request: Any) -> None:
        """Sign for this method and address."""
        digest = hashlib.sha256(self._token.encode()).digest()
        claims = {
            "jti": secrets.token_urlsafe(16),
            "htm": request.method,
            "htu": str(request.url).split("?", maxsplit=1)[0],
            "iat": int(time.time()),  # noqa: TID251 - the agent's own wall clock
            "ath": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        }
        header = {"typ": "dpop+jwt", "jwk": self._public}
        proof = jwt.encode(claims, self._key.key, algorithm="ES256", headers=header)
        request.headers["authorization"] = f"DPoP {self._token}"
        request.headers["dpop"] = proof


def serve(
    run: Callable[..., Seen], commands: dict[str, Callable[[Command], Awaitable[Seen]]]
) -> None:
    """Answer each line by `commands[do](command)`, an async function run by `run`."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = run(commands[command["do"]], command)
        except BaseException:  # noqa: BLE001 - whatever it is, the test wants to read it
            answer = {"error": traceback.format_exc()[-3000:]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

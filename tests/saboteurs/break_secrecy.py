"""Leaks a careless change could make, each in another spelling: the canary test must find them.

Nothing of the product is imported before it does so itself.
"""

import base64
import functools
import gzip
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final


def log_the_header_in_base64(module: Any) -> None:
    """The gateway's log gets the agent's token, as a dump of the request would have it."""
    verify = module.caller_of

    @functools.wraps(verify)
    def leaking(offered: Any, *rest: Any) -> Any:
        line = f"authorization: {offered.scheme} {offered.unverified_token}"
        dump = base64.b64encode(line.encode()).decode()
        sys.stderr.write(json.dumps({"event": "request", "dump": dump}) + "\n")
        sys.stderr.flush()
        return verify(offered, *rest)

    module.caller_of = leaking


def cache_the_credential_in_gzip(module: Any) -> None:
    """The gateway keeps the target's token in a file, compressed."""
    make = module.bearer_credential

    @functools.wraps(make)
    def leaking(token: str, *rest: Any) -> Any:
        directory = Path(os.environ["COUNTERSIGN_STATE_DIR"])
        (directory / "credentials.cache").write_bytes(gzip.compress(token.encode()))
        return make(token, *rest)

    module.bearer_credential = leaking


def answer_with_the_secret_in_escapes(module: Any) -> None:
    """A denial tells the agent the notes key of the call before it, percent-encoded."""
    make, deny = module.static_credential, module.bearer_credential
    del deny
    secret: list[str] = []

    @functools.wraps(make)
    def remembering(plaintext: bytes, *rest: Any) -> Any:
        value = json.loads(plaintext)["value"]
        secret.append("".join(f"%{byte:02x}" for byte in value.encode()))
        return make(plaintext, *rest)

    module.static_credential = remembering
    module.leaked = secret


def deny_with_what_was_remembered(module: Any) -> None:
    """The second half of `answer_with_the_secret_in_escapes`."""
    data = module.denial_data

    @functools.wraps(data)
    def leaking(*given: Any, **named: Any) -> Any:
        remembered = sys.modules["mcp_gateway.credential"].leaked[-1:]
        return data(*given, **named) | {"trace": remembered}

    module.denial_data = leaking


def audit_the_password_in_hex(module: Any) -> None:
    """The authority's audit gets what a person typed."""
    submit = module._authenticate
    audit = sys.modules["authz_server.audit_events"]  # which it has imported

    @functools.wraps(submit)
    async def leaking(parts: Any, form: Any) -> Any:
        typed = (form.one("password") or "").encode().hex()
        outcome, event = audit.Outcome.FAILED, audit.EventType.LOGIN_FAILED
        await audit.record(parts, event, outcome, detail=f"form {typed}")
        return await submit(parts, form)

    module._authenticate = leaking


Damage = Callable[[Any], None]

LEAKS: Final[Mapping[str, Mapping[str, Damage]]] = {
    "agent token, base64, in a log": {"mcp_gateway.caller": log_the_header_in_base64},
    "target token, gzip, in a file": {"mcp_gateway.credential": cache_the_credential_in_gzip},
    "notes key, percent-encoded, in an answer": {
        "mcp_gateway.credential": answer_with_the_secret_in_escapes,
        "mcp_gateway.errors": deny_with_what_was_remembered,
    },
    "password, hex, in the audit": {"authz_server.endpoints.login": audit_the_password_in_hex},
}

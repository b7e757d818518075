"""What of a request goes on to the gateway, and what of its answer comes back. Pure.

Request: one of our paths, by a plain method, for our Host, from no browser page. Whatever the agent
says of itself (`Authorization`, `DPoP`, cookies) is dropped; token and proof are ours. Answer: as
it is, without challenges, nonces, cookies and permissions for browser pages: an MCP client that saw
a challenge would begin a login of its own.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from countersign.agent_run.addresses import HOST, Endpoint

METHODS: Final = frozenset({"POST", "GET", "DELETE"})
HOP_BY_HOP: Final = frozenset(  # RFC 9110 §7.6.1
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_SENT_ON: Final = HOP_BY_HOP | frozenset(
    ("authorization", "content-length", "cookie", "dpop", "expect", "host")
)
NOT_SENT_BACK: Final = HOP_BY_HOP | frozenset(
    ("alt-svc", "date", "dpop-nonce", "location", "server", "set-cookie", "www-authenticate")
)
# -32000..-32019 are an implementation's own (MCP 2026-07-28, error codes).
RUN_REFUSED: Final = -32010
JSON: Final = "application/json"

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Turned:
    """An answer of our own. `message` says why in a sentence."""

    status: HTTPStatus
    message: str
    retryable: bool = False


def admitted(
    method: str,
    target: bytes,
    headers: Iterable[Header],
    endpoints: Mapping[str, Endpoint],
    port: int,
) -> Endpoint | Turned:
    """The endpoint a request is for. `target` is the undecoded path, with any query."""
    said = list(headers)
    hosts = [value for name, value in said if name == "host"]
    if len(hosts) != 1 or hosts[0] not in (f"{HOST}:{port}", f"localhost:{port}"):
        return Turned(HTTPStatus.FORBIDDEN, "The Host is not this run's address.")
    if any(name == "origin" for name, _ in said):  # a page's script, whoever's browser it is
        return Turned(HTTPStatus.FORBIDDEN, "Web pages are not served here.")
    endpoint = endpoints.get(target.decode("latin-1"))
    if endpoint is None:
        return Turned(HTTPStatus.NOT_FOUND, "Only the run's MCP endpoints are served here.")
    if method not in METHODS:
        return Turned(HTTPStatus.METHOD_NOT_ALLOWED, "MCP uses POST, GET and DELETE.")
    return endpoint


def sent_on(headers: Iterable[Header]) -> list[Header]:
    """The agent's headers that reach the gateway."""
    return _without(headers, NOT_SENT_ON)


def sent_back(headers: Iterable[Header]) -> list[Header]:
    """The gateway's headers that reach the agent."""
    kept = _without(headers, NOT_SENT_BACK)
    return [each for each in kept if not each[0].startswith("access-control-")]


def error_body(turned: Turned, request: bytes) -> bytes:
    """`turned` as a JSON-RPC error for the message in `request`, if it is one."""
    error = {
        "code": RUN_REFUSED,
        "message": turned.message,
        "data": {"retryable": turned.retryable},
    }
    return json.dumps({"jsonrpc": "2.0", "id": _id_of(request), "error": error}).encode()


def _id_of(request: bytes) -> str | int | None:
    try:
        message = json.loads(request)
    except (ValueError, RecursionError):
        return None
    found = message.get("id") if isinstance(message, dict) else None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def _without(headers: Iterable[Header], names: frozenset[str]) -> list[Header]:
    said = list(headers)
    named = {
        each.strip().lower()
        for name, value in said
        if name == "connection"
        for each in value.split(",")
    }
    return [each for each in said if each[0] not in names and each[0] not in named]

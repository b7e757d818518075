r"""The bytes of every request, made before a run and written to files that `load.lua` reads.

One request a line, its line breaks written as `\n`. All bodies of calls have one length, so that
any head goes with any body.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from bench import declared
from bench.signing import Key

ARGUMENT_VALUES: Final = 1000
PROTOCOL_VERSION: Final = "2026-07-28"
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


def call_arguments() -> list[dict[str, Any]]:
    """The thousand distinct arguments of the measured tool."""
    return [
        {"amount": value, "query": f"movements of account {value:05d}, newest first"}
        for value in range(1, ARGUMENT_VALUES + 1)
    ]


def call_bodies() -> list[str]:
    """One call for each of them, as JSON of one length (about 400 bytes with its `_meta`)."""
    bodies = [_call_body(arguments) for arguments in call_arguments()]
    longest = max(map(len, bodies))
    return [body + " " * (longest - len(body)) for body in bodies]  # JSON may end in spaces


def call_head(url: str, *, length: int, token: str, proof: str | None = None) -> str:
    """The head of a call with its empty line; with a proof the token is presented as bound."""
    scheme = "Bearer" if proof is None else "DPoP"
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": PROTOCOL_VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": declared.TOOL,
        "Authorization": f"{scheme} {token}",
    }
    return _head(url, headers | ({} if proof is None else {"DPoP": proof}), length)


def form_request(url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """A whole request that posts a form."""
    body = urlencode(form)
    content_type = {"Content-Type": "application/x-www-form-urlencoded"}
    return _head(url, content_type | dict(headers), len(body)) + body


def credentials_request(
    url: str, *, issuer: str, client_id: str, key: Key, resource: str | None, is_bound: bool
) -> str:
    """A client_credentials request with an assertion of its own and, if bound, a proof."""
    now = int(time.time())
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": key.assertion(client_id=client_id, audience=issuer, now=now),
    }
    form |= {"scope": "mcp:tools"} if resource is None else {"resource": resource}
    proof = {"DPoP": key.proof(method="POST", uri=url, now=now)} if is_bound else {}
    return form_request(url, form, proof)


def exchange_request(
    url: str, *, issuer: str, client_id: str, key: Key, subject_token: str, target: str, detail: str
) -> str:
    """A token exchange as a gateway sends it; `detail` is its authorization_details."""
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": client_id,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": key.assertion(
            client_id=client_id, audience=issuer, now=int(time.time())
        ),
        "subject_token": subject_token,
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": ACCESS_TOKEN,
        "resource": target,
        "authorization_details": detail,
    }
    return form_request(url, form, {})


def write_lines(path: Path, requests: Iterable[str]) -> Path:
    """The file for `load.lua`; nothing but CRLF may break a line."""
    path.write_text("".join(each.replace("\r\n", "\\n") + "\n" for each in requests))
    return path


def prepared(path: Path, count: int, make: Callable[[int], str]) -> Path:
    """A file of `count` requests that are used once."""
    return write_lines(path, (make(number) for number in range(count)))


def _call_body(arguments: Mapping[str, Any]) -> str:
    params = {"name": declared.TOOL, "arguments": arguments, "_meta": _META}
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return json.dumps(call, separators=(",", ":"))


def _head(url: str, headers: Mapping[str, str], length: int) -> str:
    parts = urlsplit(url)
    every = {"Host": parts.netloc, **headers, "Content-Length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"POST {parts.path} HTTP/1.1\r\n{lines}\r\n"

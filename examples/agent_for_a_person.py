r"""A whole agent that acts for a person: copy it, and make the call at the end your own.

It is attested at the server's socket, sends the person to their browser, redeems the answer for a
token bound to its own key, lists its tools and calls one. Needs httpx2, joserfc and mcp, and an
Agent declared for the user or unit that runs it: docs/guides/first-agent.md.

    python examples/agent_for_a_person.py --issuer http://127.0.0.1:8700 \
        --socket countersign-run/attest.sock --provider local --client-id helpdesk-bot \
        --endpoint http://127.0.0.1:8701/orders/mcp --tool get_order --arguments '{"id": 17}'
"""

import argparse
import asyncio
import base64
import hashlib
import json
import secrets
import socket
import sys
import time
import webbrowser
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ARGUMENTS = {
    "issuer": "the authorization server, exactly as it calls itself",
    "socket": "its attestation socket on this machine (attest.sock in its run_dir)",
    "provider": "the TrustProvider that attests here",
    "client-id": "the name of the Agent",
    "endpoint": "where the gateway offers the MCP server",
    "tool": "which of its tools to call",
}
LOGIN_SECONDS = 300  # for the person, to log in and to read
KEY = ECKey.generate_key("P-256")  # never leaves this process; the token is worth nothing without


def hashed(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def proof(method: str, url: str, token: str | None = None) -> str:
    """A DPoP proof: the holder of the key makes this very request, now (RFC 9449 §4.2)."""
    claims = {"htm": method, "htu": url.partition("?")[0], "iat": int(time.time())}
    claims |= {"jti": secrets.token_urlsafe(16)} | ({"ath": hashed(token)} if token else {})
    public = {name: KEY.as_dict(private=False)[name] for name in ("kty", "crv", "x", "y")}
    return jwt.encode({"typ": "dpop+jwt", "alg": "ES256", "jwk": public}, claims, KEY)


def bound(token: str, request: httpx2.Request) -> httpx2.Request:
    """All an MCP client needs: the token, and a fresh proof for every request."""
    request.headers["authorization"] = f"DPoP {token}"
    request.headers["dpop"] = proof(request.method, str(request.url), token)
    return request


def wanted(name: str, answer: dict[str, str]) -> str:
    """One value of an answer, or the end of the program with what the answer says instead."""
    if name not in answer:
        sys.exit(f"no {name}: {answer.get('error')}: {answer.get('error_description')}")
    return answer[name]


def attestation(given: argparse.Namespace) -> str:
    """What the kernel says of this process, for our key: good once, within a minute."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        if connection.connect_ex(given.socket):
            sys.exit(f"nobody answers at the socket {given.socket}")
        question = json.dumps({"provider": given.provider, "jkt": KEY.thumbprint()})
        connection.sendall(question.encode() + b"\n")
        answer = connection.makefile("rb").readline()
    return wanted("attestation", json.loads(answer or b"{}"))


def listen(ours: tuple[str, str], answer: dict[str, str]) -> HTTPServer:
    """A free loopback port for the person's browser to come back to (RFC 8252 §7.3)."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            query = dict(parse_qsl(urlsplit(self.path).query))
            if (query.get("state"), query.get("iss")) != ours:  # RFC 6749 §10.12, RFC 9207 §2.4
                self.send_error(400)  # any local program may ask here: it ends nothing
                return
            answer.update(query)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"You may close this window and return to the agent.")

        def log_message(self, *_: object) -> None:
            """Say nothing: the request line carries the code."""

    return HTTPServer(("127.0.0.1", 0), Handler)


def token_for_person(given: argparse.Namespace) -> str:
    """Authorization code with PKCE (RFC 7636), bound to our key from the start (RFC 9449 §10)."""
    found = httpx2.get(f"{given.issuer}/.well-known/oauth-authorization-server").raise_for_status()
    server, answer = found.json(), dict[str, str]()
    if server["issuer"] != given.issuer:
        sys.exit(f"the server calls itself {server['issuer']}: give that as --issuer")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    asked = {"client_id": given.client_id, "resource": given.endpoint}
    query = {"response_type": "code", "scope": "mcp:tools", "state": state}
    query |= {"code_challenge": hashed(verifier), "code_challenge_method": "S256"}
    with listen((state, given.issuer), answer) as listener:
        asked["redirect_uri"] = f"http://127.0.0.1:{listener.server_port}/callback"
        query |= asked | {"dpop_jkt": KEY.thumbprint()}
        url = f"{server['authorization_endpoint']}?{urlencode(query)}"
        within = f"within {LOGIN_SECONDS // 60} minutes"
        print(f"Log in and allow it, {within}, in a browser on this machine:\n{url}", flush=True)
        webbrowser.open(url)
        listener.timeout, end = 1, time.monotonic() + LOGIN_SECONDS
        while not answer and time.monotonic() < end:
            listener.handle_request()
    nobody = {"error": "timeout", "error_description": f"nobody came back {within}"}
    code = wanted("code", answer or nobody)
    form = asked | {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    form |= {"client_assertion_type": ASSERTION, "client_assertion": attestation(given)}
    url, headers = server["token_endpoint"], {"dpop": proof("POST", server["token_endpoint"])}
    return wanted("access_token", httpx2.post(url, data=form, headers=headers).json())


async def use_tools(given: argparse.Namespace, token: str) -> None:
    """List what the person allowed, and call one of it."""
    http = httpx2.AsyncClient(auth=partial(bound, token), timeout=30)
    async with Client(streamable_http_client(given.endpoint, http_client=http)) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        result = await client.call_tool(given.tool, given.arguments)
    text = "\n".join(part.text for part in result.content if part.type == "text")
    sys.exit(f"{given.tool}: {text}") if result.is_error else print(text)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(formatter_class=plain, epilog=__doc__)
    for name, meaning in ARGUMENTS.items():
        parser.add_argument(f"--{name}", required=True, help=meaning)
    parser.add_argument(
        "--arguments", type=json.loads, default={}, help='of the tool, as JSON, e.g. {"id": 17}'
    )
    given = parser.parse_args()
    try:
        attestation(given)  # before a person is troubled: are socket and provider right?
        asyncio.run(use_tools(given, token_for_person(given)))
    except (OSError, ValueError, httpx2.HTTPError, MCPError, ExceptionGroup) as failed:
        error: BaseException = failed
        while isinstance(error, BaseExceptionGroup):  # of the client's tasks: the one that matters
            error = error.exceptions[0]
        at = f" at {error.request.url}" if isinstance(error, httpx2.HTTPError) else ""
        sys.exit(f"failed{at}: {str(error) or type(error).__name__}")


if __name__ == "__main__":
    main()

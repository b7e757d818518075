"""`login`, `setup`, `whoami`: the operator's way in, by the same door as everybody.

Authorization code with PKCE for the built-in public client `countersign-cli`, a loopback redirect
(RFC 8252 §7.3) and a token bound to the operator's own key (RFC 9449).
"""

import secrets
import time
import webbrowser
from base64 import urlsafe_b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import typer

from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext, context_of, read_secret
from countersign.login_file import ProofKey, SavedLogin
from countersign.os_error_words import words_of
from countersign.token_request import request_token

CLIENT_ID = "countersign-cli"
MAXIMUM_REQUESTS = 100  # at the loopback listener, most of them of somebody else
PAGE = (
    b"<!doctype html><meta charset=utf-8><title>Countersign</title>"
    b"<p style='font:1.2rem system-ui'>You may close this window and return to the terminal."
)


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(login)
    app.command()(setup)
    app.command()(whoami)


def login(
    command: typer.Context,
    *,
    browser: Annotated[bool, typer.Option(help="Open a browser; else print the URL.")] = True,
    wait: Annotated[float, typer.Option(help="Give up after this many seconds.")] = 300,
) -> None:
    """Log in through the authorization server's pages."""
    context = context_of(command)
    issuer = context.settings.issuer
    key = context.logins.key()
    with httpx2.Client(timeout=context.settings.timeout_seconds, trust_env=False) as http:
        metadata = _metadata(http, issuer)
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        with _Callback(wait, state) as callback:
            url = _authorization_url(metadata, callback.redirect_uri, key, verifier, state)
            if not (browser and webbrowser.open(url)):
                context.console.print(url, soft_wrap=True, highlight=False, markup=False)
            answer = callback.wait()
        code = _code_of(answer, state, issuer)
        token = _redeem(
            http,
            metadata,
            key,
            code=code,
            verifier=verifier,
            redirect_uri=callback.redirect_uri,
        )
    context.logins.save(
        SavedLogin(issuer, token["access_token"], _now(context) + int(token["expires_in"]))
    )
    context.say(f"Logged in at {issuer} for {token['expires_in']} seconds.")


def setup(
    command: typer.Context,
    *,
    code_file: Annotated[Path | None, typer.Option(help="Read the setup code from here.")] = None,
) -> None:
    """Make the logged-in person the first admin, with the code in `setup-code`."""
    context = context_of(command)
    code = read_secret("Setup code", code_file)
    with context.admin() as admin:
        role = admin.call("POST", "/setup", json={"code": code})
    context.say(f"You are {role['role']}.")


def whoami(command: typer.Context) -> None:
    """Who the admin API says you are."""
    context = context_of(command)
    with context.admin() as admin:
        context.show(admin.call("GET", "/whoami"))


def _now(context: CommandContext) -> int:
    return int(context.logins.key().clock())


def _metadata(http: httpx2.Client, issuer: str) -> dict[str, Any]:
    url = f"{issuer}/.well-known/openid-configuration"
    try:
        metadata: dict[str, Any] = http.get(url).raise_for_status().json()
    except (httpx2.HTTPError, ValueError) as error:
        raise AdminError("unreachable", f"{url}: {words_of(error)}") from error
    if metadata.get("issuer") != issuer:
        raise AdminError("issuer_mismatch", f"{url} names the issuer {metadata.get('issuer')!r}")
    return metadata


def _authorization_url(
    metadata: dict[str, Any], redirect_uri: str, key: ProofKey, verifier: str, state: str
) -> str:
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": redirect_uri,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": f"{metadata['issuer']}/admin",
        "state": state,
        "dpop_jkt": key.thumbprint,
    }
    return f"{metadata['authorization_endpoint']}?{urlencode(query)}"


def _code_of(answer: dict[str, str], state: str, issuer: str) -> str:
    """The code, after the mix-up checks (RFC 9207 §2.4)."""
    if not secrets.compare_digest(answer.get("state", ""), state) or answer.get("iss") != issuer:
        raise AdminError("mix_up", "the answer of the browser is not for this login")
    if "error" in answer:
        raise AdminError(answer["error"], answer.get("error_description", "login was refused"))
    return answer["code"]


def _redeem(
    http: httpx2.Client,
    metadata: dict[str, Any],
    key: ProofKey,
    *,
    code: str,
    verifier: str,
    redirect_uri: str,
) -> dict[str, Any]:
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "code": code,
        "code_verifier": verifier,
        "redirect_uri": redirect_uri,
        "resource": f"{metadata['issuer']}/admin",
    }
    return request_token(http, metadata["token_endpoint"], form, key)


class _Callback:
    """A loopback listener on a free port that takes the redirect of this login, and no other."""

    def __init__(self, wait_seconds: float, state: str) -> None:
        self._answer: dict[str, str] = {}
        self._wait_seconds = wait_seconds
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the base class names it
                parts = urlsplit(self.path)
                if parts.path != "/callback":
                    self.send_error(404)
                    return
                answer = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if not secrets.compare_digest(answer.get("state", "").encode(), state.encode()):
                    self.send_error(400)  # any local program may ask: it ends nothing
                    return
                outer._answer = answer
                self.send_response(200)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("referrer-policy", "no-referrer")
                self.end_headers()
                self.wfile.write(PAGE)

            def log_message(self, *_: object) -> None:
                """Say nothing: the request line carries the code."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.timeout = wait_seconds
        self._handler = Handler
        Handler.timeout = 5

    @property
    def redirect_uri(self) -> str:
        """Where the browser will come back to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/callback"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def wait(self) -> dict[str, str]:
        """The parameters of the redirect."""
        deadline = time.monotonic() + self._wait_seconds
        for _ in range(MAXIMUM_REQUESTS):
            self._server.timeout = max(0.0, deadline - time.monotonic())
            self._server.handle_request()
            if self._answer or time.monotonic() >= deadline:
                break
        if not self._answer:
            raise AdminError("timeout", "nobody came back from the browser")
        return self._answer

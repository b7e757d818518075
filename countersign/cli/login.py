"""`login`, `setup`, `whoami`: the operator's way in, by the same door as everybody.

Authorization code with PKCE for the built-in public client `countersign-cli`, a loopback redirect
(RFC 8252 §7.3) and a token bound to the operator's own key (RFC 9449).
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from countersign.admin_client import AdminError
from countersign.cli.context import CommandContext, clock, context_of, read_secret
from countersign.code_request import LoginError, new_code_request
from countersign.login_file import SavedLogin
from countersign.login_listener import login_listener
from countersign.open_browser import open_browser
from countersign.token_request import asked_json, request_token
from countersign.trusted_authorities import tls_context

CLIENT_ID = "countersign-cli"
DONE = "You may close this window and return to the terminal."


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(login)
    app.command()(setup)
    app.command()(whoami)


def login(
    command: typer.Context,
    *,
    browser: Annotated[bool, typer.Option(help="Open a browser; else print the URL.")] = True,
    wait: Annotated[float, typer.Option(min=1, max=3600, help="Seconds to log in.")] = 300,
) -> None:
    """Log in through the authorization server's pages.

    Prints a link for a browser on this machine, and opens one if there is one.
    """
    context = context_of(command)
    try:
        asyncio.run(_log_in(context, opens_browser=browser, wait_seconds=wait))
    except LoginError as error:
        raise AdminError(error.code, error.description) from error


async def _log_in(context: CommandContext, *, opens_browser: bool, wait_seconds: float) -> None:
    issuer, key = context.settings.issuer, context.logins.key()
    tls = tls_context(context.settings.ca_file, issuer)
    with httpx2.Client(
        timeout=context.settings.timeout_seconds, verify=tls, trust_env=False
    ) as http:
        metadata = await asyncio.to_thread(_metadata, http, issuer)
        async with login_listener() as browser:
            request = new_code_request(
                metadata,
                client_id=CLIENT_ID,
                resource=f"{issuer}/admin",
                redirect_uri=browser.redirect_uri,
                thumbprint=key.thumbprint,
            )
            browser.send_to(request)
            context.console.print(browser.printed, soft_wrap=True, highlight=False, markup=False)
            if opens_browser:
                await asyncio.to_thread(open_browser, browser.opened)
            form = request.form(await browser.came_back(wait_seconds)) | {"client_id": CLIENT_ID}
            url = str(metadata.get("token_endpoint"))
            token = await asyncio.to_thread(request_token, http, url, form, key)
            ends_at = int(clock()) + int(token["expires_in"])
            context.logins.save(SavedLogin(issuer, token["access_token"], ends_at))
            browser.show(DONE)
    context.say(f"Logged in at {issuer} for {token['expires_in']} seconds.")


def setup(
    command: typer.Context,
    *,
    code_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Read the setup code from here."),
    ] = None,
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


def _metadata(http: httpx2.Client, issuer: str) -> dict[str, Any]:
    url = f"{issuer}/.well-known/openid-configuration"
    status, metadata = asked_json(http, "GET", url)
    if status != httpx2.codes.OK:
        raise AdminError("unreachable", f"{url}: status {status}")
    if metadata.get("issuer") != issuer:
        raise AdminError("issuer_mismatch", f"{url} names the issuer {metadata.get('issuer')!r}")
    return metadata

# mypy: ignore-errors
"""A client on an official Python SDK that knows one address: the MCP endpoint.

python oauth_python.py (modern | legacy) ENDPOINT CLIENT_METADATA_URL REDIRECT_URI

Run by an interpreter that has the SDK of today or the last one of the legacy era. Commands are
JSON lines, each answered by one: {do: "list" | "call" | "tokens" | "expire"}. Where a person is
needed it writes {authorize: URL} and reads {redirect: URL} before it goes on.
"""

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

ERA, ENDPOINT, CLIENT_METADATA_URL, REDIRECT_URI = sys.argv[1:]

try:
    import httpx2 as httpx
    from mcp.client import Client
    from mcp.shared.auth import AuthorizationCodeResult
except ImportError:  # the SDK of the legacy era
    Client = None
    import httpx
    from mcp import ClientSession


class Storage:
    """In memory: what a client keeps between requests."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.information: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.information

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.information = client_info


def say(answer: dict[str, Any]) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def next_line() -> dict[str, Any] | None:
    """The test's next word; None at the end."""
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else None


async def show(url: str) -> None:
    """Send the person there."""
    say({"authorize": url})


async def answered() -> Any:
    """What came back to the redirect URI."""
    redirect = (await next_line())["redirect"]
    answer = {name: values[0] for name, values in parse_qs(urlsplit(redirect).query).items()}
    if Client is None:
        return answer["code"], answer.get("state")
    return AuthorizationCodeResult(
        code=answer["code"], state=answer.get("state"), iss=answer.get("iss")
    )


def new_provider(storage: Storage) -> OAuthClientProvider:
    """The SDK's own authorization, with nothing but the endpoint to begin with."""
    return OAuthClientProvider(
        server_url=ENDPOINT,
        client_metadata=OAuthClientMetadata(
            client_name="Python",
            redirect_uris=[REDIRECT_URI],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method="none",
        ),
        storage=storage,
        redirect_handler=show,
        callback_handler=answered,
        client_metadata_url=CLIENT_METADATA_URL,
    )


@contextlib.asynccontextmanager
async def connected(provider: OAuthClientProvider) -> AsyncIterator[Any]:
    """The SDK's client of the era."""
    async with (
        httpx.AsyncClient(auth=provider, timeout=60, trust_env=False) as http,
        contextlib.AsyncExitStack() as stack,
    ):
        transport = streamable_http_client(ENDPOINT, http_client=http)
        if Client is not None:
            mode = "2026-07-28" if ERA == "modern" else "legacy"
            yield await stack.enter_async_context(Client(transport, mode=mode))
            return
        reading, writing, _ = await stack.enter_async_context(transport)
        session = await stack.enter_async_context(ClientSession(reading, writing))
        begun = await session.initialize()
        session.protocol_version = begun.protocolVersion  # as the SDK of today says it
        yield session


async def run(command: dict[str, Any], client: Any, provider: OAuthClientProvider) -> Any:
    """Do one thing."""
    context = provider.context
    if command["do"] == "list":
        tools = sorted(tool.name for tool in (await client.list_tools()).tools)
        return {"tools": tools, "version": client.protocol_version}
    if command["do"] == "call":
        result = await client.call_tool(command["tool"], command["args"])
        shown = json.loads(result.model_dump_json(by_alias=True))
        return {"is_error": shown["isError"], "structured": shown["structuredContent"]}
    if command["do"] == "expire":
        context.current_tokens.access_token = command["access_token"]
        if command["by_the_clock"]:
            context.token_expiry_time = 1.0
        return {}
    return {"tokens": context.current_tokens.model_dump(mode="json")}


async def main() -> None:
    """Answer until the input ends; the connection begins with the first command."""
    provider = new_provider(Storage())
    first = await next_line()
    try:
        async with connected(provider) as client:
            command = first
            while command is not None:
                try:
                    say(await run(command, client, provider))
                except Exception:  # noqa: BLE001 - the test wants to read it
                    say({"error": traceback.format_exc()[-4000:]})
                command = await next_line()
    except BaseException:  # noqa: BLE001 - the test wants to read it
        say({"error": traceback.format_exc()[-4000:]})


asyncio.run(main())

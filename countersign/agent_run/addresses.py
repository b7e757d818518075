"""Which endpoints a run is for, and where its command finds them. Pure.

A resource is a gateway's endpoint, `{base_url}/{server}/mcp`: its URL and the audience of its
tokens, byte for byte. On loopback it is `http://127.0.0.1:PORT/{server}/mcp`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from countersign.agent_run.errors import UsageError
from countersign.public_url import is_loopback_literal

HOST: Final = "127.0.0.1"
VARIABLE: Final = "COUNTERSIGN_MCP_URL"
MAXIMUM_ENDPOINTS: Final = 64
_SERVER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One MCP server behind a gateway. `resource` is its URL there."""

    server: str
    resource: str

    @property
    def path(self) -> str:
        """Its path on loopback."""
        return f"/{self.server}/mcp"


def endpoints_of(
    gateway: str, servers: Sequence[str], resources: Sequence[str]
) -> tuple[Endpoint, ...]:
    """The endpoints that were asked for, in order.

    Raises:
        UsageError: None at all, one of another form, or two with one name.
    """
    urls = [f"{gateway.removesuffix('/')}/{server}/mcp" for server in servers]
    found = tuple(_endpoint(url) for url in (*urls, *resources))
    if not found or len(found) > MAXIMUM_ENDPOINTS:
        raise UsageError("name what the agent needs with --server or --resource")
    variables = [variable_of(endpoint.server) for endpoint in found]
    for variable in variables:
        if variables.count(variable) > 1:
            raise UsageError(f"two servers would both be called {variable}")
    return found


def variable_of(server: str) -> str:
    """The environment variable of one server: `COUNTERSIGN_MCP_URL_CRM`."""
    return f"{VARIABLE}_{re.sub('[^A-Z0-9]', '_', server.upper())}"


def environment_of(
    inherited: Mapping[str, str], endpoints: Iterable[Endpoint], port: int
) -> dict[str, str]:
    """What the command gets: what we have, without addresses of an outer run, plus ours."""
    urls = {
        variable_of(endpoint.server): f"http://{HOST}:{port}{endpoint.path}"
        for endpoint in endpoints
    }
    first = next(iter(urls.values()))
    kept = {
        name: value
        for name, value in inherited.items()
        if name != VARIABLE and not name.startswith(f"{VARIABLE}_")
    }
    return kept | {VARIABLE: first} | urls


def _endpoint(resource: str) -> Endpoint:
    parts = urlsplit(resource)
    path = parts.path.split("/")
    server = path[-2] if len(path) > 2 and path[-1] == "mcp" else ""  # noqa: PLR2004 - /x/mcp
    is_plain = not (parts.query or parts.fragment or parts.username)
    if not (is_plain and parts.hostname and _SERVER.fullmatch(server)):
        message = f"{resource} is no endpoint of a gateway: https://HOST/SERVER/mcp"
        raise UsageError(message)
    if parts.scheme != "https" and not (
        parts.scheme == "http" and is_loopback_literal(parts.hostname)
    ):
        message = f"{resource}: plain http is for a loopback literal only"
        raise UsageError(message)
    return Endpoint(server, resource)

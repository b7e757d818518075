"""How much access an authorization request asks for, cut to what its agent can have at most.

Pure. A client gets at an endpoint only as the Agent it is: the audience must be an endpoint, the
server one that Agent.tools names, and what remains is exact tool names, because a person agrees to
the tools they were shown and not to those a server may grow later. Everything malformed is None.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from authz_server.clients.metadata_document import host_of
from authz_server.clients.self_declared import level_of
from authz_server.store.interactions import AuthorizationRequest
from idp_connectors.evidence import Person
from registry.clients import WORKLOAD_ASSERTION
from registry.snapshot import AgentRecord, ClientRecord, RegistrySnapshot, ServerEntry
from registry.unattested import UNATTESTED_AGENT
from token_exchange.authorization_details import (
    MAXIMUM_DETAIL_TOOLS,
    MAXIMUM_TOOL_CHARACTERS,
    parse_authorization_details,
)
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.narrowing import format_scope, is_pattern, parse_scope
from token_exchange.token_types import DETAIL_TOOL, SCOPE_TOOLS

SCOPE_OPENID: Final = "openid"
SCOPE_OFFLINE: Final = "offline_access"  # OpenID Connect Core §11: a refresh token
ENDPOINT_SCOPES: Final = frozenset({SCOPE_OPENID, SCOPE_TOOLS, SCOPE_OFFLINE})
OPTIONAL_SCOPES: Final = frozenset({SCOPE_OPENID, SCOPE_OFFLINE})
ADMIN_SCOPES: Final = frozenset({SCOPE_OPENID})  # what a person may do is their role, not a scope


@dataclass(frozen=True, slots=True)
class ServerAtEndpoint:
    """A server an agent may ask for, at the endpoint it named.

    `unattested` is the client that asks as this agent without proving a workload.
    """

    server: ServerEntry
    agent: AgentRecord
    unattested: ClientRecord | None = None


@dataclass(frozen=True, slots=True)
class Grantable:
    """What a logged-in person may grant now. `endpoint` is None for their own command line."""

    endpoint: ServerAtEndpoint | None
    tools: tuple[str, ...]


def reachable_endpoint(
    snapshot: RegistrySnapshot, client: ClientRecord, agent: AgentRecord, resource: str
) -> ServerAtEndpoint | None:
    """The server behind `resource`, if this client, being this agent, may ask for it.

    A client that will prove its workload, or one whose own word is enough for the agent. What
    nobody vouches for at all never gets at a server that requires bound tokens.
    """
    _, name = snapshot.endpoint_audiences().get(resource, ("", ""))
    server = snapshot.servers.get(name)
    if server is None or not _patterns_at(agent.entry.tools, name):
        return None
    if WORKLOAD_ASSERTION in client.authentication:
        return ServerAtEndpoint(server, agent)
    is_enough = level_of(client) >= agent.entry.minimum_level
    if not is_enough or (server.require_bound and agent.entry.name == UNATTESTED_AGENT):
        return None
    return ServerAtEndpoint(server, agent, client)


def requires_bound_tokens(
    snapshot: RegistrySnapshot, client: ClientRecord | None, resource: str
) -> bool:
    """Whether this is a server whose tokens are bound to a key, and a client that gets none."""
    _, name = snapshot.endpoint_audiences().get(resource, ("", ""))
    server = snapshot.servers.get(name)
    is_unattested = client is not None and client.agent == UNATTESTED_AGENT
    return is_unattested and server is not None and server.require_bound


def requested_endpoint(
    snapshot: RegistrySnapshot, request: AuthorizationRequest
) -> ServerAtEndpoint | None:
    """As `reachable_endpoint`, now, for a request that was accepted some minutes ago."""
    client = requesting_client(snapshot, request)
    agent = snapshot.agents.get(request.agent or "")
    if client is None or agent is None or client.agent != request.agent:
        return None
    return reachable_endpoint(snapshot, client, agent, request.resource)


def requesting_client(
    snapshot: RegistrySnapshot, request: AuthorizationRequest
) -> ClientRecord | None:
    """The client of a request: declared now, or as it described itself when it asked."""
    return request.document or snapshot.clients.get(request.client_id)


def name_of_client(snapshot: RegistrySnapshot, request: AuthorizationRequest) -> str:
    """What our pages call a client: one that describes itself by its host, never by its word."""
    if request.document is not None:
        return host_of(request.client_id)
    client = snapshot.clients.get(request.client_id)
    return request.client_id if client is None else client.display_name


def requested_scope(text: str | None, allowed: frozenset[str]) -> str | None:
    """The scope to grant: what was asked for, or the default where nothing was.

    None when something else is asked for too, or a gateway token would be without its scope.
    """
    default = allowed - OPTIONAL_SCOPES
    scopes = default if text is None else parse_scope(text)
    if isinstance(scopes, Refusal) or not default <= scopes <= allowed:
        return None
    return format_scope(scopes)


def requested_details(encoded: str, server: str) -> tuple[AuthorizationDetail, ...] | None:
    """The RFC 9396 details of a request, if all are tools of this one server and not too many."""
    details = parse_authorization_details(encoded)
    if isinstance(details, Refusal):
        return None
    if any(detail.type != DETAIL_TOOL or detail.server != server for detail in details):
        return None
    return details


def exact_tools(
    endpoint: ServerAtEndpoint, details: tuple[AuthorizationDetail, ...] | None
) -> tuple[str, ...]:
    """The approved tools inside Agent.tools and, if given, the requested details; sorted.

    None at all when there are more than one token can carry: the request must name fewer.
    """
    available = available_tools(endpoint)
    if details is not None:
        available &= _matching(
            available, tuple(pattern for detail in details for pattern in detail.tools)
        )
    tools = tuple(sorted(available))
    fits = len(tools) <= MAXIMUM_DETAIL_TOOLS and sum(map(len, tools)) <= MAXIMUM_TOOL_CHARACTERS
    return tools if fits else ()


def available_tools(endpoint: ServerAtEndpoint) -> frozenset[str]:
    """The approved tools of the server that the agent may use at most."""
    return _matching(
        (tool.name for tool in endpoint.server.tools),
        _patterns_at(endpoint.agent.entry.tools, endpoint.server.name),
    )


def shown_tools(endpoint: ServerAtEndpoint, tools: tuple[str, ...]) -> dict[str, str]:
    """By tool, a digest of everything a person relies on when they agree to it.

    The agent's owner, how it proves itself and whose tokens it may bring, where the server is, the
    tool's definition and what the operator says of it. A consent holds for exactly that.
    """
    agent, server, named = endpoint.agent, endpoint.server, frozenset(tools)
    around = [
        agent.owner,
        agent.entry.environment,
        agent.entry.minimum_level,
        agent.providers,
        sorted(agent.match.items()),
        server.url,
    ]
    if endpoint.unattested is not None:  # another program is another thing to agree to
        client = endpoint.unattested
        around += [client.client_id, client.display_name, level_of(client), client.authentication]
    if agent.subject_tokens:  # the page says from where the agent may bring the person's tokens
        around += [agent.subject_tokens, agent.by_mandate]
    return {
        tool.name: sha256(
            msgspec.json.encode([*around, tool.digest, tool.read_only, tool.sensitivity])
        ).hexdigest()
        for tool in server.tools
        if tool.name in named
    }


def acts_for(agent: AgentRecord, person: Person) -> bool:
    """Whether the agent may act for this person at all."""
    return bool(set(person.groups) & set(agent.acts_for_groups))


def _matching(names: Iterable[str], patterns: tuple[str, ...]) -> frozenset[str]:
    """Those names that a pattern stands for, as `narrowing.pattern_matches` says, all at once.

    One look-up and one `startswith` a name, because this runs for strangers.
    """
    literals = frozenset(pattern for pattern in patterns if "*" not in pattern)
    prefixes = tuple(
        pattern[:-1] for pattern in patterns if is_pattern(pattern) and pattern.endswith("*")
    )
    return frozenset(
        name
        for name in names
        if name and "*" not in name and (name in literals or name.startswith(prefixes))
    )


def _patterns_at(tools: tuple[str, ...], server: str) -> tuple[str, ...]:
    """The tool patterns of one server in a list of `server/pattern`."""
    prefix = f"{server}/"
    return tuple(tool.removeprefix(prefix) for tool in tools if tool.startswith(prefix))

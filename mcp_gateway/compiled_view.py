"""An `EnforcementView` compiled for look-up: what one process decides on. Pure and immutable.

Everything a call needs is found by one table look-up: the endpoint by path, the approved tool by
name, the agent by name, the token key by `kid`. A new snapshot makes a new `CompiledView`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mcp_gateway.routing_headers import ParameterHeader, parameter_headers
from policies.compile import compile_policy_set
from policies.decide import CompiledPolicySet
from policies.entities import ToolFacts
from policies.problems import CompileProblems
from policies.schema import ServerCatalogue
from registry.snapshot import (
    AgentEntry,
    EnforcementView,
    ServerEntry,
    ToolEntry,
    endpoint_of,
)
from token_exchange.keys import VerificationKeys

WELL_KNOWN_RESOURCE: Final = "/.well-known/oauth-protected-resource"  # RFC 9728 §3
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """One approved tool: its definition, what policy knows of it, its mirrored arguments."""

    entry: ToolEntry
    facts: ToolFacts
    parameters: tuple[ParameterHeader, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server at this Gateway. `audience` is its URL, byte for byte, and its only `aud`."""

    server: ServerEntry
    audience: str
    path: str
    metadata_path: str
    metadata_url: str
    tools: Mapping[str, CatalogueTool]


@dataclass(frozen=True, slots=True)
class CompiledView:
    """One snapshot, ready. `generation` differs between any two views of one process.

    `policies` is None when the set did not compile here: then every call is denied.
    """

    generation: int
    view: EnforcementView
    keys: VerificationKeys
    endpoints: Mapping[str, Endpoint]
    metadata: Mapping[str, Endpoint]
    agents: Mapping[str, AgentEntry]
    groups_of_agent: Mapping[str, tuple[str, ...]]
    policies: CompiledPolicySet | None
    hosts: frozenset[str]
    origin: str
    allowed_origins: frozenset[str]


def compile_view(view: EnforcementView, generation: int) -> CompiledView:
    """Compile a verified snapshot.

    Raises:
        ValueError: a token key is unusable; the snapshot must not be used at all.
    """
    policies = _policies_of(view)
    endpoints = [_endpoint(view.gateway.base_url, server) for server in view.servers]
    base = urlsplit(view.gateway.base_url)
    origin = f"{base.scheme}://{base.netloc}"
    return CompiledView(
        generation=generation,
        view=view,
        keys=VerificationKeys.of(view.token_keys),
        endpoints={endpoint.path: endpoint for endpoint in endpoints},
        metadata={endpoint.metadata_path: endpoint for endpoint in endpoints},
        agents={agent.name: agent for agent in view.agents},
        groups_of_agent={agent.name: agent.groups for agent in view.agents},
        policies=None if isinstance(policies, CompileProblems) else policies,
        hosts=_spellings_of_host(base.scheme, base.netloc.lower()),
        origin=origin,
        allowed_origins=frozenset((origin, *view.gateway.allowed_origins)),
    )


def _policies_of(view: EnforcementView) -> CompiledPolicySet | CompileProblems:
    catalogues = [
        ServerCatalogue(
            name=server.name,
            person_attributes=server.person_attributes,
            tools=tuple(
                (
                    tool.name,
                    tool.definition.get("inputSchema", {}),
                    tool.read_only,
                    tool.sensitivity,
                )
                for tool in server.tools
            ),
            credential_provider=server.credential.name,
        )
        for server in view.servers
    ]
    return compile_policy_set(
        view.policies.version, view.policies.documents, catalogues, partial_catalogue=True
    )


def _endpoint(base_url: str, server: ServerEntry) -> Endpoint:
    audience = endpoint_of(base_url, server.name)
    url = urlsplit(audience)
    # RFC 9728 §3.1: the well-known part goes between the host and the path of the resource.
    metadata_path = f"{WELL_KNOWN_RESOURCE}{url.path}"
    tools: dict[str, CatalogueTool] = {}
    for entry in sorted(server.tools, key=lambda tool: tool.name):
        schema = entry.definition.get("inputSchema")
        parameters = parameter_headers(schema)
        # A tool whose x-mcp-header annotations are invalid is neither offered nor called.
        if parameters is not None:
            facts = ToolFacts(server.name, entry.name, entry.read_only, entry.sensitivity)
            tools[entry.name] = CatalogueTool(entry, facts, parameters)
    return Endpoint(
        server=server,
        audience=audience,
        path=url.path,
        metadata_path=metadata_path,
        metadata_url=f"{url.scheme}://{url.netloc}{metadata_path}",
        tools=tools,
    )


def _spellings_of_host(scheme: str, authority: str) -> frozenset[str]:
    """The authority with and without the scheme's default port (RFC 9110 §4.2.3)."""
    suffix = _DEFAULT_PORTS.get(scheme, "")
    without = authority.removesuffix(suffix)
    has_port = without.rpartition(":")[2].isdigit() and not without.endswith("]")
    return frozenset((authority,) if has_port else (without, without + suffix))

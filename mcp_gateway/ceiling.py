"""Step 4: what token, agent and catalogue allow at most, before any policy is asked. Pure.

scope ∩ consented details ∩ `Agent.tools` ∩ approved catalogue. More scope is asked for only where
consent could give it: a person is there to consent, and the agent may have the tool at all.
"""

from dataclasses import dataclass
from typing import Final

from audit_log.event import PrincipalKind
from mcp_gateway.caller import Caller
from mcp_gateway.compiled_view import CatalogueTool, Endpoint
from token_exchange.claims import Refusal
from token_exchange.narrowing import parse_scope, pattern_matches, tools_permitted
from token_exchange.token_types import SCOPE_TOOLS

REQUIRED_SCOPE: Final = SCOPE_TOOLS


@dataclass(frozen=True, slots=True)
class MoreScopeNeeded:
    """403 `insufficient_scope`: consent to more would help. `detail` is for the audit."""

    detail: str


@dataclass(frozen=True, slots=True)
class BeyondCeiling:
    """No consent would help. `detail` is for the audit: the agent learns only that it may not."""

    detail: str


def ceiling(
    caller: Caller, endpoint: Endpoint, tool: str
) -> CatalogueTool | MoreScopeNeeded | BeyondCeiling:
    """The tool, if a call of it is inside the ceiling."""
    if not has_scope(caller):
        return MoreScopeNeeded(f"the token lacks the scope {REQUIRED_SCOPE}")
    known = endpoint.tools.get(tool)
    if known is None:
        return BeyondCeiling("the tool is not in the approved catalogue")
    if not _may_ever_use(caller, endpoint, tool):
        return BeyondCeiling("the tool is not in Agent.tools")
    if tools_permitted(caller.claims.authorization_details, endpoint.server.name, tool):
        return known
    if caller.kind is PrincipalKind.AGENT_FOR_PERSON:
        return MoreScopeNeeded("the person has not consented to the tool")
    return BeyondCeiling("the token's details do not name the tool")


def tools_within_ceiling(caller: Caller, endpoint: Endpoint) -> tuple[CatalogueTool, ...]:
    """What a list may show at most, in the order of names: the same ceiling as a call's."""
    if not has_scope(caller):
        return ()
    return tuple(
        tool
        for name, tool in endpoint.tools.items()
        if _may_ever_use(caller, endpoint, name)
        and tools_permitted(caller.claims.authorization_details, endpoint.server.name, name)
    )


def has_scope(caller: Caller) -> bool:
    """Whether the token holds the scope of tool calls at all."""
    scopes = parse_scope(caller.claims.scope)
    return not isinstance(scopes, Refusal) and REQUIRED_SCOPE in scopes


def _may_ever_use(caller: Caller, endpoint: Endpoint, tool: str) -> bool:
    qualified = f"{endpoint.server.name}/{tool}"
    return any(pattern_matches(pattern, qualified) for pattern in caller.agent.tools)

"""From an attested agent's request and a person's token to what the blended token may say. Pure.

The agent is authenticated and its evidence verified before; the person's token is verified in
between, because that needs keys. Here is what the request may ask for and what is left of it.

`asked_access`, before anything is fetched (RFC 8693 §2.1):

1. exactly one resource, an endpoint whose server the agent may use
2. the token asked for is an access token
3. the scope is `mcp:tools`, or none: no ID token and no refresh token come of a person's token
4. the details, if any, are tools of that server; what is left of them within the agent's own

`granted_access`, when it is known who the person is:

5. the consent that leaves most of it, the latest of equals; a mandate leaves all of it
6. the end: nothing outlives the person's token or the consent

INVARIANT: the result is within the request, the agent's tools, the approved catalogue and the
consent, each as of now; it can only shrink. Left out: who the person is, and blocks and epochs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from token_exchange.authorization_details import (
    ACTION_CALL,
    MAXIMUM_DETAIL_TOOLS,
    MAXIMUM_TOOL_CHARACTERS,
    parse_authorization_details,
)
from token_exchange.claims import AuthorizationDetail, Refusal
from token_exchange.narrowing import parse_scope
from token_exchange.token_types import DETAIL_TOOL, SCOPE_TOOLS, TOKEN_TYPE_ACCESS_TOKEN

RESOURCE: Final = Refusal(
    "invalid_target",
    "Exactly one resource this client may ask for must be named.",
    "not one resource, or none of its tools is this agent's",
    "blend.resource",
)
REQUESTED_TYPE: Final = Refusal(
    "invalid_request",
    "Only an access token can be asked for.",
    "another requested_token_type",
    "blend.requested_type",
)
SCOPE: Final = Refusal(
    "invalid_scope",
    "The scope is not one this client may have.",
    "a scope other than mcp:tools",
    "blend.scope",
)
DETAILS: Final = Refusal(
    "invalid_authorization_details",
    "The authorization_details are not within what this client may have at once.",
    "another type or server, nothing left within Agent.tools and the approved tools, or too many",
    "blend.details",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendRequest:
    """What the agent asks. `tools`: what it may use at `server` at most, exact approved names.

    `server` is "" when the one resource is no endpoint this agent may ask for.
    """

    resource: tuple[str, ...]
    server: str
    tools: frozenset[str]
    requested_token_type: str | None
    scope: str
    encoded_details: str | None


@dataclass(frozen=True, slots=True)
class ConsentedTools:
    """One living consent of the person: its tools that are still as they were shown."""

    gid: str
    tools: frozenset[str]
    expires_at: int


@dataclass(frozen=True, slots=True)
class GrantedAccess:
    """What the blended token may say. `gid` is None under a mandate; `until` is NumericDate."""

    details: tuple[AuthorizationDetail, ...]
    gid: str | None
    until: int


def asked_access(asked: BlendRequest) -> AuthorizationDetail | Refusal:
    """Rungs 1 to 4: the exact tools asked for that the agent may have."""
    if len(asked.resource) != 1 or not asked.server or not asked.tools:
        return RESOURCE
    if asked.requested_token_type not in (None, TOKEN_TYPE_ACCESS_TOKEN):
        return REQUESTED_TYPE
    scope = parse_scope(asked.scope)
    if isinstance(scope, Refusal) or not scope <= {SCOPE_TOOLS}:
        return SCOPE
    tools = _asked_tools(asked)
    return tools if isinstance(tools, Refusal) else _detail(asked.server, tools)


def granted_access(
    asked: AuthorizationDetail, consents: Iterable[ConsentedTools] | None, token_ends_at: int
) -> GrantedAccess | None:
    """Rungs 5 and 6. `consents`, latest first, or None under a mandate. None: no consent."""
    if consents is None:
        return GrantedAccess((asked,), None, token_ends_at)
    wanted = frozenset(asked.tools)
    # max() keeps the first of equals: the latest.
    best = max(consents, key=lambda each: len(each.tools & wanted), default=None)
    if best is None or not best.tools & wanted:
        return None
    detail = _detail(asked.server, best.tools & wanted)
    return GrantedAccess((detail,), best.gid, min(token_ends_at, best.expires_at))


def _asked_tools(asked: BlendRequest) -> frozenset[str] | Refusal:
    """Rung 4. One token must be able to name them all."""
    tools = asked.tools
    if asked.encoded_details is not None:
        details = parse_authorization_details(asked.encoded_details)
        if isinstance(details, Refusal):
            return details
        if any(each.type != DETAIL_TOOL or each.server != asked.server for each in details):
            return DETAILS
        tools = _matching(tools, [pattern for each in details for pattern in each.tools])
    fits = len(tools) <= MAXIMUM_DETAIL_TOOLS and sum(map(len, tools)) <= MAXIMUM_TOOL_CHARACTERS
    return tools if tools and fits else DETAILS


def _matching(tools: frozenset[str], patterns: list[str]) -> frozenset[str]:
    """Those that a pattern stands for: one look-up and one `startswith` each."""
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    literals = frozenset(patterns)
    return frozenset(tool for tool in tools if tool in literals or tool.startswith(prefixes))


def _detail(server: str, tools: frozenset[str]) -> AuthorizationDetail:
    return AuthorizationDetail(DETAIL_TOOL, server, tuple(sorted(tools)), (ACTION_CALL,))

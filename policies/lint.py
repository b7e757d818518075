"""What the engine's validator cannot know: whether the names of a policy exist, and our own rules.

The validator knows types, not entities: `AgentGroup::"suport-agents"` passes it and never matches.
Here every uid of a policy is looked up; what a policy reads is held against what tokens carry; and
what the decision point could not follow is refused.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from re import escape
from typing import Final

from cedarpy import pst

from policies.documents import SourcePolicy
from policies.problems import PolicyProblem, did_you_mean
from policies.reads import DECLARED, PERSON_ATTRIBUTES
from policies.schema import BASE_ACTIONS, ServerCatalogue, quoted
from policies.scopes import named_in

_ONCE_PER_REQUEST: Final = frozenset({"RunContext", "ToolArgs", "Declared"})
_MEMBERSHIP_PATTERN: Final = r"\buser\b[\s)]*(in|is)\b"


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What exists, as far as the caller knows; None leaves names of that kind unchecked."""

    agents: Collection[str] | None = None
    agent_groups: Collection[str] | None = None
    identity_providers: Collection[str] | None = None


class Catalogue:
    """The names of servers, tools and providers a set is checked against."""

    def __init__(
        self, servers: Sequence[ServerCatalogue], tools: Collection[str], known: KnownNames
    ) -> None:
        self.servers = {server.name: server for server in servers}
        self.tools = tools
        self._identity_providers = known.identity_providers
        providers = {each.credential_provider for each in servers if each.credential_provider}
        self._names: dict[str, tuple[str, Collection[str] | None]] = {
            "McpServer": ("server", self.servers),
            "CredentialProvider": ("credential provider", providers or None),
            "Agent": ("agent", known.agents),
            "AgentGroup": ("agent group", known.agent_groups),
        }

    def is_awaited(self, entity: pst.EntityUid) -> bool:
        """Whether it is a tool of a known server, not (yet) in the catalogue."""
        return (
            str(entity.type) in ("Action", "Tool")
            and entity.id not in BASE_ACTIONS
            and entity.id not in self.tools
            and entity.id.partition("/")[0] in self.servers
        )

    def absent_actions(self, policy: SourcePolicy) -> tuple[str, ...]:
        """Actions a policy names that this catalogue does not have: it cannot be validated."""
        return tuple(
            each.id
            for each in entities_of(policy)
            if str(each.type) == "Action" and each.id not in BASE_ACTIONS | set(self.tools)
        )

    def unknown_name(self, entity: pst.EntityUid) -> str | None:
        """Why an entity cannot be what its author meant, if so."""
        kind = str(entity.type)
        if kind in _ONCE_PER_REQUEST:
            return f"{kind} exists once in each request and cannot be named"
        if kind in ("Action", "Tool"):
            return self._unknown_tool(kind, entity.id)
        if kind == "Group":
            return self._unknown_group(entity.id)
        what, names = self._names.get(kind, ("", None))
        return _unknown(what, entity.id, names)

    def _unknown_tool(self, kind: str, name: str) -> str | None:
        server, separator, _ = name.partition("/")
        if name in self.tools or (kind == "Action" and name in BASE_ACTIONS):
            return None
        if not separator:
            choices = [*self.tools, *(BASE_ACTIONS if kind == "Action" else ())]
            return f"unknown {kind.lower()} {name!r}{did_you_mean(name, choices)}"
        return _unknown("server", server, self.servers)

    def _unknown_group(self, name: str) -> str | None:
        provider, separator, group = name.partition("/")
        if not separator or not group:
            return (
                f"group {name!r} does not name its identity provider; "
                f"did you mean {'local/' + name!r}?"
            )
        return _unknown("identity provider", provider, self._identity_providers)


def _unknown(what: str, name: str, known: Collection[str] | None) -> str | None:
    if known is None or name in known:
        return None
    return f"unknown {what} {name!r}{did_you_mean(name, known)}"


def name_problems(policy: SourcePolicy, catalogue: Catalogue) -> Iterator[PolicyProblem]:
    """Names that do not exist."""
    for entity in entities_of(policy):
        message = catalogue.unknown_name(entity)
        if message is not None:
            yield policy.problem(message, *_uid_patterns(entity))


def awaited_tools(
    policy: SourcePolicy, catalogue: Catalogue
) -> Iterator[tuple[str, PolicyProblem]]:
    """Tools of known servers that are not approved yet, each with a hint at a misspelling."""
    for entity in entities_of(policy):
        if catalogue.is_awaited(entity):
            hint = did_you_mean(entity.id, catalogue.tools)
            message = f"tool {entity.id!r} is not approved yet{hint}"
            yield entity.id, policy.problem(message, *_uid_patterns(entity))


def rule_problems(
    policy: SourcePolicy, servers: Sequence[ServerCatalogue]
) -> Iterator[PolicyProblem]:
    """Our own rules about what a policy may read."""
    if policy.reads.opaque:
        yield policy.problem(
            "too indirect to be judged: attributes, tags, 'has' and 'in' must be on principal, "
            "action, resource or context, or on an attribute of one of them"
        )
    if policy.template.effect == "permit" and any(
        path[: len(DECLARED)] == DECLARED for path in policy.reads.paths
    ):
        yield policy.problem(
            "a grant may not read context.run.declared, which is only what the agent says of "
            "itself; a guard may",
            r"\bdeclared\b",
        )
    for path, attribute in PERSON_ATTRIBUTES.items():
        if path not in policy.reads.paths:
            continue
        pattern = _MEMBERSHIP_PATTERN if attribute == "groups" else rf"\b{attribute}\b"
        for server in servers_of(policy.template, servers):
            if attribute not in server.person_attributes:
                yield policy.problem(
                    f"reads the person's {attribute}, which server {server.name!r} does not "
                    f"declare in person_attributes; declare it there, or name other servers in "
                    f"the scope",
                    pattern,
                )


def servers_of(
    policy: pst.Template, servers: Sequence[ServerCatalogue]
) -> tuple[ServerCatalogue, ...]:
    """The servers whose tools or credentials the scope of a policy admits."""
    return tuple(
        server
        for server in servers
        if _resource_admits(named_in(policy.resource), server)
        and _action_admits(policy.action, server)
    )


def _resource_admits(named: pst.EntityUid | None, server: ServerCatalogue) -> bool:
    if named is None:
        return True
    if str(named.type) == "CredentialProvider":
        return server.credential_provider in (None, named.id)
    return named.id.partition("/")[0] == server.name  # a server, or one of its tools


def _action_admits(constraint: pst.ActionConstraint, server: ServerCatalogue) -> bool:
    match constraint:
        case pst.ActionEq(entity):
            actions: tuple[pst.EntityUid, ...] = (entity,)
        case pst.ActionIn(entities):
            actions = entities
        case _:
            return True
    return any(
        each.id in BASE_ACTIONS or each.id.partition("/")[0] == server.name for each in actions
    )


def entities_of(policy: SourcePolicy) -> list[pst.EntityUid]:
    """Every entity a policy names, in a stable order."""
    return sorted(pst.entity_uids(policy.template), key=str)


def _uid_patterns(entity: pst.EntityUid) -> tuple[str, ...]:
    written = escape(quoted(entity.id))
    return (rf"\b{escape(str(entity.type))}\s*::\s*{written}", written)

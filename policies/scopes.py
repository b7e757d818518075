"""Which policies can apply to a request at all: by their scopes, before the engine is asked.

A scope looks only at the request's own uids and their ancestors, so cutting a set down to the
policies whose scope admits a request changes no decision and makes its cost independent of the
size of the set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cedarpy import pst

from policies.entities import ToolFacts
from policies.schema import ACTION_CALL_TOOL, ACTION_ISSUE, ACTION_USE, action_above

_ANYONE: Final = None


@dataclass(frozen=True, slots=True)
class Target:
    """One of principal, action and resource: its uid, and every uid it is in (itself too)."""

    uid: pst.EntityUid
    within: frozenset[pst.EntityUid]

    @classmethod
    def of(cls, uid: pst.EntityUid, *ancestors: pst.EntityUid) -> "Target":
        """A target from its uid and ancestors."""
        return cls(uid, frozenset((uid, *ancestors)))


@dataclass(frozen=True, slots=True)
class Scope:
    """The three targets of a request."""

    principal: Target
    action: Target
    resource: Target


def uid(type_name: str, identifier: str) -> pst.EntityUid:
    """A Cedar uid. Its parts are values, never text to be parsed."""
    return pst.EntityUid(pst.EntityType(type_name), identifier)


def call_scope(agent: str, agent_groups: tuple[str, ...], tool: ToolFacts) -> Scope:
    """The scope of a tool call."""
    actions = (action_above(tool), ACTION_CALL_TOOL, ACTION_USE)
    return Scope(
        _principal(agent, agent_groups),
        Target.of(uid("Action", tool.id), *(uid("Action", each) for each in actions)),
        Target.of(uid("Tool", tool.id), uid("McpServer", tool.server)),
    )


def issue_scope(agent: str, agent_groups: tuple[str, ...], provider: str, server: str) -> Scope:
    """The scope of issuing a server's credential."""
    return Scope(
        _principal(agent, agent_groups),
        Target.of(uid("Action", ACTION_ISSUE), uid("Action", ACTION_USE)),
        Target.of(uid("CredentialProvider", provider), uid("McpServer", server)),
    )


def _principal(agent: str, agent_groups: tuple[str, ...]) -> Target:
    return Target.of(uid("Agent", agent), *(uid("AgentGroup", each) for each in agent_groups))


class ScopeIndex:
    """Finds the policies whose scope admits a request. Order is that of the set."""

    def __init__(self, policies: Mapping[str, pst.Template]) -> None:
        self._policies = policies
        self._position = {policy_id: position for position, policy_id in enumerate(policies)}
        self._by_principal: dict[pst.EntityUid | None, list[str]] = {}
        for policy_id, policy in policies.items():
            key = named_in(policy.principal)
            self._by_principal.setdefault(key, []).append(policy_id)

    def matching(self, scope: Scope) -> tuple[str, ...]:
        """The ids of the policies that could apply."""
        keys: Iterable[pst.EntityUid | None] = (_ANYONE, *scope.principal.within)
        candidates = (each for key in keys for each in self._by_principal.get(key, ()))
        return tuple(
            sorted(
                (each for each in candidates if _admits_all(self._policies[each], scope)),
                key=self._position.__getitem__,
            )
        )


def named_in(
    constraint: pst.PrincipalOrResourceConstraint,
) -> pst.EntityUid | None:
    """The entity a principal or resource constraint names, if it names one."""
    match constraint:
        case pst.ScopeEq(pst.EntityUid() as entity) | pst.ScopeIn(pst.EntityUid() as entity):
            return entity
        case pst.ScopeIsIn(_, pst.EntityUid() as entity):
            return entity
        case _:
            return None


def _admits_all(policy: pst.Template, scope: Scope) -> bool:
    return (
        admits(policy.principal, scope.principal)
        and admits(policy.action, scope.action)
        and admits(policy.resource, scope.resource)
    )


def admits(
    constraint: pst.PrincipalOrResourceConstraint | pst.ActionConstraint, target: Target
) -> bool:
    """Whether one constraint of a scope holds for its target."""
    admitted = True  # ScopeAny; and what a later engine may have: never left out of a slice
    match constraint:
        case pst.ScopeEq(entity) | pst.ActionEq(entity):
            admitted = entity == target.uid
        case pst.ScopeIn(entity):
            admitted = entity in target.within
        case pst.ActionIn(entities):
            admitted = not target.within.isdisjoint(entities)
        case pst.ScopeIs(entity_type):
            admitted = entity_type == target.uid.type
        case pst.ScopeIsIn(entity_type, entity):
            admitted = entity_type == target.uid.type and entity in target.within
    return admitted

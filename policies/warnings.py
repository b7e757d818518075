"""What is allowed in a policy and still hardly meant: it compiles, and never matches.

An argument that no tool under the policy has: `context.input has ammount` is false for ever, and a
guard written with it forbids everything, a grant nothing. A group that nobody is in. Warnings, not
problems: the tool may get the argument, the group its first member.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import escape

from policies.documents import PolicyDocumentLike, SourcePolicy, read_documents
from policies.entities import ToolFacts
from policies.input_types import input_type
from policies.lint import entities_of
from policies.problems import PolicyProblem, did_you_mean
from policies.reads import INPUT
from policies.schema import ServerCatalogue
from policies.scopes import admits, call_scope


@dataclass(frozen=True, slots=True)
class _Arguments:
    """What an approved tool takes: every argument of its schema, and those Cedar can type."""

    facts: ToolFacts
    all: frozenset[str]
    typed: frozenset[str]


def policy_warnings(
    documents: Sequence[PolicyDocumentLike],
    servers: Sequence[ServerCatalogue],
    groups: Mapping[str, Collection[str]],
) -> tuple[PolicyProblem, ...]:
    """Warnings in order of the documents.

    `groups`: by identity provider the groups with a member, prefix included, for the providers
    whose members are known; groups of others are not looked at.
    """
    tools = [each for server in servers for each in _tools_of(server)]
    policies, _ = read_documents(documents)
    found: list[PolicyProblem] = []
    for policy in policies:
        found += _argument_warnings(policy, tools)
        found += _group_warnings(policy, groups)
    return tuple(found)


def group_warning(group: str, groups: Mapping[str, Collection[str]]) -> str | None:
    """Why a group is hardly the one that was meant, if so."""
    members = groups.get(group.partition("/")[0])
    if members is None or group in members:
        return None
    return f"nobody is in the group {group!r}{did_you_mean(group, members)}"


def _tools_of(server: ServerCatalogue) -> Iterator[_Arguments]:
    for name, schema, read_only, sensitivity in server.tools:
        properties = schema.get("properties")
        named = frozenset(properties) if isinstance(properties, Mapping) else frozenset()
        facts = ToolFacts(server.name, name, read_only, sensitivity)
        yield _Arguments(facts, named, frozenset(input_type(schema).fields))


def _argument_warnings(
    policy: SourcePolicy, tools: Sequence[_Arguments]
) -> Iterator[PolicyProblem]:
    under = [each for each in tools if _is_under(policy, each.facts)]
    if not under:
        return
    known = frozenset(name for each in under for name in each.all)
    typed = frozenset(name for each in under for name in each.typed)
    read = {path[2] for path in policy.reads.paths if path[:2] == INPUT and path != INPUT}
    for name in sorted(read - typed):
        if name in known:
            message = f"the argument {name!r} has no type in Cedar; read it by context.args"
        else:
            message = f"no approved tool under it has an argument {name!r}"
            message += did_you_mean(name, known)
        yield policy.problem(message, rf"\b{escape(name)}\b")


def _is_under(policy: SourcePolicy, tool: ToolFacts) -> bool:
    scope = call_scope("", (), tool)
    template = policy.template
    return admits(template.action, scope.action) and admits(template.resource, scope.resource)


def _group_warnings(
    policy: SourcePolicy, groups: Mapping[str, Collection[str]]
) -> Iterator[PolicyProblem]:
    for entity in entities_of(policy):
        message = group_warning(entity.id, groups) if str(entity.type) == "Group" else None
        if message is not None:
            yield policy.problem(message, escape(entity.id))

"""What an apply accepts and should not be silent about: names that match nothing today."""

from collections.abc import Iterator, Mapping, Sequence

from admin_console.parts import AdminParts
from policies.warnings import group_warning, policy_warnings
from registry.changes import ChangePlan
from registry.declared import Problem
from registry.objects import DeclaredObject
from registry.policy_compiler import catalogue_of
from registry.snapshot import PolicyDocument


def apply_warnings(
    parts: AdminParts,
    objects: Sequence[DeclaredObject],
    plan: ChangePlan,
    groups: Mapping[str, frozenset[str]],
) -> list[Problem]:
    """Warnings about the objects that were given. `groups` are the `known_groups`. Slow."""
    given = {(each.kind, each.name) for each in objects}
    documents = [
        PolicyDocument(each.name, each.spec["cedar"]) for each in objects if each.kind == "Policy"
    ]
    servers = [catalogue_of(each) for each in parts.live.snapshot.servers.values()]
    return [
        *(each for each in plan.hints if (each.kind, each.name) in given),
        *(
            Problem(
                "Policy", each.document, f"spec.cedar:{each.line}", f"{each.policy}: {each.message}"
            )
            for each in policy_warnings(documents, servers, groups)
        ),
        *(found for each in objects if each.kind == "Agent" for found in _agent(each, groups)),
    ]


def _agent(agent: DeclaredObject, groups: Mapping[str, frozenset[str]]) -> Iterator[Problem]:
    acts_for = agent.spec.get("acts_for") or {}
    for index, group in enumerate(acts_for.get("groups", ())):
        message = group_warning(group, groups)
        if message is not None:
            yield Problem("Agent", agent.name, f"spec.acts_for.groups[{index}]", message)


async def known_groups(parts: AdminParts) -> dict[str, frozenset[str]]:
    """Groups with a member, where members are kept here; nothing before the first account."""
    found: dict[str, frozenset[str]] = {}
    for name, login in parts.accounts().items():
        accounts = await login.accounts()
        if accounts:
            groups = {f"{name}/{group}" for each in accounts for group in each.groups}
            found[name] = frozenset(groups)
    return found

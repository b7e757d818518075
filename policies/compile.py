"""Documents of Cedar text into a policy set that can decide, or into what is wrong with them.

In order: each document is parsed; ids and annotations are checked; names and reads are held
against the registry (`policies.lint`); the engine validates the types against the schema of the
approved tools. All problems are reported at once. A set activates whole or not at all: one that
names a tool nobody approved yet is not wrong, but waits. Storing, activating and keeping the set
before it are the caller's.
"""

from collections.abc import Sequence
from typing import Final

import cedarpy

from policies.annotations import parsed_annotations
from policies.decide import CompiledPolicySet
from policies.documents import PolicyDocumentLike, SourcePolicy, read_documents
from policies.lint import Catalogue, KnownNames, awaited_tools, name_problems, rule_problems
from policies.problems import CompileProblems, PolicyProblem
from policies.schema import ServerCatalogue, schema_text, typed_tools
from policies.slices import CompiledPolicy
from policies.validate import validation_problems

__all__ = [
    "CompileProblems",
    "CompiledPolicySet",
    "KnownNames",
    "PolicyProblem",
    "ServerCatalogue",
    "compile_policy_set",
]

_NO_SCHEMA: Final = "the schema of the approved tools cannot be built"


def compile_policy_set(
    version: int,
    documents: Sequence[PolicyDocumentLike],
    servers: Sequence[ServerCatalogue],
    *,
    known: KnownNames | None = None,
    partial_catalogue: bool = False,
) -> CompiledPolicySet | CompileProblems:
    """A set over the whole registry, or over the part of it that a gateway has.

    `partial_catalogue` is for an enforcement point, whose `servers` are only its own: the set was
    accepted over all of them, so a name that is missing here is no problem and not waited for. It
    can match nothing here.
    """
    tools = typed_tools(servers)
    catalogue = Catalogue(servers, tools, known or KnownNames())
    policies, problems = read_documents(documents)
    awaited: dict[str, PolicyProblem] = {}
    valid_here: list[SourcePolicy] = []
    for policy in policies:
        problems += rule_problems(policy, servers)
        absent = catalogue.absent_actions(policy)
        if not partial_catalogue:
            problems += name_problems(policy, catalogue)
            awaited |= awaited_tools(policy, catalogue)
        if not absent:
            valid_here.append(policy)
    try:
        schema = cedarpy.Schema.from_str(schema_text(tools.values()))
    except ValueError:
        return CompileProblems((*problems, PolicyProblem("", "", 1, _NO_SCHEMA)))
    # The engine finds one thing several times (for each action) and in no stable order.
    problems += sorted(set(validation_problems(valid_here, schema)), key=_where)
    if problems or awaited:
        return CompileProblems(tuple(problems), tuple(sorted(awaited)), tuple(awaited.values()))
    compiled = {policy.template.id: _compiled(policy) for policy in policies}
    return CompiledPolicySet(version, compiled, tools, schema)


def _where(problem: PolicyProblem) -> tuple[str, int, str]:
    return problem.document, problem.line, problem.message


def _compiled(policy: SourcePolicy) -> CompiledPolicy:
    meaning = parsed_annotations(policy.template.annotations)
    return CompiledPolicy(
        template=policy.template,
        document=policy.document,
        line=policy.statement.line,
        paths=policy.reads.paths,
        reason=meaning.reason,
        remedy=meaning.remedy,
        ttl_seconds=meaning.ttl_seconds,
        scopes=meaning.scopes,
    )

"""Documents of Cedar text as policies with stable ids and lines.

The engine numbers policies by position and reports no lines; both come from here. An id is the
`@id` a policy must have, unique over all documents, so that a decision names the same policy
whatever is added before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import cedarpy
from cedarpy import pst

from policies.annotations import annotation_problems
from policies.problems import PolicyProblem
from policies.reads import Reads, reads_of
from policies.source import Statement, statements

MAXIMUM_POLICIES: Final = 10_000  # 10 to 14 KB of memory each, once parsed


class PolicyDocumentLike(Protocol):
    """One named Cedar text."""

    @property
    def name(self) -> str:
        """How problems refer to it."""

    @property
    def cedar(self) -> str:
        """Its policies."""


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """One policy of a document, under its `@id`, with the text it came from."""

    document: str
    template: pst.Template
    statement: Statement
    reads: Reads

    def problem(self, message: str, *patterns: str) -> PolicyProblem:
        """A problem of this policy, on the line of the first pattern that is found."""
        line = self.statement.line_of(*patterns)
        return PolicyProblem(self.document, self.template.id, line, message)


def read_documents(
    documents: Sequence[PolicyDocumentLike],
) -> tuple[list[SourcePolicy], list[PolicyProblem]]:
    """Every policy that can be read, and what is wrong with ids, annotations and the rest."""
    policies: list[SourcePolicy] = []
    problems: list[PolicyProblem] = []
    owners: dict[str, SourcePolicy] = {}
    for document in documents:
        for read in _read(document):
            if isinstance(read, PolicyProblem):
                problems.append(read)
                continue
            problems += _annotation_problems(read)
            before = owners.setdefault(read.template.id, read)
            if before is not read:
                at = f"{before.document}, line {before.statement.line}"
                problems.append(read.problem(f"this @id is already used in {at}", r"@id\b"))
            policies.append(read)
    if len(policies) > MAXIMUM_POLICIES:
        problems.append(PolicyProblem("", "", 1, f"more than {MAXIMUM_POLICIES} policies"))
        policies.clear()
    return policies, problems


def _read(document: PolicyDocumentLike) -> Iterator[SourcePolicy | PolicyProblem]:
    for statement in statements(document.cedar):
        try:
            parsed = cedarpy.policies_to_pst(statement.text)
        except ValueError as error:
            yield PolicyProblem(document.name, "", statement.line, f"cannot be parsed: {error}")
            continue
        if parsed.templates:
            message = "templates are not supported: name the principal and the resource"
            yield PolicyProblem(document.name, "", statement.line, message)
        for template in parsed.static_policies.values():
            policy_id = template.annotations.get("id", "")
            reads = reads_of(clause.expr for clause in template.clauses)
            named = replace(template, id=policy_id)
            yield SourcePolicy(document.name, named, statement, reads)


def _annotation_problems(policy: SourcePolicy) -> Iterator[PolicyProblem]:
    if "id" not in policy.template.annotations:
        yield policy.problem("a policy needs an @id, which decisions and the audit name")
    for name, message in annotation_problems(policy.template.effect, policy.template.annotations):
        yield policy.problem(message, rf"@{name}\b")

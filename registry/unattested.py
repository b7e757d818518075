"""What an Agent without attestation may be: its declared clients, or all that nobody vouches for.

An Agent is usually what proves itself a workload. Two are not: one whose declared OAuth clients are
all of it, and the built-in `unattested-clients`, which every program is that describes itself in a
client id metadata document. That one exists when it is declared, because only an operator can say
for which groups and at which servers strangers' programs may ask; it never gets a server that
demands key-bound tokens (docs/decisions/0013). Pure.
"""

from collections.abc import Iterator
from typing import Final

from registry.declared import DeclaredSet, ParsedObject, Problem

UNATTESTED_AGENT: Final = "unattested-clients"


def unattested_problems(agent: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    """Everything wrong with an Agent that proves itself in no way, or must not."""
    if agent.name == UNATTESTED_AGENT:
        yield from _built_in_problems(agent, declared)
    elif agent.spec.attestation is None and not agent.spec.clients:
        message = f"needs an attestation or clients; only {UNATTESTED_AGENT} has neither"
        yield Problem(agent.kind, agent.name, "spec.attestation", message)
    elif agent.spec.attestation is None and agent.spec.redirect_uris:
        message = "belong to a client that proves its workload; declare an attestation"
        yield Problem(agent.kind, agent.name, "spec.redirect_uris", message)


def _built_in_problems(agent: ParsedObject, declared: DeclaredSet) -> Iterator[Problem]:
    spec = agent.spec
    rows = (
        ("attestation", spec.attestation is not None, "nobody vouches for these programs"),
        ("acts_for", spec.acts_for is None, "say for which groups these programs may ask"),
        ("acts_alone", spec.acts_alone is True, "these programs act for a person only"),
        ("redirect_uris", bool(spec.redirect_uris), "each program has its own"),
    )
    for field, is_wrong, message in rows:
        if is_wrong:
            yield Problem(agent.kind, agent.name, f"spec.{field}", message)
    for index, pattern in enumerate(spec.tools):
        server = declared.objects.get(("McpServer", pattern.partition("/")[0]))
        if server is not None and server.spec.require_bound:
            message = f"McpServer {server.name!r} requires tokens bound to a key"
            yield Problem(agent.kind, agent.name, f"spec.tools[{index}]", message)

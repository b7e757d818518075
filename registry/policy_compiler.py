"""Hands a policy set and the servers, tools and agents of a snapshot to the policy compiler."""

from policies.compile import CompileProblems, KnownNames, compile_policy_set
from policies.problems import PolicyProblem as CompilerProblem
from policies.schema import ServerCatalogue
from registry.policy_activation import PolicyOutcome, PolicyProblem
from registry.snapshot import PolicySetEntry, RegistrySnapshot, ServerEntry


def compile_policies(policies: PolicySetEntry, snapshot: RegistrySnapshot) -> PolicyOutcome:
    """Whether `policies` compile against what `snapshot` declares and approves."""
    if not policies.documents:
        return PolicyOutcome()  # the empty set denies everything and needs no compiler
    compiled = compile_policy_set(
        policies.version,
        policies.documents,
        [catalogue_of(server) for server in snapshot.servers.values()],
        known=known_names(snapshot),
    )
    if not isinstance(compiled, CompileProblems):
        return PolicyOutcome()
    return PolicyOutcome(
        tuple(map(_problem, compiled.problems)),
        compiled.waiting_for,
        tuple(map(_problem, compiled.hints)),
    )


def catalogue_of(server: ServerEntry) -> ServerCatalogue:
    """One server as policies see it."""
    return ServerCatalogue(
        name=server.name,
        person_attributes=server.person_attributes,
        tools=tuple(
            (tool.name, tool.definition["inputSchema"], tool.read_only, tool.sensitivity)
            for tool in server.tools
        ),
        credential_provider=server.credential.name,
    )


def known_names(snapshot: RegistrySnapshot) -> KnownNames:
    """What a policy may name."""
    return KnownNames(
        agents=frozenset(snapshot.agents),
        agent_groups=frozenset(
            group for agent in snapshot.agents.values() for group in agent.entry.groups
        ),
        identity_providers=frozenset(snapshot.identity_providers),
    )


def _problem(problem: CompilerProblem) -> PolicyProblem:
    return PolicyProblem(problem.document, problem.policy, problem.line, problem.message)

"""What `POST /explain` asks about, and how the policies are asked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from admin_console.facts import PersonFacts
from policies.entities import AgentFacts, CallRequest, IssueRequest, RunFacts, ToolFacts, UserFacts
from registry.snapshot import AgentRecord, RegistrySnapshot, ServerEntry
from registry.unattested import UNATTESTED_AGENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call that might be made. `at_ms` is Unix milliseconds; `level` that of the attestation."""

    agent: AgentRecord
    server: ServerEntry
    tool: str
    person: PersonFacts | None
    level: int
    at_ms: int
    arguments: Mapping[str, object]

    @property
    def qualified(self) -> str:
        """`server/tool`."""
        return f"{self.server.name}/{self.tool}"


def call_request(question: Question, snapshot: RegistrySnapshot) -> CallRequest | None:
    """The question for the policies, as a gateway would ask it; None for a tool not approved."""
    agent, server, person = question.agent, question.server, question.person
    entry = next((each for each in server.tools if each.name == question.tool), None)
    if entry is None:
        return None
    return CallRequest(
        agent=AgentFacts(
            name=agent.entry.name,
            groups=agent.entry.groups,
            environment=agent.entry.environment,
            level=question.level,
            method=_method(agent, snapshot),
        ),
        user=None if person is None else _user(person, server.person_attributes),
        run=RunFacts(session=None if person is None else "ses_unknown", invocation="inv_unknown"),
        now_ms=question.at_ms,
        tool=ToolFacts(server.name, entry.name, entry.read_only, entry.sensitivity),
        arguments=question.arguments,
    )


def issue_request(call: CallRequest, server: ServerEntry) -> IssueRequest:
    """What the authorization server asks itself before it makes the target's credential."""
    provider = server.credential
    return IssueRequest(
        agent=call.agent,
        user=call.user,
        run=call.run,
        now_ms=call.now_ms,
        server=server.name,
        provider=provider.name,
        provider_type=provider.type,
        ttl_seconds=provider.lifetime_seconds,
        scopes=(),
        audience=server.audience,
        details_name_server=True,
    )


def _method(agent: AgentRecord, snapshot: RegistrySnapshot) -> str:
    """How the agent proves itself first; without attestation its client says who it is."""
    if agent.providers:
        return snapshot.trust_providers[agent.providers[0]].type
    return "client_metadata" if agent.entry.name == UNATTESTED_AGENT else "declared_client"


def _user(person: PersonFacts, visible: tuple[str, ...]) -> UserFacts:
    """What a token for this server would say of the person."""
    return UserFacts(
        id=person.sub,
        groups=person.groups if "groups" in visible else None,
        acr=person.acr if "acr" in visible else None,
        auth_time=person.auth_time if "auth_time" in visible else None,
    )

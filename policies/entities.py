"""What a decision is about, as frozen values: who, for whom, in which run, which tool.

The caller vouches for every field: agent and user come from a verified token, tool facts from the
approved catalogue, `declared` from the agent itself (which is why no grant may read it). Nothing
here is Cedar yet; `policies.requests` turns it into entities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The agent that calls. `level` and `method` say how its workload proved itself (`attn`)."""

    name: str
    groups: tuple[str, ...]
    environment: str
    level: int
    method: str


@dataclass(frozen=True, slots=True)
class UserFacts:
    """The person behind the agent; `auth_time` is NumericDate seconds.

    An attribute is None when the token does not carry it. `groups` carry the identity provider's
    prefix (`local/support`).
    """

    id: str
    groups: tuple[str, ...] | None = None
    acr: str | None = None
    auth_time: int | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The run a call belongs to. `chain`: the agents upstream of the caller, outermost first.

    `chain_groups` are the groups of all of them together. `declared` is what the agent says of
    itself (`_meta["countersign/run"]`) and proves nothing.
    """

    session: str | None = None
    invocation: str | None = None
    transaction: str | None = None
    chain: tuple[str, ...] = ()
    chain_groups: tuple[str, ...] = ()
    purpose: str | None = None
    ticket: str | None = None
    declared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """A tool as the operator approved it."""

    server: str
    name: str
    read_only: bool = False
    sensitivity: int = 0

    @property
    def id(self) -> str:
        """Its Cedar id, the same for the `Tool` and the `Action`: `server/tool`."""
        return f"{self.server}/{self.name}"


@dataclass(frozen=True, slots=True)
class CallRequest:
    """May this agent call this tool with these arguments, now? `now_ms` is Unix milliseconds."""

    agent: AgentFacts
    user: UserFacts | None
    run: RunFacts
    now_ms: int
    tool: ToolFacts
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """May the credential of a server be made for this agent, now?

    `details_name_server`: the authorization details of the subject token name the server.
    """

    agent: AgentFacts
    user: UserFacts | None
    run: RunFacts
    now_ms: int
    server: str
    provider: str
    provider_type: str
    ttl_seconds: int
    scopes: tuple[str, ...]
    audience: str
    details_name_server: bool

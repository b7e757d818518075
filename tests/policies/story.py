"""The policies, servers and people of the story, for the tests of this package."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from policies.compile import CompileProblems, KnownNames, ServerCatalogue, compile_policy_set
from policies.decide import CompiledPolicySet
from policies.entities import AgentFacts, CallRequest, IssueRequest, RunFacts, ToolFacts, UserFacts


@dataclass(frozen=True)
class Document:
    """One named Cedar text."""

    name: str
    cedar: str


STORY: Final = """\
// What support may do.
@id("grant-support-read") @ttl("900")
permit (
  principal in AgentGroup::"support-agents",
  action in Action::"call_read",
  resource in McpServer::"crm"
) when { context.run has user && context.run.user in Group::"local/support" };

@id("grant-crm-hours")
permit (principal, action == Action::"crm/list_hours", resource in McpServer::"crm")
when { context.run has user && context.run.user in Group::"local/staff" };

@id("grant-refund") @ttl("300") @scope("crm.refund crm.read")
permit (
  principal in AgentGroup::"support-agents",
  action == Action::"crm/refund",
  resource == Tool::"crm/refund"
) when {
  context.run has user && context.run.user in Group::"local/support" &&
  context.input has amount && context.input.amount > 0
};

@id("guard-refund-limit") @reason("Agents may not refund more than 500.")
forbid (principal, action == Action::"crm/refund", resource)
unless { context.input has amount && context.input.amount <= 500 };

@id("grant-notes")
permit (principal, action in Action::"call_tool", resource in McpServer::"notes")
when { context.run has user && context.run.user in Group::"local/staff" };
"""

BASE: Final = Document(
    "base", (Path(__file__).parents[2] / "policies/shipped/base.cedar").read_text()
)
STORY_DOCUMENT: Final = Document("story", STORY)


def inputs(**properties: Any) -> dict[str, Any]:
    """An inputSchema with these properties."""
    return {"type": "object", "properties": properties, "required": sorted(properties)}


INTEGER: Final = {"type": "integer"}
TEXT: Final = {"type": "string"}
CRM: Final = ServerCatalogue(
    "crm",
    ("groups", "acr", "auth_time", "purpose", "ticket"),
    (
        ("get_account", inputs(id=INTEGER), True, 0),
        ("list_hours", inputs(), True, 0),
        ("refund", inputs(amount=INTEGER, note=TEXT), False, 2),
        ("delete_account", inputs(id=INTEGER), False, 3),
    ),
    "crm-token",
)
NOTES: Final = ServerCatalogue(
    "notes", ("groups",), (("search", inputs(text=TEXT), False, 0),), "notes-key"
)
SERVERS: Final = (CRM, NOTES)
KNOWN: Final = KnownNames(
    agents=("support-bot",), agent_groups=("support-agents",), identity_providers=("local",)
)

BOT: Final = AgentFacts("support-bot", ("support-agents",), "demo", 1, "unix_process")
ALICE: Final = UserFacts("usr_alice", ("local/staff", "local/support"), "pwd", 1_700_000_000)
BOB: Final = UserFacts("usr_bob", ("local/staff",), "pwd", 1_700_000_000)
RUN: Final = RunFacts("ses_1", "inv_1", "txn_1")
THURSDAY_NOON_MS: Final = 1_763_640_000_000  # 2025-11-20T12:00:00Z


def compiled(
    *cedar: str, servers: tuple[ServerCatalogue, ...] = SERVERS, known: KnownNames | None = None
) -> CompiledPolicySet:
    """A set of these texts, which must compile."""
    documents = [Document(f"document-{n}", text) for n, text in enumerate(cedar)]
    found = compile_policy_set(7, documents, servers, known=known)
    assert isinstance(found, CompiledPolicySet), found
    return found


def refused(
    *cedar: str, servers: tuple[ServerCatalogue, ...] = SERVERS, known: KnownNames | None = None
) -> CompileProblems:
    """Why a set of these texts cannot be live."""
    documents = [Document(f"document-{n}", text) for n, text in enumerate(cedar)]
    found = compile_policy_set(7, documents, servers, known=known)
    assert isinstance(found, CompileProblems)
    return found


def story() -> CompiledPolicySet:
    """The story's set with the shipped base."""
    found = compile_policy_set(7, [BASE, STORY_DOCUMENT], SERVERS, known=KNOWN)
    assert isinstance(found, CompiledPolicySet), found
    return found


def tool(name: str, server: ServerCatalogue = CRM) -> ToolFacts:
    """A tool of a server, with the operator's facts."""
    return next(
        ToolFacts(server.name, name, read_only, sensitivity)
        for each, _, read_only, sensitivity in server.tools
        if each == name
    )


def call(
    name: str,
    arguments: dict[str, object] | None = None,
    *,
    server: ServerCatalogue = CRM,
    agent: AgentFacts = BOT,
    user: UserFacts | None = ALICE,
    run: RunFacts = RUN,
    now_ms: int = THURSDAY_NOON_MS,
) -> CallRequest:
    """A call of one tool by support-bot for Alice, unless told otherwise."""
    return CallRequest(agent, user, run, now_ms, tool(name, server), arguments or {})


ISSUE: Final = IssueRequest(
    agent=BOT,
    user=ALICE,
    run=RUN,
    now_ms=THURSDAY_NOON_MS,
    server="crm",
    provider="crm-token",
    provider_type="issued_token",
    ttl_seconds=300,
    scopes=("crm.read", "crm.write"),
    audience="http://127.0.0.1:8711/mcp",
    details_name_server=True,
)


def issue(**changes: Any) -> IssueRequest:
    """The issue of crm's credential to support-bot for Alice, with changes."""
    return replace(ISSUE, **changes)

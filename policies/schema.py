"""The Cedar schema policies are validated against: a base, and one action per approved tool.

A tool `refund` of server `crm` is the action `"crm/refund"`, under `call_read` when the operator
confirmed that it only reads, else under `call_write`; both are under `call_tool`, under `use`.
Its arguments are `context.input`, typed from the tool's own inputSchema (`policies.input_types`).
Names come from servers, so each is escaped here, at the only place that writes Cedar text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policies.entities import ToolFacts
from policies.input_types import CedarType, RecordType, SetType, input_type, is_representable

BASE_SCHEMA: Final = """\
// ---------- who ----------
entity AgentGroup;
entity Agent in [AgentGroup] = {
  environment: String,
  level: Long,                 // how well its workload is attested: 0 .. 3
  method: String,              // and by what: "unix_process", "jwt-svid", ...
};
entity Group;                  // "local/support": identity provider, slash, group
entity User in [Group] = { acr?: String, auth_time?: datetime };

// ---------- what ----------
entity McpServer;
entity Tool in [McpServer] = {
  name: String,                // without its server
  read_only: Bool,             // both set by the operator, never taken from the server
  sensitivity: Long,           // 0 .. 3
};
entity CredentialProvider in [McpServer] = { type: String };

// ---------- the run ----------
entity Declared tags String;   // what the agent says of itself: guards may read it, grants not
type Clock = { now: datetime, weekday_utc: String };  // "mon" .. "sun"
entity RunContext = {
  user?: User,                 // absent: the agent acts alone
  session?: String, invocation?: String, transaction?: String,
  purpose?: String, ticket?: String,
  chain_depth: Long,           // agents upstream of the caller; 0 = the first agent
  chain: Set<Agent>, chain_groups: Set<AgentGroup>,
  clock: Clock,
  declared: Declared,
};

// ---------- the arguments of a call, for rules over many tools ----------
type ArgValue = { str?: String, num?: decimal, int?: Long, bool?: Bool, set?: Set<String> };
entity ToolArgs = {
  unmapped: Set<String>,       // JSON pointers of what context.input could not carry
} tags ArgValue;               // by JSON pointer; "/list/*" is the set of a list of strings

// ---------- actions ----------
action "use";
action "call_tool" in ["use"];
// Applicable themselves, so that a rule over all tools is valid before the first is approved.
action "call_read", "call_write" in ["call_tool"] appliesTo {
  principal: [Agent], resource: [Tool],
  context: { run: RunContext, args: ToolArgs, input: {} }
};
type CredentialGrant = {
  ttl: Long, scopes: Set<String>, audience: String,
  details_name_server: Bool,   // the subject token's authorization details name the server
};
action "issue_credential" in ["use"] appliesTo {
  principal: [Agent], resource: [CredentialProvider],
  context: { run: RunContext, grant: CredentialGrant }
};
"""
ACTION_USE: Final = "use"
ACTION_CALL_TOOL: Final = "call_tool"
ACTION_CALL_READ: Final = "call_read"
ACTION_CALL_WRITE: Final = "call_write"
ACTION_ISSUE: Final = "issue_credential"
BASE_ACTIONS: Final = frozenset(
    {ACTION_USE, ACTION_CALL_TOOL, ACTION_CALL_READ, ACTION_CALL_WRITE, ACTION_ISSUE}
)

ToolDefinition = tuple[str, Mapping[str, object], bool, int]


@dataclass(frozen=True, slots=True)
class ServerCatalogue:
    """One server as policies see it.

    `tools` are its approved tools as (name, inputSchema, read_only, sensitivity).
    `person_attributes` is what of a person its tokens carry. `credential_provider` is the name of
    the provider its credential comes from, if known.
    """

    name: str
    person_attributes: tuple[str, ...] = ()
    tools: Sequence[ToolDefinition] = ()
    credential_provider: str | None = None


@dataclass(frozen=True, slots=True)
class TypedTool:
    """A tool with the Cedar type of its arguments."""

    facts: ToolFacts
    input: RecordType


def action_above(tool: ToolFacts) -> str:
    """The action directly above a tool's own."""
    return ACTION_CALL_READ if tool.read_only else ACTION_CALL_WRITE


def typed_tools(servers: Iterable[ServerCatalogue]) -> dict[str, TypedTool]:
    """Every tool that can be named, by `server/tool`. A second tool of one name is ignored."""
    found: dict[str, TypedTool] = {}
    for server in servers:
        for name, schema, read_only, sensitivity in server.tools:
            facts = ToolFacts(server.name, name, read_only, sensitivity)
            if is_representable(facts.id):
                found.setdefault(facts.id, TypedTool(facts, input_type(schema)))
    return found


def schema_text(tools: Iterable[TypedTool]) -> str:
    """The whole Cedar schema: the base, then the tools."""
    return "".join([BASE_SCHEMA, *map(_action_text, tools)])


def quoted(text: str) -> str:
    r"""A Cedar string literal; anything but printable ASCII is written as `\u{...}`."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if " " <= character <= "~" and character not in '"\\':
        return character
    return f"\\u{{{ord(character):x}}}"


def _action_text(tool: TypedTool) -> str:
    return (
        f"action {quoted(tool.facts.id)} in [{quoted(action_above(tool.facts))}] appliesTo {{\n"
        "  principal: [Agent], resource: [Tool],\n"
        f"  context: {{ run: RunContext, args: ToolArgs, input: {_type_text(tool.input)} }}\n"
        "};\n"
    )


def _type_text(cedar_type: CedarType) -> str:
    if isinstance(cedar_type, RecordType):
        fields = (f"{quoted(name)}?: {_type_text(of)}" for name, of in cedar_type.fields.items())
        return "{ " + ", ".join(fields) + " }"
    if isinstance(cedar_type, SetType):
        return f"Set<{cedar_type.element}>"
    return cedar_type

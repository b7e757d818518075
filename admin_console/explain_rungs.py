"""The rungs of `POST /explain` before any policy: declared, approved, not cut off, agreed to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from admin_console.explain_question import Question
from admin_console.facts import ConsentFacts, PersonFacts
from admin_console.parts import AdminParts
from policies.problems import did_you_mean
from registry.blocks import BlockKind
from registry.catalogue_tools import ToolState
from registry.snapshot import AgentRecord, ServerEntry
from token_exchange.narrowing import pattern_matches


@dataclass(frozen=True, slots=True)
class Rung:
    """One condition of a call: whether it holds, why, and what would make it hold.

    `remedy` is empty when it holds, and where no remedy is known.
    """

    check: str
    passed: bool
    found: str
    remedy: str


def rungs_before_policy(
    parts: AdminParts, question: Question, consents: Sequence[ConsentFacts]
) -> list[Rung]:
    """Each rung, in the order of a call. `consents` are the person's. Blocking reads."""
    agent, server, person = question.agent, question.server, question.person
    rungs = [
        _approved(parts, server, question.tool),
        _served(parts, server),
        *_cut_off(parts, agent, person),
        _declared_tools(question),
        _may_act(agent, person),
    ]
    if person is not None:
        rungs.append(_consent(question, person, consents))
    return rungs


def _approved(parts: AdminParts, server: ServerEntry, tool: str) -> Rung:
    if any(each.name == tool for each in server.tools):
        return Rung("catalogue", True, f"{server.name}/{tool} is approved", "")
    known = {each.name: each for each in parts.catalogue.list(server.name)}
    if tool not in known:
        found = f"{server.name} offers no tool {tool!r}{did_you_mean(tool, known)}"
        return Rung("catalogue", False, found, f"see `countersign tools list {server.name}`")
    state = known[tool].state
    found = f"{server.name}/{tool} is {state.value}, not approved"
    if state is ToolState.GONE:
        return Rung("catalogue", False, found, "")
    return Rung("catalogue", False, found, f"`countersign tools approve {server.name} {tool}`")


def _served(parts: AdminParts, server: ServerEntry) -> Rung:
    gateways = parts.live.snapshot.gateways.values()
    names = [each.name for each in gateways if server.name in each.servers]
    if names:
        return Rung("gateway", True, f"served by {', '.join(names)}", "")
    return Rung("gateway", False, "no Gateway serves it", f"name {server.name} in a Gateway")


def _cut_off(parts: AdminParts, agent: AgentRecord, person: PersonFacts | None) -> Iterator[Rung]:
    """What `kill` cut off; tokens from before an epoch are another matter: new ones are issued."""
    entry = agent.entry
    subjects = [(BlockKind.AGENT, entry.name, f"agent/{entry.name}")]
    subjects += [(BlockKind.AGENT_GROUP, each, f"agent-class/{each}") for each in entry.groups]
    subjects += [(BlockKind.CLIENT, each, f"client/{each}") for each in agent.client_ids]
    if person is not None:
        subjects.append((BlockKind.SUBJECT, person.sub, f"user/{person.login}"))
    blocks = parts.live.blocks.entries
    for kind, name, target in subjects:
        block = blocks.get((kind, name))
        if block is not None and block.blocked:
            yield Rung("blocks", False, f"{target} is cut off", f"`countersign restore {target}`")


def _declared_tools(question: Question) -> Rung:
    name, tool = question.agent.entry.name, question.qualified
    patterns = question.agent.entry.tools
    pattern = next((each for each in patterns if pattern_matches(each, tool)), None)
    if pattern is not None:
        return Rung("ceiling", True, f"Agent.tools has {pattern}", "")
    found = f"{tool} is not in the tools of Agent {name}"
    return Rung("ceiling", False, found, f"add {tool} to the tools of Agent {name}")


def _may_act(agent: AgentRecord, person: PersonFacts | None) -> Rung:
    name = agent.entry.name
    if person is None:
        if agent.may_act_alone:
            return Rung("person", True, f"{name} may act alone", "")
        found = f"{name} does not act alone"
        return Rung("person", False, found, f"give --user, or set acts_alone of {name}")
    groups = set(person.groups or ())
    shared = sorted(groups & set(agent.acts_for_groups))
    if shared:
        return Rung("person", True, f"{name} acts for {shared[0]}, {person.login} is in it", "")
    if not agent.acts_for_groups:
        remedy = f"declare acts_for of {name}"
        return Rung("person", False, f"{name} acts for nobody", remedy)
    needed = " or ".join(agent.acts_for_groups)
    found = f"{name} acts for {needed} only; {person.login} is not in it"
    return Rung("person", False, found, f"{person.login} is in {needed}")


def _consent(question: Question, person: PersonFacts, consents: Sequence[ConsentFacts]) -> Rung:
    name, tool = question.agent.entry.name, question.tool
    if not question.agent.providers:  # a consent is one program's, and the question names none
        found = f"assumed: each program that is {name} asks {person.login} for itself"
        return Rung("consent", True, found, "")
    providers = {each.identity_provider for each in question.agent.subject_tokens}
    if question.agent.by_mandate and person.identity_provider in providers:
        found = f"{name} acts by mandate for whoever's token of {person.identity_provider} it has"
        return Rung("consent", True, found, "")
    for consent in consents:
        if tool in consent.tools:
            until = datetime.fromtimestamp(consent.expires_at, UTC)
            return Rung("consent", True, f"{person.login} agreed, until {until:%Y-%m-%d}", "")
    found = f"{person.login} has not agreed that {name} uses {question.qualified} as it is today"
    return Rung("consent", False, found, f"{person.login} agrees when {name} asks for it next")

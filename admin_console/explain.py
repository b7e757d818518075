"""`POST /explain`: would this call be allowed now, and if not, what is the least that is missing?

The ladder a call climbs, asked here of the live registry in the same order: declared and approved,
reachable, not cut off, within `Agent.tools`, for whom the agent may act, consent, the policies on
the call, and the policies on its credential. Every rung is answered, so that all that is missing is
seen at once. What only a token would say (attestation, session, program) is assumed, and said.
Nothing is issued or changed. The other half, a decision that was recorded, is
`audit.explain_decision`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from anyio import to_thread
from pydantic import AwareDatetime, Field

from admin_console.errors import AdminError, not_found
from admin_console.explain_question import Question, call_request, issue_request
from admin_console.explain_rungs import Rung, rungs_before_policy
from admin_console.facts import ConsentFacts, PersonFacts
from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.parts import AdminParts
from admin_console.persons import one_person
from admin_console.wire import Wire
from policies.decide import CompiledPolicySet
from policies.entities import CallRequest
from policies.explain import Explanation, PolicyNote, explain_call
from registry.problem_words import suggestion
from registry.snapshot import RegistrySnapshot, ServerEntry

# Years that clocks, policies and databases all can tell.
FIRST_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
LAST_MOMENT: Final = datetime(2100, 1, 1, tzinfo=UTC)
POLICY: Final = "policy"
UNKNOWN_SUB: Final = "usr_unknown"  # of a person who is only imagined


class ExplainBody(Wire):
    """A call that might be made.

    `user`: a name or id; null when the agent acts alone. `tool`: server/tool. `at`: another time
    than now. `groups` and `level` take the place of what the person's last session and the Agent's
    least attestation say.
    """

    agent: str = Field(min_length=1, max_length=128)
    user: str | None = Field(default=None, min_length=1, max_length=512)
    tool: str = Field(pattern=r"^[^/]{1,63}/.{1,128}$")
    arguments: dict[str, Any] = Field(default={})
    at: AwareDatetime | None = Field(default=None, ge=FIRST_MOMENT, le=LAST_MOMENT)
    groups: list[str] | None = Field(default=None, max_length=256)
    level: int | None = Field(default=None, ge=0, le=3)


class RungItem(Wire):
    """One rung: `found` is why it holds or not, `remedy` what would make it hold."""

    check: str
    passed: bool
    found: str
    remedy: str = ""


class PolicyItem(Wire):
    """One policy, where it stands, and the conditions that decided or failed."""

    id: str
    document: str
    line: int
    effect: str
    conditions: list[str]
    scope: str


class ExplainAnswer(Wire):
    """`allowed` when every rung holds. `changes` together would make it so, null if none is known.

    `outcome` is the policies' alone. `policies` decided; `nearest` are the grants that came
    closest. `assumed`: what no token says.
    """

    allowed: bool
    outcome: str
    agent: str
    user: str | None
    tool: str
    at: datetime
    checks: list[RungItem]
    policies: list[PolicyItem]
    nearest: list[PolicyItem]
    reasons: list[str]
    failed_conditions: list[str]
    changes: list[str] | None
    assumed: list[str]
    policy_version: int


async def explain(call: AdminCall) -> ExplainAnswer:
    """Climb the ladder for a call that might be made."""
    parts, body, snapshot = call.parts, call.body_as(ExplainBody), call.parts.live.snapshot
    compiled = await parts.system.policies(snapshot)
    asked = await _asked(parts, snapshot, body, call.now_ms)
    return await to_thread.run_sync(
        lambda: _explained(parts, snapshot, compiled, asked), limiter=parts.explaining
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked, what the person agreed to, and what was assumed."""

    question: Question
    consents: Sequence[ConsentFacts]
    assumed: list[str]


async def _asked(
    parts: AdminParts, snapshot: RegistrySnapshot, body: ExplainBody, now_ms: int
) -> _Asked:
    agent = snapshot.agents.get(body.agent)
    if agent is None:
        raise not_found(f"No Agent {body.agent!r}{suggestion(body.agent, snapshot.agents)}")
    server_name, _, tool = body.tool.partition("/")
    server = snapshot.servers.get(server_name)
    if server is None:
        near = suggestion(server_name, snapshot.servers)
        raise not_found(f"No McpServer {server_name!r}{near}")
    person, assumed = await _person(parts, body)
    level = agent.entry.minimum_level if body.level is None else body.level
    if body.level is None:
        assumed.append(f"{agent.entry.name} is attested at level {level}, the least it may have")
    question = Question(
        agent=agent,
        server=server,
        tool=tool,
        person=person,
        level=level,
        at_ms=now_ms if body.at is None else round(body.at.timestamp() * 1000),
        arguments=body.arguments,
    )
    consents: Sequence[ConsentFacts] = ()
    if person is not None:
        consents = await parts.people.consents(
            person.sub, agent.entry.name, server.name, question.at_ms // 1000
        )
    return _Asked(question, consents, assumed)


def _explained(
    parts: AdminParts,
    snapshot: RegistrySnapshot,
    compiled: CompiledPolicySet | None,
    asked: _Asked,
) -> ExplainAnswer:
    question = asked.question
    rungs = rungs_before_policy(parts, question, asked.consents)
    request = call_request(question, snapshot)
    explanation: Explanation | None = None
    if compiled is None:
        rungs.append(Rung(POLICY, False, "the policies do not compile: all is denied", ""))
    elif request is not None:
        explanation = explain_call(compiled, request)
        rungs.append(_policy_rung(explanation))
        rungs.append(_issue_rung(compiled, request, question.server))
    return _answer(question, rungs, explanation, asked.assumed, snapshot.policies.version)


async def _person(parts: AdminParts, body: ExplainBody) -> tuple[PersonFacts | None, list[str]]:
    """Whom it is for, with the groups to assume, and what was assumed."""
    if body.user is None:
        return None, []
    groups = None if body.groups is None else tuple(body.groups)
    try:
        person = await one_person(parts, body.user)
    except AdminError as error:
        if groups is None or error.status != 404:  # noqa: PLR2004 - nobody of that name
            raise
        told = f"{body.user} is not known here: somebody with the groups given"
        return PersonFacts(UNKNOWN_SUB, "", body.user, groups, None, None), [told]
    known = person.groups if groups is None else groups
    assumed: list[str] = []
    if known is None:
        assumed.append(f"{person.login} has no session: no groups are known; give --group")
    found = PersonFacts(
        person.sub or UNKNOWN_SUB,
        person.identity_provider,
        person.login,
        known or (),
        person.acr,
        person.auth_time,
    )
    return found, assumed


def _policy_rung(explanation: Explanation) -> Rung:
    decision = explanation.decision
    named = ", ".join(f"{each.id} ({each.document}:{each.line})" for each in explanation.decided_by)
    if decision.allowed:
        return Rung(POLICY, True, f"{named} permits it", "")
    if named:
        return Rung(POLICY, False, f"{named} forbids it: {' '.join(decision.reasons)}", "")
    return Rung(POLICY, False, " ".join(decision.reasons), "")


def _issue_rung(compiled: CompiledPolicySet, request: CallRequest, server: ServerEntry) -> Rung:
    """The authorization server decides again, before it makes the target's credential."""
    decision = compiled.decide_issue(issue_request(request, server))
    name, by = server.credential.name, ", ".join(decision.policies)
    if decision.allowed:
        return Rung("credential", True, f"{name} may be issued ({by})", "")
    found = f"{name} may not be issued: {by or ' '.join(decision.reasons)}"
    return Rung("credential", False, found, "")


def _answer(
    question: Question,
    rungs: list[Rung],
    explanation: Explanation | None,
    assumed: list[str],
    policy_version: int,
) -> ExplainAnswer:
    allowed = all(each.passed for each in rungs)
    person = question.person
    decision = None if explanation is None else explanation.decision
    return ExplainAnswer(
        allowed=allowed,
        outcome="not_decided" if decision is None else decision.code.value,
        agent=question.agent.entry.name,
        user=None if person is None else person.login,
        tool=question.qualified,
        at=moment(question.at_ms),
        checks=[
            RungItem(check=each.check, passed=each.passed, found=each.found, remedy=each.remedy)
            for each in rungs
        ],
        policies=[] if explanation is None else [_item(each) for each in explanation.decided_by],
        nearest=[] if explanation is None else [_item(each) for each in explanation.nearest],
        reasons=[] if decision is None else list(decision.reasons),
        failed_conditions=[] if decision is None else list(decision.failed_conditions),
        changes=None if allowed else _changes(rungs, explanation, person),
        assumed=assumed,
        policy_version=policy_version,
    )


def _changes(
    rungs: list[Rung], explanation: Explanation | None, person: PersonFacts | None
) -> list[str] | None:
    """All that is missing, or None where something is for which no remedy is known."""
    policy: tuple[str, ...] | None = None
    if explanation is not None:
        policy = () if explanation.decision.allowed else explanation.changes
    others = [each for each in rungs if not each.passed and each.check != POLICY]
    if policy is None or not all(each.remedy for each in others):
        return None
    named = [
        text if person is None else text.replace("the person", person.login, 1) for text in policy
    ]
    return list(dict.fromkeys([*(each.remedy for each in others), *named]))


def _item(note: PolicyNote) -> PolicyItem:
    return PolicyItem(
        id=note.id,
        document=note.document,
        line=note.line,
        effect="permit" if note.is_grant else "forbid",
        conditions=list(note.conditions),
        scope=note.scope,
    )

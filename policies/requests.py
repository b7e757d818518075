"""One request as the engine takes it: entities in Cedar's JSON form, and the context.

Ids travel as values inside JSON, never as Cedar text. Every entity a policy can look at is always
sent: `has` and `in` on a missing one are quietly false. Two things are left out when no applicable
policy reads them: fields of `context.input` and tags of `context.args`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import cedarpy
import msgspec

from policies.arguments import tag_at, tags, typed_record
from policies.entities import AgentFacts, CallRequest, IssueRequest, RunFacts, ToolFacts, UserFacts
from policies.input_types import RecordType
from policies.schema import (
    ACTION_CALL_TOOL,
    ACTION_ISSUE,
    ACTION_USE,
    TypedTool,
    action_above,
)

Json: TypeAlias = dict[str, Any]

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_THIS: Final = "this"  # the id of the entities that exist once in every request


@dataclass(frozen=True, slots=True)
class ArgumentNeeds:
    """What of the arguments the applicable policies read; None means all of it."""

    fields: frozenset[str] | None
    pointers: frozenset[str] | None
    unmapped: bool


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What one evaluation gets."""

    request: Json
    entities: cedarpy.Entities


def call_request(
    call: CallRequest, tool: TypedTool, base: cedarpy.Entities, needs: ArgumentNeeds
) -> EngineRequest:
    """A tool call on top of the parsed entities of its agent, user and tool."""
    typed, args = judged_arguments(call.arguments, tool.input, needs)
    run = run_entities(call.run, call.user, call.now_ms)
    entities = base.with_added_json_str(_text([*run, args]))
    return EngineRequest(tool_request(call.agent, tool.facts, typed), entities)


def judged_arguments(
    arguments: Mapping[str, object], of: RecordType, needs: ArgumentNeeds
) -> tuple[Json, Json]:
    """`context.input`, and the `ToolArgs` entity, as far as they are read."""
    unmapped: set[str] = set()
    wanted = arguments
    if needs.fields is not None and not needs.unmapped:
        wanted = {name: arguments[name] for name in needs.fields if name in arguments}
    typed = typed_record(wanted, of, "", unmapped)
    if needs.pointers is None:
        found = tags(arguments)
    else:
        each = {pointer: tag_at(arguments, pointer) for pointer in needs.pointers}
        found = {pointer: tag for pointer, tag in each.items() if tag is not None}
    attributes = {"unmapped": sorted(unmapped) if needs.unmapped else []}
    return typed, _entity("ToolArgs", _THIS, attributes) | {"tags": found}


def tool_request(agent: AgentFacts, tool: ToolFacts, typed: Json) -> Json:
    """The engine's request for a tool."""
    return _request(
        agent,
        tool.id,
        _uid("Tool", tool.id),
        {"run": _reference("RunContext"), "args": _reference("ToolArgs"), "input": typed},
    )


def issue_request(issue: IssueRequest, base: cedarpy.Entities) -> EngineRequest:
    """The issue of a credential on top of the parsed entities of agent, user and provider."""
    run = run_entities(issue.run, issue.user, issue.now_ms)
    grant = {
        "ttl": issue.ttl_seconds,
        "scopes": list(issue.scopes),
        "audience": issue.audience,
        "details_name_server": issue.details_name_server,
    }
    provider = _uid("CredentialProvider", issue.provider)
    context = {"run": _reference("RunContext"), "grant": grant}
    entities = base.with_added_json_str(_text(run))
    return EngineRequest(_request(issue.agent, ACTION_ISSUE, provider, context), entities)


def listing_entities(
    tools: Iterable[TypedTool], run: RunFacts, user: UserFacts | None, now_ms: int
) -> list[Json]:
    """The tools of a list, and a run without arguments: no policy asked then reads them."""
    found = [entity for tool in tools for entity in tool_entities(tool)]
    args = _entity("ToolArgs", _THIS, {"unmapped": []})
    return [*found, *run_entities(run, user, now_ms), args]


def parsed(entities: Iterable[Json], schema: cedarpy.Schema) -> cedarpy.Entities:
    """Entities checked against the schema, in a handle that does not carry all its actions.

    Raises:
        ValueError: an entity does not conform.
    """
    text = _text(list({_identity(each): each for each in entities}.values()))
    cedarpy.Entities.from_json_str(text, schema)
    return cedarpy.Entities.from_json_str(text)


def who_entities(agent: AgentFacts, user: UserFacts | None) -> list[Json]:
    """The agent with its groups, and the user with theirs."""
    attributes = {"environment": agent.environment, "level": agent.level, "method": agent.method}
    found = _with_parents(_entity("Agent", agent.name, attributes), "AgentGroup", agent.groups)
    if user is not None:
        logged_in = None if user.auth_time is None else _instant(user.auth_time * 1000)
        person = {"acr": user.acr, "auth_time": logged_in}
        found += _with_parents(_entity("User", user.id, person), "Group", user.groups or ())
    return found


def tool_entities(tool: TypedTool) -> list[Json]:
    """The tool, its server, its action and everything above them."""
    facts = tool.facts
    attributes = {
        "name": facts.name,
        "read_only": facts.read_only,
        "sensitivity": facts.sensitivity,
    }
    return [
        *_with_parents(_entity("Tool", facts.id, attributes), "McpServer", [facts.server]),
        _action(facts.id, action_above(facts)),
        _action(action_above(facts), ACTION_CALL_TOOL),
        _action(ACTION_CALL_TOOL, ACTION_USE),
        _action(ACTION_USE),
    ]


def provider_entities(provider: str, provider_type: str, server: str) -> list[Json]:
    """A credential provider in the server it issues for."""
    entity = _entity("CredentialProvider", provider, {"type": provider_type})
    return [
        *_with_parents(entity, "McpServer", [server]),
        _action(ACTION_ISSUE, ACTION_USE),
        _action(ACTION_USE),
    ]


def run_entities(run: RunFacts, user: UserFacts | None, now_ms: int) -> list[Json]:
    """The run as one entity (cheaper for the engine than a record), and what it declares."""
    attributes = {
        "user": None if user is None else {"__entity": _uid("User", user.id)},
        "session": run.session,
        "invocation": run.invocation,
        "transaction": run.transaction,
        "purpose": run.purpose,
        "ticket": run.ticket,
        "chain_depth": len(run.chain),
        "chain": [{"__entity": _uid("Agent", name)} for name in run.chain],
        "chain_groups": [{"__entity": _uid("AgentGroup", name)} for name in run.chain_groups],
        "clock": {"now": _instant(now_ms), "weekday_utc": weekday_utc(now_ms)},
        "declared": _reference("Declared"),
    }
    if not all(isinstance(each, str) for pair in run.declared.items() for each in pair):
        raise TypeError("declared")
    declared = _entity("Declared", _THIS, {}) | {"tags": dict(run.declared)}
    return [_entity("RunContext", _THIS, attributes), declared]


def weekday_utc(now_ms: int) -> str:
    """The day of the week in UTC: Cedar cannot compute it."""
    return WEEKDAYS[_moment(now_ms).weekday()]


def _moment(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def _instant(at_ms: int) -> Json:
    text = _moment(at_ms).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    return {"__extn": {"fn": "datetime", "arg": text}}


def _request(agent: AgentFacts, action: str, resource: Json, context: Json) -> Json:
    return {
        "principal": _uid("Agent", agent.name),
        "action": _uid("Action", action),
        "resource": resource,
        "context": _text(context),
    }


def _uid(type_name: str, identifier: str) -> Json:
    return {"type": type_name, "id": identifier}


def _reference(type_name: str) -> Json:
    return {"__entity": _uid(type_name, _THIS)}


def _entity(type_name: str, identifier: str, attributes: Json) -> Json:
    """An entity; an attribute that is None is absent."""
    present = {name: value for name, value in attributes.items() if value is not None}
    return {"uid": _uid(type_name, identifier), "attrs": present, "parents": []}


def _action(name: str, *parents: str) -> Json:
    return _entity("Action", name, {}) | {"parents": [_uid("Action", each) for each in parents]}


def _with_parents(entity: Json, type_name: str, names: Iterable[str]) -> list[Json]:
    parents = [_uid(type_name, name) for name in names]
    return [entity | {"parents": parents}, *(_entity(type_name, name, {}) for name in names)]


def _identity(entity: Json) -> tuple[str, str]:
    return entity["uid"]["type"], entity["uid"]["id"]


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()

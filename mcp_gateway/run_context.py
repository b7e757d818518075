"""Step 5: what policies may read about this run, from the token and the call. Pure, no I/O.

Only feeds that exist: the token's session, invocation, chain and the person's declared purpose,
and what the agent says of its own run in `_meta["countersign/run"]`. That part is self-declared:
guards may read it, grants may not (docs/architecture.md). A feed that is absent is unknown, and
guards deny on unknown.
"""

from collections.abc import Mapping
from typing import Any, Final

from audit_log.event import PrincipalKind
from mcp_gateway.caller import Caller
from mcp_gateway.compiled_view import CatalogueTool
from mcp_gateway.inbound import ToolCall
from policies.entities import AgentFacts, CallRequest, RunFacts, UserFacts

RUN_KEY: Final = "countersign/run"
DECLARABLE: Final = ("task", "model", "step")
MAXIMUM_DECLARED_LENGTH: Final = 256


def call_request(caller: Caller, call: ToolCall, tool: CatalogueTool, now_ms: int) -> CallRequest:
    """All that policies may read about one call."""
    return CallRequest(
        agent=agent_facts(caller),
        user=user_facts(caller),
        run=run_facts(caller, call.meta),
        now_ms=now_ms,
        tool=tool.facts,
        arguments=call.arguments,
    )


def agent_facts(caller: Caller) -> AgentFacts:
    """The agent, as attested."""
    attestation = caller.claims.attn
    return AgentFacts(
        name=caller.agent.name,
        groups=caller.agent.groups,
        environment=caller.agent.environment,
        level=caller.level,
        method="none" if attestation is None else attestation.method,
    )


def user_facts(caller: Caller) -> UserFacts | None:
    """The person, if there is one: what the server's `person_attributes` let into the token."""
    if caller.kind is not PrincipalKind.AGENT_FOR_PERSON:
        return None
    context = caller.claims.uctx
    return UserFacts(
        id=caller.claims.sub,
        groups=None if context is None else context.groups,
        acr=None if context is None else context.acr,
        auth_time=None if context is None else context.auth_time,
    )


def run_facts(caller: Caller, meta: Mapping[str, Any]) -> RunFacts:
    """The run: proved parts from the token, declared parts from the call."""
    claims, context = caller.claims, caller.claims.uctx
    return RunFacts(
        session=claims.sid,
        invocation=claims.inv,
        transaction=claims.txn,
        chain=caller.chain,
        chain_groups=caller.chain_groups,
        purpose=None if context is None else context.purpose,
        ticket=None if context is None else context.ticket,
        declared=declared_run(meta),
    )


def declared_run(meta: Mapping[str, Any]) -> Mapping[str, str]:
    """The known words of `_meta["countersign/run"]`; anything odd counts as not declared."""
    declared = meta.get(RUN_KEY)
    if not isinstance(declared, dict):
        return {}
    return {
        key: value
        for key in DECLARABLE
        if isinstance(value := declared.get(key), str) and len(value) <= MAXIMUM_DECLARED_LENGTH
    }

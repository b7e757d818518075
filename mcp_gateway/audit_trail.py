"""What the gateway writes down: refusals, intents and outcomes, as `AuditEvent`s in the spool.

Intent first: `intent` raises when it cannot be written and the call does not happen. Outcomes and
refusals that cannot be written are reported in the log: the call is over or never was, and an
intent without outcome becomes `unknown` when the spool is recovered.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from audit_log.event import AuditEvent, EventType, Outcome, iso_timestamp, principal_kind
from audit_log.refusal_budgets import RefusalBudgets, with_left_out
from audit_log.spool import Spool, SpoolUnavailable
from mcp_gateway.caller import Caller, CallerRefusal
from mcp_gateway.clock import Clock
from mcp_gateway.compiled_view import Endpoint
from policies.decision import Decision
from registry.blocks import agents_of_chain
from token_exchange.claims import AccessTokenClaims
from token_exchange.identifiers import new_id

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")  # MCP tool names
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
NO_TOOL_NAME: Final = "(not a tool name)"
MAXIMUM_METHOD_LENGTH: Final = 16
MAXIMUM_PATH_LENGTH: Final = 256
MAXIMUM_DETAIL_LENGTH: Final = 512  # ours are sentences; what a stranger put into one is cut

_logger = structlog.get_logger(__name__)
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended. `status` is the HTTP status the agent saw, 0 when it saw none."""

    outcome: Outcome
    status: int
    error_code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """A decision on one call, made at `decided_at_ms`, and what of it the audit keeps."""

    decision_id: str
    decided_at_ms: int
    caller: Caller
    endpoint: Endpoint
    tool: str
    argument_digest: str
    decision: Decision
    snapshot_version: int
    policy_version: int


def argument_digest(arguments: Mapping[str, Any]) -> str:
    """`sha-256:<base64url>` of the arguments as JSON with sorted keys and no spaces."""
    digest = hashlib.sha256(_encode_sorted(arguments)).digest()
    return f"sha-256:{base64.urlsafe_b64encode(digest).rstrip(b'=').decode('ascii')}"


class AuditTrail:
    """Writes the gateway's events; every method is one event."""

    def __init__(self, spool: Spool, *, clock: Clock, random: Callable[[int], bytes]) -> None:
        """Take the spool, the time (Unix seconds) and the source of event ids."""
        self._spool = spool
        self._clock = clock
        self._random = random
        self._budgets = RefusalBudgets()

    async def intent(self, intent: Intent) -> None:
        """The decision, before anything leaves.

        Raises:
            SpoolUnavailable: not written; refuse the call.
        """
        decision = intent.decision
        event = self._event(
            EventType.CALL_DECIDED,
            Outcome.ALLOWED if decision.allowed else Outcome.DENIED,
            **_intent_fields(intent),
            policy_matched=decision.policies,
            reasons=decision.reasons,
            failed_conditions=decision.failed_conditions,
            error_code=None if decision.allowed else str(decision.code),
        )
        await self._spool.record(event)

    def outcome(self, intent: Intent, result: CallResult, latency_ms: float) -> None:
        """How an allowed call ended."""
        event = self._event(
            EventType.CALL_FINISHED,
            result.outcome,
            **_intent_fields(intent),
            status=result.status or None,
            error_code=result.error_code,
            detail=result.detail,
            latency_ms=round(latency_ms, 3),
        )
        self._write(event)

    def call_refused(
        self,
        caller: Caller,
        endpoint: Endpoint,
        *,
        status: int,
        code: str,
        detail: str,
        tool: str | None = None,
        decision_id: str | None = None,
        method: str = "POST",
    ) -> None:
        """A request of a known caller that came to no decision."""
        left_out = self._budgets.admit(_key("proved", caller.claims), self._clock())
        if left_out is None:
            return
        event = self._event(
            EventType.CALL_REFUSED,
            Outcome.DENIED,
            **_caller_fields(caller.claims),
            target_service=endpoint.server.name,
            tool=NO_TOOL_NAME if tool and TOOL_NAME.fullmatch(tool) is None else tool,
            decision_id=decision_id,
            request_method=method,
            request_path=endpoint.path,
            status=status,
            error_code=code,
            detail=detail,
            left_out=left_out,
        )
        self._write(event)

    def stream_closed(self, caller: Caller, endpoint: Endpoint, reason: str) -> None:
        """A listening stream that a revocation or a newer snapshot ended."""
        event = self._event(
            EventType.STREAM_CLOSED,
            Outcome.REVOKED,
            **_caller_fields(caller.claims),
            target_service=endpoint.server.name,
            request_method="GET",
            request_path=endpoint.path,
            error_code=reason,
        )
        self._write(event)

    def not_accepted(self, method: str, path: str, status: int, detail: str) -> None:
        """A request of nobody in particular that was not served at all."""
        left_out = self._budgets.admit(None, self._clock())
        if left_out is None:
            return
        event = self._event(
            EventType.CALL_REFUSED,
            Outcome.DENIED,
            request_method=_printable(method[:MAXIMUM_METHOD_LENGTH]),
            request_path=_printable(path[:MAXIMUM_PATH_LENGTH]),
            status=status,
            error_code="not_accepted",
            detail=detail,
            left_out=left_out,
        )
        self._write(event)

    def caller_refused(
        self, endpoint: Endpoint, refusal: CallerRefusal, method: str = "POST"
    ) -> None:
        """A token that was not accepted; its claims only if they were verified.

        Whoever presents a token of ours without its key, again, or after it was revoked is no
        stranger: no flood of requests without a token can hide that. Nor can it use up what the
        token's rightful owner has.
        """
        presented = None if refusal.claims is None else _key("presented", refusal.claims)
        left_out = self._budgets.admit(presented, self._clock())
        if left_out is None:
            return
        fields = {} if refusal.claims is None else _caller_fields(refusal.claims)
        event = self._event(
            EventType.CALLER_REFUSED,
            Outcome.REVOKED if refusal.is_revoked else Outcome.DENIED,
            **fields,
            target_service=endpoint.server.name,
            request_method=method,
            request_path=endpoint.path,
            status=refusal.status,
            error_code=refusal.error or "no_token",
            detail=refusal.detail,
            left_out=left_out,
        )
        self._write(event)

    def _event(
        self,
        kind: EventType,
        outcome: Outcome,
        *,
        detail: str | None = None,
        left_out: int = 0,
        **fields: Any,  # noqa: ANN401 - the struct names them
    ) -> AuditEvent:
        said = None if detail is None else _printable(detail[:MAXIMUM_DETAIL_LENGTH])
        return AuditEvent(
            event_id=new_id("evt", self._random),
            timestamp=iso_timestamp(self._clock()),
            type=kind,
            outcome=outcome,
            detail=with_left_out(said, left_out),
            **fields,
        )

    def _write(self, event: AuditEvent) -> None:
        try:
            self._spool.append(event)
        except SpoolUnavailable:
            _logger.critical("audit_event_not_written", type=event.type, decision=event.decision_id)


def _printable(text: str) -> str:
    """What strangers wrote, without what a terminal would obey or UTF-8 cannot say."""
    return _UNPRINTABLE.sub("?", text)


def _key(how: str, claims: AccessTokenClaims) -> str:
    """Whose budget it is: an agent's, for a person, so that none spends another's."""
    acting = claims.agent if claims.act is None else claims.act.agent
    return "\n".join((how, acting or "", claims.sub))


def _intent_fields(intent: Intent) -> dict[str, Any]:
    return {
        **_caller_fields(intent.caller.claims),
        "decision_id": intent.decision_id,
        "target_service": intent.endpoint.server.name,
        "tool": intent.tool,
        "argument_digest": intent.argument_digest,
        "request_method": "POST",
        "request_path": intent.endpoint.path,
        "snapshot_version": intent.snapshot_version,
        "policy_version": intent.policy_version,
    }


def _caller_fields(claims: AccessTokenClaims) -> dict[str, Any]:
    """Who it was, for whom: from verified claims only."""
    agents = agents_of_chain(claims.act, claims.agent)
    acting = claims.agent if claims.act is None else claims.act.agent
    return {
        "principal_kind": principal_kind(
            sub_profile=claims.sub_profile, has_actor=claims.act is not None
        ),
        "workload_svid": claims.sub if claims.act is None else claims.act.sub,
        "workload_type": None if claims.attn is None else claims.attn.method,
        "agent": acting,
        "user": claims.sub if claims.sub_profile == "user" else None,
        "actor_chain": agents,
        "client_id": claims.client_id,
        "presented_token_id": claims.jti,
        "invocation": claims.inv,
        "session": claims.sid,
        "consent": claims.gid,
        "transaction": claims.txn,
    }

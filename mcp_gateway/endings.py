"""How a call ends that does not end well: what the agent sees, and what is written down.

Each function answers through `Relay.end_with` where a reply may have begun, and returns the
`CallResult` for the outcome event; the others only build the answer.
"""

from typing import Final

import structlog

from audit_log.event import Outcome
from mcp_gateway import errors
from mcp_gateway.audit_trail import CallResult, Intent
from mcp_gateway.caller import INVALID_TOKEN, CallerRefusal
from mcp_gateway.ceiling import BeyondCeiling, MoreScopeNeeded
from mcp_gateway.compiled_view import Endpoint
from mcp_gateway.exchange_answer import ExchangeRefusal
from mcp_gateway.http_message import Answer
from mcp_gateway.inbound import ToolCall
from mcp_gateway.open_calls import EndedBy
from mcp_gateway.parts import Parts
from mcp_gateway.proof_memory import ProofsUnavailableError
from mcp_gateway.relay import Relay
from mcp_gateway.stages import Admitted, Approved
from mcp_gateway.upstream.protocol import UpstreamError, UpstreamFullError, UpstreamTimeoutError

_logger = structlog.get_logger(__name__)

NOT_PERMITTED: Final = "This call is not permitted."
_UPSTREAM_TEXTS: Final = {
    "too_many_sessions": "Too many sessions at this server are at work. Try again later.",
    "input_required": "The server asks for input, which this gateway does not relay.",
}
_UPSTREAM_STATUS: Final = {UpstreamTimeoutError: 504, UpstreamFullError: 503}
# RFC 8693 §2.2.2: what an authority says of a subject token it does not accept, such as one that
# was revoked a moment ago.
_TOKEN_REFUSED: Final = frozenset({"invalid_grant", "invalid_request"})


async def without_credential(
    refusal: ExchangeRefusal, approved: Approved, relay: Relay
) -> CallResult:
    """The authority decides for itself; its no is final here."""
    intent, call = approved.intent, approved.call
    if refusal.code == "access_denied":
        data = errors.denial_data(intent.decision_id, "not_permitted", retryable=False)
        status = await relay.end_with(errors.denial(call.id, NOT_PERMITTED, data))
        return CallResult(Outcome.DENIED, status, refusal.code, refusal.description)
    if refusal.code in _TOKEN_REFUSED:
        # The authority no longer accepts the agent's token, whatever we know of it so far.
        text = "The token is no longer accepted."
        claims = intent.caller.claims
        problem = CallerRefusal(401, INVALID_TOKEN, text, refusal.description, claims)
        status = await relay.end_with(errors.challenge(intent.endpoint, problem))
        return CallResult(Outcome.DENIED, status, refusal.code, refusal.description)
    text = "The server's credential could not be obtained."
    code = errors.CREDENTIAL_UNAVAILABLE
    answer = errors.failed(503, call.id, code, text, intent.decision_id)
    status = await relay.end_with(answer)
    return CallResult(Outcome.FAILED, status, refusal.code, refusal.description)


async def interrupted(reason: EndedBy, approved: Approved, relay: Relay) -> CallResult:
    """A call that was interrupted: what the agent sees, and its outcome."""
    intent, request_id = approved.intent, approved.call.id
    if reason is EndedBy.DISCONNECTED:
        return CallResult(Outcome.CANCELLED, 0, reason)
    if reason is EndedBy.CANCELLED:  # MCP 2025-11-25, cancellation: no response is sent
        return CallResult(Outcome.CANCELLED, await relay.end_silently(), reason)
    if reason is EndedBy.REVOKED:
        text = "The token was revoked."
        claims = intent.caller.claims
        problem = CallerRefusal(401, INVALID_TOKEN, text, text, claims, is_revoked=True)
        status = await relay.end_with(errors.challenge(intent.endpoint, problem, request_id))
        return CallResult(Outcome.REVOKED, status, reason)
    if reason is EndedBy.EXPIRED:
        text = "The token has expired."
        problem = CallerRefusal(401, INVALID_TOKEN, text, text, intent.caller.claims)
        status = await relay.end_with(errors.challenge(intent.endpoint, problem, request_id))
        return CallResult(Outcome.FAILED, status, reason)
    if reason is EndedBy.WITHDRAWN:
        text = "The call is no longer permitted."
        answer = errors.failed(403, request_id, errors.CALL_ENDED, text, intent.decision_id)
        return CallResult(Outcome.REVOKED, await relay.end_with(answer), reason)
    text = "The gateway ended the call."
    answer = errors.failed(503, request_id, errors.CALL_ENDED, text, intent.decision_id)
    return CallResult(Outcome.CANCELLED, await relay.end_with(answer), reason)


async def without_reply(error: UpstreamError, approved: Approved, relay: Relay) -> CallResult:
    """The server could not be asked, did not answer, or not in a way the agent can be told."""
    status = _UPSTREAM_STATUS.get(type(error), 502)
    text = _UPSTREAM_TEXTS.get(error.code, "The server did not answer properly.")
    decision_id = approved.intent.decision_id
    answer = errors.failed(status, approved.call.id, errors.UPSTREAM_FAILED, text, decision_id)
    return CallResult(Outcome.FAILED, await relay.end_with(answer), error.code, str(error) or None)


async def withheld(approved: Approved, relay: Relay) -> CallResult:
    """The reply had the credential in it."""
    text, decision_id = "The server's reply was withheld.", approved.intent.decision_id
    answer = errors.failed(502, approved.call.id, errors.REPLY_WITHHELD, text, decision_id)
    return CallResult(Outcome.FAILED, await relay.end_with(answer), "credential_echoed")


def beyond(
    problem: MoreScopeNeeded | BeyondCeiling,
    call: ToolCall,
    decision_id: str,
    admitted: Admitted,
    parts: Parts,
) -> Answer:
    """Step 4's refusals: a challenge where consent would help, otherwise a plain no."""
    if isinstance(problem, MoreScopeNeeded):
        answer = errors.insufficient_scope(admitted.endpoint, call.id, decision_id)
        code = "insufficient_scope"
    else:
        data = errors.denial_data(decision_id, "not_permitted", retryable=False)
        answer = errors.denial(call.id, NOT_PERMITTED, data)
        code = "beyond_ceiling"
    parts.audit.call_refused(
        admitted.caller,
        admitted.endpoint,
        status=answer.status,
        code=code,
        detail=problem.detail,
        tool=call.name,
        decision_id=decision_id,
    )
    return answer


def denied(call: ToolCall, intent: Intent) -> Answer:
    """A policy's no."""
    decision = intent.decision
    category = decision.category or "not_permitted"
    data = errors.denial_data(
        intent.decision_id,
        category,
        # Without a remedy the same call will be denied again.
        retryable=bool(decision.remedies) or category in {"quota", "temporarily_blocked"},
        remedies=decision.remedies,
    )
    return errors.denial(call.id, " ".join(decision.reasons) or NOT_PERMITTED, data)


def without_memory(
    error: ProofsUnavailableError, admitted: Admitted, parts: Parts, method: str
) -> Answer:
    """Step 2: nothing is wrong with the token; it may be tried again, with another proof."""
    text = "The use of the proof cannot be recorded, so the call was not made."
    claims, code = admitted.caller.claims, "proof_memory_unavailable"
    refusal = CallerRefusal(503, code, text, str(error), claims)
    parts.audit.caller_refused(admitted.endpoint, refusal, method)
    _logger.error(code, endpoint=admitted.endpoint.audience, reason=str(error))
    return errors.failed(503, None, errors.AUDIT_UNAVAILABLE, text, None)


def refused_caller(refusal: CallerRefusal, endpoint: Endpoint, parts: Parts, method: str) -> Answer:
    """Step 2's refusals."""
    parts.audit.caller_refused(endpoint, refusal, method)
    return errors.challenge(endpoint, refusal)

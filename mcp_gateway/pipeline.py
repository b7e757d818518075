"""One tool call, from the first header to the last byte. Read this file first.

 1 Accept       size, time, host, origin, form                          admission, asgi
 2 Caller       token → who, for whom, with which key                    caller, caller_cache
 3 ToolCall     headers and body agree, decoded once; era and session    inbound, eras
 4 Ceiling      scope ∩ details ∩ Agent.tools ∩ approved catalogue       ceiling
 5 Run context  what policies may read                                   run_context
 6 Decide       Cedar; every error denies                                decisions
 7 Intent       the decision is in the spool before anything leaves      audit_trail
 8 Credential   RFC 8693 at the authority                                exchange_client
 9 Forward      the judged call out, the reply back as bytes             forward, relay
10 Outcome      a second event with the same decision id, on every way out

Nothing reaches back: each step takes the frozen value of the one before. A revocation may strike
at any await: `open_calls` interrupts the call, and what was read before an await is read again
after it.
"""

import asyncio

import structlog

from audit_log.event import Outcome
from audit_log.spool import SpoolUnavailable
from mcp_gateway import errors
from mcp_gateway.admission import NotAccepted, accept
from mcp_gateway.against_definition import against_definition
from mcp_gateway.answers import answered, body_refused
from mcp_gateway.audit_trail import CallResult, Intent, argument_digest
from mcp_gateway.caller import (
    Caller,
    CallerRefusal,
    Presented,
    presented,
    prove_possession,
    standing_problem,
    use_once,
)
from mcp_gateway.ceiling import ceiling
from mcp_gateway.compiled_view import CatalogueTool
from mcp_gateway.credential import Credential
from mcp_gateway.echo_guard import CredentialEchoError, EchoGuard
from mcp_gateway.endings import (
    beyond,
    denied,
    interrupted,
    refused_caller,
    withheld,
    without_credential,
    without_memory,
    without_reply,
)
from mcp_gateway.enforcement import NotServing
from mcp_gateway.eras.entry import Served, entered
from mcp_gateway.eras.legacy import LegacyMessage
from mcp_gateway.eras.recognition import understand
from mcp_gateway.eras.session_requests import serve_session_request
from mcp_gateway.exchange_answer import ExchangeRefusal
from mcp_gateway.exchange_client import BINDING_RUN, CredentialNeed
from mcp_gateway.forward import forwarded_call
from mcp_gateway.http_message import Answer, BodyProblem, Headers, InboundRequest, Reply
from mcp_gateway.inbound import Message, ToolCall
from mcp_gateway.open_calls import EndedBy, OpenCall
from mcp_gateway.parts import Parts
from mcp_gateway.proof_memory import ProofsUnavailableError
from mcp_gateway.relay import Relay, send
from mcp_gateway.run_context import call_request
from mcp_gateway.stages import Admitted, Approved
from mcp_gateway.standing import overtaken_by
from mcp_gateway.upstream.protocol import UpstreamError
from token_exchange.identifiers import new_id

_logger = structlog.get_logger(__name__)

DECODED_ON_THE_LOOP_BYTES = 65_536  # about 15 ms at worst; what is longer goes to a thread
_UNAUTHORIZED = 401


async def handle(request: InboundRequest, reply: Reply, parts: Parts) -> None:
    """Serve one request at the MCP route."""
    admitted = await _admit(request, parts)  # 1, 2
    if isinstance(admitted, Answer):
        await send(reply, admitted)
        return
    if request.method != "POST":  # the legacy era listens (GET) and ends its session (DELETE)
        await serve_session_request(request, admitted, reply, parts)
        return
    body = await request.read_body()  # 1: its size and time
    if isinstance(body, BodyProblem):
        await send(reply, body_refused(body, admitted, parts))
        return
    if len(body) > DECODED_ON_THE_LOOP_BYTES:  # 3: the message, in the era it speaks
        message = await asyncio.to_thread(understand, request.headers, body)
    else:
        message = understand(request.headers, body)
    admitted = _standing(presented(request.headers), request, parts)
    if isinstance(admitted, Answer):
        await send(reply, admitted)
        return
    if isinstance(message, LegacyMessage):  # 3: its session; then it is served like any other
        with entered(message, admitted, reply, parts) as (said, legacy_reply):
            await _serve(said, None, admitted, legacy_reply, parts)
    else:
        await _serve(message, request.headers, admitted, reply, parts)


async def _admit(request: InboundRequest, parts: Parts) -> Admitted | Answer:
    """Steps 1 and 2, as far as the headers go."""
    view = parts.enforcement.serving()
    if isinstance(view, NotServing):
        parts.audit.not_accepted(request.method, request.path, 503, view.value)
        return errors.not_serving(view)
    endpoint = accept(request, view)
    if isinstance(endpoint, NotAccepted):
        problem = endpoint.status, endpoint.description
        parts.audit.not_accepted(request.method, request.path, *problem)
        return errors.not_accepted(endpoint)
    offered = presented(request.headers)
    admitted = _standing(offered, request, parts)
    if isinstance(admitted, Answer) or isinstance(offered, CallerRefusal):
        return admitted
    return await _proved(offered, admitted, request, parts)


async def _proved(
    offered: Presented, admitted: Admitted, request: InboundRequest, parts: Parts
) -> Admitted | Answer:
    """The end of step 2: the key is here, and its proof was never used."""
    now, endpoint = int(parts.clock()), admitted.endpoint
    proof = prove_possession(
        offered, admitted.caller, method=request.method, endpoint=endpoint, now=now
    )
    if proof is None:
        return admitted
    if isinstance(proof, CallerRefusal):
        return refused_caller(proof, endpoint, parts, request.method)
    try:
        replay = await use_once(proof, admitted.caller, parts.proofs, now)
    except ProofsUnavailableError as error:  # not known to be unused: fail closed
        return without_memory(error, admitted, parts, request.method)
    if replay is not None:
        return refused_caller(replay, endpoint, parts, request.method)
    return _standing(offered, request, parts)  # a revocation may have come meanwhile


def _standing(
    offered: Presented | CallerRefusal, request: InboundRequest, parts: Parts
) -> Admitted | Answer:
    """Who is calling where, under the snapshot and the blocks of this very moment."""
    view = parts.enforcement.serving()
    if isinstance(view, NotServing):
        return errors.not_serving(view)
    endpoint = view.endpoints.get(request.path)
    if endpoint is None:
        return errors.not_accepted(NotAccepted(404, "There is no such endpoint."))
    if isinstance(offered, CallerRefusal):
        return refused_caller(offered, endpoint, parts, request.method)
    now = int(parts.clock())
    caller = parts.callers.resolve(offered, endpoint, view, now)
    if isinstance(caller, Caller):
        problem = standing_problem(caller, parts.enforcement.blocks, now)
        if problem is None:
            return Admitted(view, endpoint, caller)
        caller = problem
    return refused_caller(caller, endpoint, parts, request.method)


async def _serve(
    message: Message | Served,
    headers: Headers | None,
    admitted: Admitted,
    reply: Reply,
    parts: Parts,
) -> None:
    """What is left of the way; `headers` None: the era mirrors nothing in them."""
    if isinstance(message, ToolCall):
        await _call(message, headers, admitted, reply, parts)
    else:
        await send(reply, await answered(message, admitted, parts))


async def _call(
    call: ToolCall, headers: Headers | None, admitted: Admitted, reply: Reply, parts: Parts
) -> None:
    """Steps 4 to 10."""
    started_at = parts.monotonic()
    decision_id = new_id("dec", parts.random)
    tool = ceiling(admitted.caller, admitted.endpoint, call.name)  # 4
    if not isinstance(tool, CatalogueTool):
        await send(reply, beyond(tool, call, decision_id, admitted, parts))
        return
    rejection = against_definition(call, tool, headers)  # 3, what needs the definition
    if rejection is not None:
        await send(reply, await answered(rejection, admitted, parts))
        return
    intent = _decided(call, tool, decision_id, admitted, parts)  # 5, 6
    try:
        await parts.audit.intent(intent)  # 7
    except SpoolUnavailable:
        _logger.critical("audit_intent_not_written", decision=decision_id)
        text = "The call cannot be recorded, so it was not made."
        await send(reply, errors.failed(503, call.id, errors.AUDIT_UNAVAILABLE, text, decision_id))
        return
    if intent.decision.allowed:
        approved = Approved(call, tool, intent, admitted.view, started_at)
        await _carry_out(approved, reply, parts)  # 8, 9, 10
    else:
        await send(reply, denied(call, intent))


def _decided(
    call: ToolCall, tool: CatalogueTool, decision_id: str, admitted: Admitted, parts: Parts
) -> Intent:
    """Steps 5 and 6: no await between reading the view and deciding on it."""
    caller, view = admitted.caller, admitted.view
    now_ms = int(parts.clock() * 1000)
    return Intent(
        decision_id=decision_id,
        decided_at_ms=now_ms,
        caller=caller,
        endpoint=admitted.endpoint,
        tool=call.name,
        argument_digest=argument_digest(call.arguments),
        decision=parts.decisions.decide(view, call_request(caller, call, tool, now_ms)),
        snapshot_version=view.view.version,
        policy_version=view.view.policies.version,
    )


async def _carry_out(approved: Approved, reply: Reply, parts: Parts) -> None:
    """Steps 8 to 10. INVARIANT: whatever happens in here, exactly one outcome is written."""
    relay = Relay(reply, approved.call.id)
    result = CallResult(Outcome.FAILED, 0, "internal_error")
    try:
        result = await _interruptible(approved, relay, reply, parts)
    except asyncio.CancelledError:
        result = CallResult(Outcome.CANCELLED, 0, "cancelled")
        raise
    finally:
        latency_ms = (parts.monotonic() - approved.started_at) * 1000
        parts.audit.outcome(approved.intent, result, latency_ms)


async def _interruptible(
    approved: Approved, relay: Relay, reply: Reply, parts: Parts
) -> CallResult:
    caller = approved.intent.caller
    deadline = asyncio.timeout(caller.claims.exp - parts.clock())  # no call outlives its token
    open_call = OpenCall(approved, deadline)
    try:
        async with deadline:
            with parts.open_calls.registered(open_call):
                reply.on_closed(open_call.peer_left)
                reply.on_cancelled(open_call.cancelled)
                if open_call.ended_by is not None:  # cancelled before it was open
                    await asyncio.sleep(0)  # interrupted here, before anything leaves
                if (overtaken := overtaken_by(approved, parts)) is not None:
                    return await interrupted(overtaken, approved, relay)
                return await _deliver(approved, relay, parts)
    except TimeoutError:
        if not deadline.expired():
            raise
        return await interrupted(open_call.ended_by or EndedBy.EXPIRED, approved, relay)


async def _deliver(approved: Approved, relay: Relay, parts: Parts) -> CallResult:
    """Steps 8 and 9, and what an agent sees when they fail."""
    need = CredentialNeed.of(approved.intent)
    try:
        credential = await parts.exchange.credential_for(need)  # 8
        if isinstance(credential, ExchangeRefusal):
            return await without_credential(credential, approved, relay)
        return await _forward(approved, need, credential, relay, parts)  # 9
    except CredentialEchoError:
        _logger.critical("credential_echoed", server=need.server.name)
        return await withheld(approved, relay)
    except UpstreamError as error:
        return await without_reply(error, approved, relay)


async def _forward(
    approved: Approved, need: CredentialNeed, credential: Credential, relay: Relay, parts: Parts
) -> CallResult:
    """Step 9. An upstream that refuses a cached credential gets one fresh one."""
    may_renew = need.server.credential.binding == BINDING_RUN
    while True:
        request = forwarded_call(approved.call, approved.tool, need.server, credential)
        async with parts.upstream.post(request) as upstream:
            if upstream.status != _UNAUTHORIZED or not may_renew:
                return await relay.pass_on(upstream, EchoGuard(credential.traces))
        may_renew = False
        renewed = await parts.exchange.renewed(need, credential)
        if isinstance(renewed, ExchangeRefusal):
            return await without_credential(renewed, approved, relay)
        credential = renewed

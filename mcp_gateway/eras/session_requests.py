"""GET and DELETE on a legacy session (streamable HTTP, "Listening for Messages", "Session").

Admitted like every request (steps 1 and 2); then the session, as for a POST. GET opens the one
listening stream of the session: head at once, a comment every `KEEP_ALIVE_SECONDS`, and
`notifications/tools/list_changed` when the tools, the policy or the agent changed. Nothing else is
ever sent: there is nothing to resume, and the gateway asks the agent for nothing. It ends with the
token, with a revocation, when a newer snapshot would not admit its caller, with its session and
when a newer one takes its place. DELETE ends the session and whatever is open in it.
"""

import asyncio
from typing import Final

from mcp_gateway.answers import answered
from mcp_gateway.eras.legacy import SESSION_HEADER, headers_problem
from mcp_gateway.eras.sealed_session import Session
from mcp_gateway.http_message import Answer, Headers, InboundRequest, RawHeaders, Reply
from mcp_gateway.inbound import INVALID_REQUEST, Rejection
from mcp_gateway.open_calls import EndedBy, OpenStream
from mcp_gateway.parts import Parts
from mcp_gateway.relay import STREAM_HEADERS, send
from mcp_gateway.routing_headers import PROTOCOL_VERSION_HEADER
from mcp_gateway.stages import Admitted
from mcp_gateway.standing import hold_stream_against

KEEP_ALIVE_SECONDS: Final = 15.0  # proxies cut what is silent for 30 or 60
LAST_WORD_SECONDS: Final = 1.0  # for a reader to take the end of its stream
LIST_CHANGED: Final = (
    b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n'
)
_NO_CONTENT: Final = 204
_SECURITY_ENDS: Final = frozenset({EndedBy.REVOKED, EndedBy.WITHDRAWN})


async def serve_session_request(
    request: InboundRequest, admitted: Admitted, reply: Reply, parts: Parts
) -> None:
    """Serve a GET or DELETE of an admitted caller."""
    session = _session_of(request.headers, admitted, parts)
    if isinstance(session, Session) and request.method == "GET":
        if parts.sessions.may_listen(session):
            await _listen(session, admitted, reply, parts)
            return
        session = Rejection(429, INVALID_REQUEST, "Too many streams are open.")
    if isinstance(session, Rejection):
        await send(reply, await answered(session, admitted, parts, method=request.method))
        return
    parts.sessions.end(session.uid)
    await send(reply, Answer(_NO_CONTENT, ((b"cache-control", b"no-store"),), b""))


def _session_of(headers: Headers, admitted: Admitted, parts: Parts) -> Session | Rejection:
    problem = headers_problem(headers)
    if problem is not None:
        return Rejection(400, INVALID_REQUEST, problem)
    return parts.sessions.enter(
        headers.first(SESSION_HEADER),
        headers.first(PROTOCOL_VERSION_HEADER),
        admitted.caller,
        admitted.endpoint,
        int(parts.clock()),
    )


async def _listen(session: Session, admitted: Admitted, reply: Reply, parts: Parts) -> None:
    caller = admitted.caller
    deadline = asyncio.timeout(caller.claims.exp - parts.clock())  # no stream outlives its token
    stream = OpenStream(caller, admitted.endpoint, admitted.view, deadline, asyncio.Event())
    try:
        async with deadline:
            with (
                parts.open_calls.listening(stream),
                parts.sessions.listening(session, stream),
            ):
                reply.on_closed(lambda: stream.end(EndedBy.DISCONNECTED))
                hold_stream_against(stream, parts)  # what came since it was admitted
                if stream.ended_by is not None:
                    await asyncio.sleep(0)  # interrupted here
                await _keep_telling(session, stream, reply, parts)
    except TimeoutError:
        if not deadline.expired():
            raise
    if stream.ended_by in _SECURITY_ENDS:
        parts.audit.stream_closed(stream.caller, stream.endpoint, stream.ended_by)
    await _finish(reply)


async def _keep_telling(session: Session, stream: OpenStream, reply: Reply, parts: Parts) -> None:
    """Until interrupted. A write waits for a slow reader, and one mark waits for the write."""
    headers: RawHeaders = STREAM_HEADERS
    await reply.start(200, headers)
    await reply.write(b": listening\n\n")
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await stream.has_news.wait()
        except TimeoutError:
            parts.sessions.touch(session, parts.clock())
            await reply.write(b": keep-alive\n\n")
            continue
        stream.has_news.clear()
        await reply.write(LIST_CHANGED)


async def _finish(reply: Reply) -> None:
    """End the stream cleanly if its reader takes the end; else it is cut."""
    try:
        async with asyncio.timeout(LAST_WORD_SECONDS):
            if not reply.is_started:
                await reply.start(200, STREAM_HEADERS)
            await reply.finish()
    except TimeoutError:
        reply.abort()

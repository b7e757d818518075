"""Where a legacy message becomes one the pipeline knows: its session, then the modern message.

`entered` gives the pipeline the message to serve and the reply to serve it to. A session that is
not the caller's is a `Rejection` like any other, so it is audited and answered in the same place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mcp_gateway import errors
from mcp_gateway.eras.legacy import (
    METHOD_CANCELLED,
    SESSION_HEADER,
    Cancel,
    Initialize,
    LegacyMessage,
    Ping,
)
from mcp_gateway.eras.legacy_reply import LegacyReply
from mcp_gateway.eras.sealed_session import Session
from mcp_gateway.forward import CLIENT_INFO_KEY
from mcp_gateway.http_message import Answer, Reply
from mcp_gateway.inbound import ListTools, Notification, Rejection, ToolCall
from mcp_gateway.listing import SERVER_VERSION
from mcp_gateway.parts import Parts
from mcp_gateway.stages import Admitted

Served = ToolCall | ListTools | Initialize | Ping | Notification | Rejection


@contextmanager
def entered(
    message: LegacyMessage, admitted: Admitted, reply: Reply, parts: Parts
) -> Iterator[tuple[Served, Reply]]:
    """The message to serve and the reply that speaks the agent's era, while it is served."""
    said = message.said
    if isinstance(said, Initialize):
        yield said, LegacyReply(reply)
        return
    session = parts.sessions.enter(
        message.sealed_id,
        message.version,
        admitted.caller,
        admitted.endpoint,
        int(parts.clock()),
    )
    if isinstance(session, Rejection):
        yield session, LegacyReply(reply)
    elif isinstance(said, ToolCall):
        with parts.sessions.in_flight(session, said.id) as in_flight:
            if isinstance(in_flight, Rejection):
                yield in_flight, LegacyReply(reply)
            else:
                yield _in_session(said, session), LegacyReply(reply, in_flight)
    elif isinstance(said, Cancel):
        parts.sessions.cancel(session, said.request_id)
        yield Notification(METHOD_CANCELLED), LegacyReply(reply)
    else:
        yield said, LegacyReply(reply)


def initialized(request: Initialize, admitted: Admitted, parts: Parts) -> Answer | Rejection:
    """A session, and what this endpoint offers in it: tools, and word of their change."""
    endpoint, now = admitted.endpoint, int(parts.clock())
    sealed_id = parts.sessions.begin(
        admitted.caller, endpoint, request.version, request.client, now
    )
    if isinstance(sealed_id, Rejection):
        return sealed_id
    result = {
        "protocolVersion": request.version,
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": endpoint.server.name, "version": SERVER_VERSION},
    }
    answer = errors.rpc_result(request.id, result)
    return replace(answer, headers=(*answer.headers, (SESSION_HEADER, sealed_id.encode("ascii"))))


def pong(request: Ping) -> Answer:
    """The sign of life."""
    return errors.rpc_result(request.id, {})


def _in_session(call: ToolCall, session: Session) -> ToolCall:
    """The call with what its client said of itself at `initialize`, as a modern call has it."""
    if session.client is None:
        return call
    client = {"name": session.client.name, "version": session.client.version}
    return replace(call, meta={**call.meta, CLIENT_INFO_KEY: client})

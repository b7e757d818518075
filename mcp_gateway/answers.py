"""What is answered from here: everything that is no tool call, and what is refused before one.

No upstream is asked. Every refusal of a known caller is written down here, in one place.
"""

from mcp_gateway import errors
from mcp_gateway.eras.entry import Served, initialized, pong
from mcp_gateway.eras.legacy import Initialize, Ping
from mcp_gateway.http_message import Answer, BodyProblem
from mcp_gateway.inbound import Discover, ListTools, Message, Notification, Rejection
from mcp_gateway.listing import discovered, listed_tools
from mcp_gateway.parts import Parts
from mcp_gateway.stages import Admitted


async def answered(
    message: Message | Served, admitted: Admitted, parts: Parts, *, method: str = "POST"
) -> Answer:
    """The complete answer to a message; `method` is the HTTP request's, for the audit."""
    if isinstance(message, Initialize):
        begun = initialized(message, admitted, parts)
        if isinstance(begun, Answer):
            return begun
        message = begun
    if isinstance(message, Rejection):
        return _refused(message, admitted, parts, method)
    if isinstance(message, Notification):
        return errors.accepted()
    if isinstance(message, Ping):
        return pong(message)
    if isinstance(message, ListTools):
        now_ms = int(parts.clock() * 1000)
        view, endpoint, caller = admitted.view, admitted.endpoint, admitted.caller
        return await listed_tools(message, caller, endpoint, view, now_ms)
    assert isinstance(message, Discover)  # noqa: S101 - for the type checker: all others are done
    return discovered(message, admitted.endpoint)


def body_refused(problem: BodyProblem, admitted: Admitted, parts: Parts) -> Answer:
    """A body that did not arrive, or not within its limits."""
    parts.audit.call_refused(
        admitted.caller,
        admitted.endpoint,
        status=problem.status,
        code="body",
        detail=problem.description,
    )
    return errors.not_accepted(problem)


def _refused(rejection: Rejection, admitted: Admitted, parts: Parts, method: str) -> Answer:
    parts.audit.call_refused(
        admitted.caller,
        admitted.endpoint,
        status=rejection.status,
        code=str(rejection.code),
        detail=rejection.detail or rejection.message,
        method=method,
    )
    return errors.rejected(rejection)

"""Step 3, the rest of the ladder: for it the tool's approved definition is needed. Pure.

`Mcp-Param-*` headers equal their arguments, and no two members, at any depth of the arguments,
differ only in case.
"""

from mcp_gateway.argument_names import is_ambiguous
from mcp_gateway.compiled_view import CatalogueTool
from mcp_gateway.http_message import Headers
from mcp_gateway.inbound import HEADER_MISMATCH, INVALID_PARAMS, Rejection, ToolCall
from mcp_gateway.routing_headers import mismatched_parameter


def against_definition(
    call: ToolCall, tool: CatalogueTool, headers: Headers | None
) -> Rejection | None:
    """Why a call does not fit the definition; `headers` None: its era mirrors no argument."""
    if headers is not None:
        problem = mismatched_parameter(tool.parameters, call.arguments, headers)
        if problem is not None:
            return Rejection(400, HEADER_MISMATCH, problem, call.id)
    if is_ambiguous(call.arguments, tool.entry.definition.get("inputSchema")):
        message = "An argument differs from another only in case."
        return Rejection(400, INVALID_PARAMS, message, call.id)
    return None

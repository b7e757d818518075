"""Step 3, the rest of the ladder: for it the tool's approved definition is needed. Pure.

`Mcp-Param-*` headers equal their arguments; no two members, at any depth of the arguments, differ
only in case, and there are few enough to tell.
"""

from mcp_gateway.argument_names import problem_of_names
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
    problem = problem_of_names(call.arguments, tool.entry.definition.get("inputSchema"))
    return None if problem is None else Rejection(400, INVALID_PARAMS, problem, call.id)

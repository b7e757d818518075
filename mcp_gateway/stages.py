"""The frozen values that the steps of the pipeline hand on; each says what has been proved."""

from dataclasses import dataclass

from mcp_gateway.audit_trail import Intent
from mcp_gateway.caller import Caller
from mcp_gateway.compiled_view import CatalogueTool, CompiledView, Endpoint
from mcp_gateway.inbound import ToolCall


@dataclass(frozen=True, slots=True)
class Admitted:
    """A caller at an endpoint, under one view: steps 1 and 2 were passed."""

    view: CompiledView
    endpoint: Endpoint
    caller: Caller


@dataclass(frozen=True, slots=True)
class Approved:
    """A call that was decided, allowed and recorded: steps 3 to 7 were passed.

    It was decided under `view`; `started_at` counts monotonic seconds.
    """

    call: ToolCall
    tool: CatalogueTool
    intent: Intent
    view: CompiledView
    started_at: float

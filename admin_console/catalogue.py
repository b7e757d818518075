"""The tool catalogue: what servers offer, and approving it."""

from datetime import datetime
from typing import Annotated, Any, Final

from anyio import to_thread
from pydantic import Field

from admin_console.objects import moment
from admin_console.operation import AdminCall
from admin_console.wire import Wire
from audit_log.event import EventType, Outcome
from registry.catalogue_tools import CatalogueTool
from registry.offered_tools import MAXIMUM_TOOLS_PER_SERVER
from registry.server_reports import ServerReport

# A thousand names of at most 128 characters, and their digests.
MAXIMUM_APPROVAL_BYTES: Final = 262_144

Digest = Annotated[str, Field(min_length=1, max_length=128)]


class ToolItem(Wire):
    """One tool: `state` is observed, approved, changed or gone.

    `read_only` and `sensitivity` are what the operator declared, not what the server says.
    """

    name: str
    state: str
    observed_digest: str | None
    definition: dict[str, Any] | None
    approved_digest: str | None
    approved_definition: dict[str, Any] | None
    approved_by: str | None
    approved_at: datetime | None
    read_only: bool
    sensitivity: int


class ReportItem(Wire):
    """What a Gateway last found of a server: `error` is why its tools could not be seen.

    `since`: the first report in a row that said so. `era`: modern or legacy, empty when unknown.
    """

    gateway: str
    error: str
    era: str
    reported_at: datetime
    since: datetime


class CatalogueAnswer(Wire):
    """Every tool known of a server, and what the Gateways last found of it."""

    server: str
    tools: list[ToolItem]
    reports: list[ReportItem]


class ApproveBody(Wire):
    """Tools to approve: name → `observed_digest` of the definition that was looked at."""

    tools: dict[str, Digest] = Field(min_length=1, max_length=MAXIMUM_TOOLS_PER_SERVER)


class ApproveAnswer(Wire):
    """Tools whose approval is new, and what the newest policy set still waits for."""

    approved: list[str]
    policy_state: str
    waiting_for: list[str]


async def list_tools(call: AdminCall) -> CatalogueAnswer:
    """Observed and approved tools of a server."""
    server = call.path["server"]
    found = await to_thread.run_sync(call.parts.catalogue.list, server)
    reports = await to_thread.run_sync(call.parts.server_reports.all)
    return CatalogueAnswer(
        server=server,
        tools=[_item(tool) for tool in found],
        reports=[_report(each) for each in reports if each.server == server],
    )


async def approve_tools(call: AdminCall) -> ApproveAnswer:
    """Publish the definitions that were looked at; a conflict when the server changed one since."""
    server = call.path["server"]
    approved = await call.parts.catalogue.approve(
        server, call.body_as(ApproveBody).tools, call.author
    )
    await call.parts.live.refresh_after_commit()
    for name in approved:
        await call.record(
            EventType.CATALOGUE_CHANGED,
            Outcome.SUCCEEDED,
            object_ref=f"McpServer/{server}",
            target_service=server,
            tool=f"{server}/{name}",
            reasons=("approved",),
        )
    after = await to_thread.run_sync(call.parts.registry.policy_state)
    return ApproveAnswer(
        approved=list(approved), policy_state=after.state, waiting_for=list(after.waiting_for)
    )


def _item(tool: CatalogueTool) -> ToolItem:
    return ToolItem(
        name=tool.name,
        state=tool.state.value,
        observed_digest=tool.digest,
        definition=tool.definition,
        approved_digest=tool.approved_digest,
        approved_definition=tool.approved_definition,
        approved_by=tool.approved_by,
        approved_at=None if tool.approved_at_ms is None else moment(tool.approved_at_ms),
        read_only=tool.read_only,
        sensitivity=tool.sensitivity,
    )


def _report(report: ServerReport) -> ReportItem:
    return ReportItem(
        gateway=report.gateway,
        error=report.error,
        era=report.era,
        reported_at=moment(report.reported_at_ms),
        since=moment(report.since_ms),
    )

"""How the tools of one server stand: what it offers, what was approved, what the operator says."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection

from registry.object_rows import stored_object
from registry.objects import ToolOverride
from registry.tool_definitions import ToolStatus, definitions_of

_NO_OVERRIDE: Final = ToolOverride()


class ToolState(StrEnum):
    """Where a tool stands."""

    OBSERVED = "observed"  # offered, never approved
    APPROVED = "approved"
    CHANGED = "changed"  # approved, but the server now offers another definition
    GONE = "gone"  # no longer offered


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """One tool: `definition` is what the server offers, `approved_definition` what we publish.

    `read_only` and `sensitivity` are the operator's word, never the server's.
    """

    server: str
    name: str
    state: ToolState
    digest: str | None
    definition: dict[str, Any] | None
    approved_digest: str | None
    approved_definition: dict[str, Any] | None
    approved_by: str | None
    approved_at_ms: int | None
    read_only: bool
    sensitivity: int


def tools_as_they_stand(
    connection: Connection, server: str, statuses: Mapping[str, ToolStatus]
) -> tuple[CatalogueTool, ...]:
    """Every tool of `statuses`, with its definitions and the operator's word on it."""
    definitions = definitions_of(connection, server)
    overrides = _overrides(connection, server)
    return tuple(
        CatalogueTool(
            server=server,
            name=name,
            state=_state(status),
            digest=status.observed_digest,
            definition=definitions.get((name, status.observed_digest or "")),
            approved_digest=status.approved_digest,
            approved_definition=definitions.get((name, status.approved_digest or "")),
            approved_by=status.approved_by,
            approved_at_ms=status.approved_at_ms,
            read_only=overrides.get(name, _NO_OVERRIDE).read_only,
            sensitivity=overrides.get(name, _NO_OVERRIDE).sensitivity,
        )
        for name, status in statuses.items()
    )


def _overrides(connection: Connection, server: str) -> dict[str, ToolOverride]:
    declared = stored_object(connection, "McpServer", server)
    tools = {} if declared is None else declared.spec.get("tools", {})
    return {name: ToolOverride.model_validate(each) for name, each in tools.items()}


def _state(status: ToolStatus) -> ToolState:
    if status.observed_digest is None:
        return ToolState.GONE
    if status.approved_digest is None:
        return ToolState.OBSERVED
    if status.approved_digest == status.observed_digest:
        return ToolState.APPROVED
    return ToolState.CHANGED

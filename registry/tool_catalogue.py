"""The tool catalogue: what servers offer, and which of it an operator approved.

Gateways report the definitions they list. A tool is published (listed and callable) only in the
version that was approved; a definition that changes afterwards is not what was approved and waits
for review. With `approve: first_seen` the first definition of a name is approved by itself, a
changed one never. Every approval is followed by the policies: a set that waited for the tool may
become live, and a tool whose schema breaks the live set is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection

from database.engine import Database
from registry.counters import REGISTRY_VERSION, next_value
from registry.declared import SettingsModels
from registry.object_rows import stored_object
from registry.policy_activation import PolicyCompiler, PolicyRefusedError, activate_policies
from registry.policy_compiler import compile_policies
from registry.policy_sets import newest_documents
from registry.publisher import compile_snapshot
from registry.tool_definitions import (
    ToolStatus,
    definitions_of,
    statuses_of,
    store_observed,
    update_status,
)
from registry.tool_digest import MAXIMUM_DEFINITION_BYTES, canonical_definition, tool_digest

MAXIMUM_TOOLS_PER_SERVER: Final = 1_000
TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")  # as `registry.objects.ToolPattern`
FIRST_SEEN_AUTHOR: Final = "approve:first_seen"


class ToolState(StrEnum):
    """Where a tool stands."""

    OBSERVED = "observed"  # offered, never approved
    APPROVED = "approved"
    CHANGED = "changed"  # approved, but the server now offers another definition
    GONE = "gone"  # no longer offered


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """One tool: `definition` is what the server offers, `approved_definition` what we publish."""

    server: str
    name: str
    state: ToolState
    digest: str | None
    definition: dict[str, Any] | None
    approved_digest: str | None
    approved_definition: dict[str, Any] | None
    approved_by: str | None
    approved_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a report: names approved now, and names that were refused as tools."""

    approved: tuple[str, ...]
    refused: tuple[str, ...]
    changed: bool


class UnknownServerError(LookupError):
    """No McpServer of that name is declared."""


class UnknownToolError(LookupError):
    """The server offers no tool of that name."""


class ToolCatalogue:
    """Observed and approved tools in the database."""

    def __init__(
        self,
        database: Database,
        *,
        issuer: str,
        settings_models: SettingsModels,
        clock: Callable[[], float],
        compiler: PolicyCompiler = compile_policies,
    ) -> None:
        self._database = database
        self._issuer = issuer
        self._settings_models = settings_models
        self._clock = clock
        self._compiler = compiler

    async def observe(self, server: str, tools: Sequence[Mapping[str, Any]]) -> Observation:
        """Take in the whole list a gateway saw. Nothing new costs no write.

        Raises:
            UnknownServerError: `server` is not declared.
        """
        offered, refused = _offered(tools)
        before = self._database.read(lambda connection: self._statuses(connection, server))
        if _is_known(before, offered):
            return Observation(_approved(before), refused, changed=False)
        after = await self._database.write(
            lambda connection: self._take_in(connection, server, offered)
        )
        return Observation(_approved(after), refused, changed=True)

    async def approve(self, server: str, names: Sequence[str], author: str) -> tuple[str, ...]:
        """Approve what the server offers now; answers the names whose approval is new.

        Raises:
            UnknownServerError: `server` is not declared.
            UnknownToolError: It does not offer one of `names`; nothing was approved.
            PolicyRefusedError: The live policy set does not compile with these tools.
        """
        return await self._database.write(
            lambda connection: self._approve(connection, server, names, author)
        )

    def list(self, server: str) -> tuple[CatalogueTool, ...]:
        """Every tool known of a server.

        Raises:
            UnknownServerError: `server` is not declared.
        """
        return self._database.read(lambda connection: self._list(connection, server))

    def _list(self, connection: Connection, server: str) -> tuple[CatalogueTool, ...]:
        definitions = definitions_of(connection, server)
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
            )
            for name, status in self._statuses(connection, server).items()
        )

    @staticmethod
    def _statuses(connection: Connection, server: str) -> dict[str, ToolStatus]:
        if stored_object(connection, "McpServer", server) is None:
            raise UnknownServerError(f"McpServer {server!r} is not declared")
        return statuses_of(connection, server)

    def _take_in(
        self, connection: Connection, server: str, offered: Mapping[str, "_Offer"]
    ) -> dict[str, ToolStatus]:
        before = self._statuses(connection, server)
        now_ms = int(self._clock() * 1000)
        for name, offer in offered.items():
            store_observed(
                connection,
                before.get(name),
                server=server,
                name=name,
                digest=offer.digest,
                definition=offer.definition,
                at_ms=now_ms,
            )
        for name in before.keys() - offered.keys():
            update_status(connection, server, name, observed_digest=None)
        self._approve_first_seen(connection, server)
        return statuses_of(connection, server)

    def _approve_first_seen(self, connection: Connection, server: str) -> None:
        declared = stored_object(connection, "McpServer", server)
        if declared is None or declared.spec.get("approve") != "first_seen":
            return
        first = [
            name
            for name, status in statuses_of(connection, server).items()
            if status.approved_digest is None and status.observed_digest == status.first_digest
        ]
        if first and not self._approved_unless_refused(connection, server, first):
            for name in first:
                self._approved_unless_refused(connection, server, [name])

    def _approved_unless_refused(
        self, connection: Connection, server: str, names: Sequence[str]
    ) -> bool:
        """Approve `names`, or leave them observed when the live policies do not compile then."""
        savepoint = connection.begin_nested()
        try:
            self._approve(connection, server, names, FIRST_SEEN_AUTHOR)
        except PolicyRefusedError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def _approve(
        self, connection: Connection, server: str, names: Sequence[str], author: str
    ) -> tuple[str, ...]:
        statuses = self._statuses(connection, server)
        at_ms = int(self._clock() * 1000)
        new = []
        for name in dict.fromkeys(names):
            status = statuses.get(name)
            if status is None or status.observed_digest is None:
                raise UnknownToolError(f"{server} offers no tool {name!r}")
            if status.approved_digest != status.observed_digest:
                new.append(name)
                update_status(
                    connection,
                    server,
                    name,
                    approved_digest=status.observed_digest,
                    approved_by=author,
                    approved_at_ms=at_ms,
                )
        if new:
            self._publish(connection, author, at_ms)
        return tuple(new)

    def _publish(self, connection: Connection, author: str, at_ms: int) -> None:
        next_value(connection, REGISTRY_VERSION)
        after = compile_snapshot(
            connection, issuer=self._issuer, settings_models=self._settings_models
        )
        documents = newest_documents(connection)
        activate_policies(connection, documents, after, self._compiler, author=author, at_ms=at_ms)


@dataclass(frozen=True, slots=True)
class _Offer:
    definition: Mapping[str, Any]
    digest: str


def _offered(tools: Sequence[Mapping[str, Any]]) -> tuple[dict[str, _Offer], tuple[str, ...]]:
    """The acceptable definitions by name. A name offered twice is nobody's."""
    offered: dict[str, _Offer] = {}
    refused: set[str] = set()
    for position, tool in enumerate(tools):
        name = tool.get("name")
        if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
            refused.add(f"#{position}")
        elif name in offered or position >= MAXIMUM_TOOLS_PER_SERVER or not _is_acceptable(tool):
            refused.add(name)
        else:
            offered[name] = _Offer(tool, tool_digest(tool))
    for name in refused:
        offered.pop(name, None)
    return offered, tuple(sorted(refused))


def _is_acceptable(tool: Mapping[str, Any]) -> bool:
    if not isinstance(tool.get("inputSchema"), Mapping):
        return False
    return len(canonical_definition(tool)) <= MAXIMUM_DEFINITION_BYTES


def _is_known(before: Mapping[str, ToolStatus], offered: Mapping[str, _Offer]) -> bool:
    seen = {name: each.observed_digest for name, each in before.items() if each.observed_digest}
    return seen == {name: offer.digest for name, offer in offered.items()}


def _approved(statuses: Mapping[str, ToolStatus]) -> tuple[str, ...]:
    return tuple(name for name, each in statuses.items() if each.approved_digest is not None)


def _state(status: ToolStatus) -> ToolState:
    if status.observed_digest is None:
        return ToolState.GONE
    if status.approved_digest is None:
        return ToolState.OBSERVED
    if status.approved_digest == status.observed_digest:
        return ToolState.APPROVED
    return ToolState.CHANGED

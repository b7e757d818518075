"""The tool catalogue: what servers offer, and which of it an operator approved.

Gateways report the definitions they list. A tool is published (listed and callable) only in the
version that was approved; a definition that changes afterwards is not what was approved and waits
for review. An approval names the digest that was looked at: a server cannot change a definition
between the look and the approval. With `approve: first_seen` the first definition of a name is
approved by itself, a changed one never. Every approval is followed by the policies: a set that
waited for the tool may become live, and a tool whose schema breaks the live set is refused.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from database.engine import Database
from registry.catalogue_tools import CatalogueTool, tools_as_they_stand
from registry.counters import REGISTRY_VERSION, next_value
from registry.declared import SettingsModels
from registry.object_rows import stored_object
from registry.offered_tools import Offer, offered_tools
from registry.policy_activation import (
    Activated,
    PolicyCompiler,
    PolicyRefusedError,
    activate_policies,
    unrecorded,
)
from registry.policy_compiler import compile_policies
from registry.policy_sets import newest_documents
from registry.publisher import compile_snapshot
from registry.tool_definitions import (
    ToolStatus,
    forget_tool,
    statuses_of,
    store_observed,
    update_status,
)

FIRST_SEEN_AUTHOR: Final = "approve:first_seen"
# Of the list of one server: an operator who works on it changes it less often.
CHANGES_PER_MINUTE: Final = 12


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a report: names approved now, and names that were refused as tools."""

    approved: tuple[str, ...]
    refused: tuple[str, ...]
    changed: bool


class TooManyChangesError(Exception):
    """The reports about a server have changed more often than they are written down."""


class UnknownServerError(LookupError):
    """No McpServer of that name is declared."""


class UnknownToolError(LookupError):
    """The server offers no tool of that name."""


class ToolChangedError(Exception):
    """The server offers another definition of `names` than the approval is of."""

    def __init__(self, server: str, names: Sequence[str]) -> None:
        super().__init__(f"{server} offers other definitions now: {', '.join(names)}")
        self.server = server
        self.names = tuple(names)


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
        activated: Activated = unrecorded,
    ) -> None:
        """`activated` records that another policy set is live."""
        self._database = database
        self._issuer = issuer
        self._settings_models = settings_models
        self._clock = clock
        self._compiler = compiler
        self._activated = activated
        self._changes: dict[str, tuple[int, int]] = {}  # server → (minute, changes in it)

    async def observe(
        self,
        server: str,
        tools: Sequence[Mapping[str, Any]],
        *,
        before_change: Callable[[], Awaitable[object]] | None = None,
    ) -> Observation:
        """Take in the whole list a gateway saw. Nothing new costs no write.

        `before_change` is awaited before anything is written; when it raises, nothing is.

        Raises:
            UnknownServerError: `server` is not declared.
            TooManyChangesError: Its list changed too often this minute; nothing was written.
        """
        offered, refused = await offered_tools(tools)
        before = await self._database.fetch(lambda connection: self._statuses(connection, server))
        if _is_known(before, offered):
            return Observation(_approved(before), refused, changed=False)
        self._count_change(server)
        if before_change is not None:
            await before_change()
        after = await self._database.write(
            lambda connection: self._take_in(connection, server, offered)
        )
        return Observation(_approved(after), refused, changed=True)

    def _count_change(self, server: str) -> None:
        """A server that lists something else each time, or a gateway that says so, has to wait."""
        this_minute = int(self._clock()) // 60
        minute, changes = self._changes.get(server, (this_minute, 0))
        if minute != this_minute:
            changes = 0
        if changes >= CHANGES_PER_MINUTE:
            raise TooManyChangesError(server)
        self._changes[server] = (this_minute, changes + 1)

    async def approve(
        self, server: str, digests: Mapping[str, str], author: str
    ) -> tuple[str, ...]:
        """Approve tools in the definition of the given digest, by name; answers what is new.

        Raises:
            UnknownServerError: `server` is not declared.
            UnknownToolError: It does not offer one of the tools; nothing was approved.
            ToolChangedError: It offers another definition of one; nothing was approved.
            PolicyRefusedError: The live policy set does not compile with these tools.
        """
        return await self._database.write(
            lambda connection: self._approve(connection, server, digests, author)
        )

    def list(self, server: str) -> tuple[CatalogueTool, ...]:
        """Every tool known of a server.

        Raises:
            UnknownServerError: `server` is not declared.
        """
        return self._database.read(lambda connection: self._list(connection, server))

    def _list(self, connection: Connection, server: str) -> tuple[CatalogueTool, ...]:
        return tools_as_they_stand(connection, server, self._statuses(connection, server))

    @staticmethod
    def _statuses(connection: Connection, server: str) -> dict[str, ToolStatus]:
        if stored_object(connection, "McpServer", server) is None:
            raise UnknownServerError(f"McpServer {server!r} is not declared")
        return statuses_of(connection, server)

    def _take_in(
        self, connection: Connection, server: str, offered: Mapping[str, Offer]
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
            if before[name].approved_digest is None:
                forget_tool(connection, server, name)
            else:
                update_status(connection, server, name, observed_digest=None)
        self._approve_first_seen(connection, server)
        return statuses_of(connection, server)

    def _approve_first_seen(self, connection: Connection, server: str) -> None:
        declared = stored_object(connection, "McpServer", server)
        if declared is None or declared.spec.get("approve") != "first_seen":
            return
        first = {
            name: status.first_digest
            for name, status in statuses_of(connection, server).items()
            if status.approved_digest is None and status.observed_digest == status.first_digest
        }
        if first and not self._approved_unless_refused(connection, server, first):
            for name, digest in first.items():
                self._approved_unless_refused(connection, server, {name: digest})

    def _approved_unless_refused(
        self, connection: Connection, server: str, digests: Mapping[str, str]
    ) -> bool:
        """Approve these, or leave them observed when the live policies do not compile then."""
        savepoint = connection.begin_nested()
        try:
            self._approve(connection, server, digests, FIRST_SEEN_AUTHOR)
        except PolicyRefusedError:
            savepoint.rollback()
            return False
        savepoint.commit()
        return True

    def _approve(
        self, connection: Connection, server: str, digests: Mapping[str, str], author: str
    ) -> tuple[str, ...]:
        statuses = self._statuses(connection, server)
        _require_offered(server, statuses, digests)
        at_ms = int(self._clock() * 1000)
        new = [name for name in digests if statuses[name].approved_digest != digests[name]]
        for name in new:
            update_status(
                connection,
                server,
                name,
                approved_digest=digests[name],
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
        activate_policies(
            connection,
            documents,
            after,
            self._compiler,
            author=author,
            at_ms=at_ms,
            activated=self._activated,
        )


def _require_offered(
    server: str, statuses: Mapping[str, ToolStatus], digests: Mapping[str, str]
) -> None:
    """INVARIANT: what is approved is what was looked at, not what is offered by now."""
    offered = {name: status.observed_digest for name, status in statuses.items()}
    unknown = [name for name in digests if offered.get(name) is None]
    if unknown:
        raise UnknownToolError(f"{server} offers no tool {unknown[0]!r}")
    changed = [name for name, digest in digests.items() if offered[name] != digest]
    if changed:
        raise ToolChangedError(server, changed)


def _is_known(before: Mapping[str, ToolStatus], offered: Mapping[str, Offer]) -> bool:
    seen = {name: each.observed_digest for name, each in before.items() if each.observed_digest}
    return seen == {name: offer.digest for name, offer in offered.items()}


def _approved(statuses: Mapping[str, ToolStatus]) -> tuple[str, ...]:
    return tuple(name for name, each in statuses.items() if each.approved_digest is not None)

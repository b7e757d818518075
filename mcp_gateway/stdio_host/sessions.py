"""Who talks to which process: sessions, starts with growing pauses, ends.

A session of the host is a session of the gateway, which keeps one per whole identity. So where the
credential is personal (`per_principal`) each session has a process of its own, started with its
credential; elsewhere all sessions of a server share one process.

The gateway says whose each session is. One holder has at most half of the processes of a server and
`MAXIMUM_OF_HOLDER` sessions; their own unused ones make room first, beyond that they are refused.
"""

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.clock import Clock
from mcp_gateway.single_flight import SingleFlight
from mcp_gateway.stdio_host.declared import StdioServer
from mcp_gateway.stdio_host.messages import Request
from mcp_gateway.stdio_host.process import ProcessEndedError, StdioProcess
from mcp_gateway.stdio_host.process_tree import ProcessTree

MAXIMUM_SESSIONS: Final = 4096
MAXIMUM_OF_HOLDER: Final = 128
IDLE_SECONDS: Final = 900.0  # the gateway ends its own sooner; this is for one that died
YIELDS_SECONDS: Final = 60.0  # unused for so long, it makes room for somebody else's
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 10.0  # a process that lived this long did not fail to start
MAXIMUM_PAUSES: Final = 4096
SESSION_BYTES: Final = 24
LAST_SECONDS: Final = 10.0  # twice what a process gets to end

_logger = structlog.get_logger(__name__)
_Place = tuple[str, bytes]


class NotNowError(Exception):
    """No process can be had at the moment."""


@dataclass(slots=True, eq=False)
class HostSession:
    """One session. `numbers` finds the process's number of a caller's request id."""

    id: str = field(repr=False)
    server: StdioServer
    process: StdioProcess
    credential_digest: bytes = field(repr=False)
    used_at: float
    holder: str | None = None
    numbers: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Pause:
    failures: int
    until: float


class Sessions:
    """Every session and process of one host."""

    def __init__(
        self,
        servers: Mapping[str, StdioServer],
        tools: Mapping[str, str],
        monotonic: Clock,
        random: Callable[[int], str] = secrets.token_urlsafe,
        tree: ProcessTree | None = None,
    ) -> None:
        """Take what is declared and where the launching tools are.

        `tree` tells what servers leave behind; without one only their own groups end with them.
        """
        self._tree = tree or ProcessTree()
        self.servers = servers
        self._tools = tools
        self._monotonic = monotonic
        self._random = random
        self._sessions: dict[str, HostSession] = {}
        self._shared: dict[str, StdioProcess] = {}
        self._beginning: Counter[str | None] = Counter()  # sessions by holder, no session yet
        self._starting: Counter[tuple[str, str | None]] = Counter()  # by server and holder
        self._flights: SingleFlight[str] = SingleFlight()
        self._pauses: LeastRecentlyUsed[_Place, _Pause] = LeastRecentlyUsed(MAXIMUM_PAUSES)
        self._tasks: set[asyncio.Task[None]] = set()  # that read processes, and that end them

    def __len__(self) -> int:
        return len(self._sessions)

    async def begin(
        self,
        server: StdioServer,
        credential: str | None,
        greeting: Request,
        holder: str | None = None,
    ) -> HostSession:
        """A new session for the holder of `credential`.

        `holder` is whose share it counts against; None: the gateway's own.

        Raises:
            NotNowError: too many, or the server failed a moment ago, or does now.
        """
        if holder is not None:
            own = [each for each in self._sessions.values() if each.holder == holder]
            if len(own) + self._beginning[holder] >= MAXIMUM_OF_HOLDER:
                self._make_room(own, "one principal has too many sessions")
        if len(self._sessions) + self._beginning.total() >= MAXIMUM_SESSIONS:
            raise NotNowError("there are too many sessions")
        self._beginning[holder] += 1
        try:
            if server.per_principal:
                process = await self._own_process(server, credential, greeting, holder)
            else:
                process = await self._shared_process(server, greeting)
        finally:
            self._beginning[holder] -= 1
            if not self._beginning[holder]:
                del self._beginning[holder]
        name, digest = self._random(SESSION_BYTES), _digest(credential)
        session = HostSession(name, server, process, digest, self._monotonic(), holder)
        self._sessions[session.id] = session
        return session

    def find(
        self, session_id: str, server: StdioServer, credential: str | None
    ) -> HostSession | None:
        """The session, if its process still runs and works for this credential.

        A renewed credential ends it, for a process cannot be given another one.
        """
        session = self.get(session_id, server)
        if session is None:
            return None
        is_running = session.process.is_running
        if not is_running or session.credential_digest != _digest(credential):
            self.end(session)
            if not is_running and server.per_principal:
                self._note_end(session.process, session.credential_digest)
            return None
        session.used_at = self._monotonic()
        return session

    def get(self, session_id: str, server: StdioServer) -> HostSession | None:
        """The session, whatever it works for."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.server is server else None

    def end(self, session: HostSession) -> None:
        """Forget a session; a process of its own ends when its last call does."""
        self._sessions.pop(session.id, None)
        if session.server.per_principal:
            session.process.retire()

    def sweep(self) -> None:
        """End the sessions nobody used for long, and what servers left behind."""
        self._tree.end_strays()
        late = self._monotonic() - IDLE_SECONDS
        for session in [each for each in self._sessions.values() if each.used_at < late]:
            if not session.numbers:
                self.end(session)

    async def aclose(self) -> None:
        """End every process."""
        for process in {*self._shared.values(), *(s.process for s in self._sessions.values())}:
            process.end()
        self._sessions.clear()
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks, timeout=LAST_SECONDS)
            if not done:  # the kernel holds them; they die with us (`--pdeathsig`)
                _logger.error("stdio_servers_do_not_end", tasks=len(self._tasks))
                return

    async def _own_process(
        self, server: StdioServer, credential: str | None, greeting: Request, holder: str | None
    ) -> StdioProcess:
        running = [each for each in self._sessions.values() if each.server is server]
        place, share = (server.name, holder), max(1, server.maximum_processes // 2)
        own = [each for each in running if holder is not None and each.holder == holder]
        starting = sum(n for (name, _), n in self._starting.items() if name == server.name)
        if holder is not None and len(own) + self._starting[place] >= share:
            self._make_room(own, "one principal has too many processes")
        elif len(running) + starting >= server.maximum_processes:
            late = self._monotonic() - YIELDS_SECONDS
            long_unused = [each for each in running if each.used_at < late]
            self._make_room(long_unused, "there are too many processes")
        self._starting[place] += 1
        try:
            return await self._start(server, credential, greeting)
        finally:
            self._starting[place] -= 1
            if not self._starting[place]:
                del self._starting[place]

    def _make_room(self, sessions: Iterable[HostSession], otherwise: str) -> None:
        """End the one of them that is unused for longest."""
        unused = [each for each in sessions if not each.numbers]
        if not unused:
            raise NotNowError(otherwise)
        self.end(min(unused, key=lambda each: each.used_at))

    async def _shared_process(self, server: StdioServer, greeting: Request) -> StdioProcess:
        async with self._flights.of(server.name):
            process = self._shared.get(server.name)
            if process is None or not process.is_running:
                if self._shared.pop(server.name, None) is not None and process is not None:
                    self._note_end(process, b"")
                process = await self._start(server, None, greeting)
                self._shared[server.name] = process
            return process

    async def _start(
        self, server: StdioServer, credential: str | None, greeting: Request
    ) -> StdioProcess:
        place = (server.name, _digest(credential))
        pause = self._pauses.get(place)
        if pause is not None and self._monotonic() < pause.until:
            raise NotNowError("the server failed a moment ago")
        try:
            process = await StdioProcess.start(
                server,
                self._tools,
                credential,
                greeting,
                monotonic=self._monotonic,
                own=self._own,
                tree=self._tree,
            )
        except ProcessEndedError as error:
            self._failed(place)
            _logger.warning("stdio_server_did_not_start", server=server.name, why=str(error))
            raise NotNowError("the server did not start") from error
        _logger.info("stdio_server_started", server=server.name)
        return process

    def _note_end(self, process: StdioProcess, digest: bytes) -> None:
        """A process that ended by itself soon after its start failed; one that lived did not."""
        place = (process.server.name, digest)
        if self._monotonic() - process.started_at < STEADY_SECONDS:
            self._failed(place)
        else:
            self._pauses.drop(place)

    def _failed(self, place: _Place) -> None:
        known = self._pauses.get(place)
        failures = 0 if known is None else known.failures
        seconds = min(FIRST_PAUSE_SECONDS * float(1 << min(failures, 10)), LONGEST_PAUSE_SECONDS)
        self._pauses.put(place, _Pause(failures + 1, self._monotonic() + seconds))

    def _own(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _digest(credential: str | None) -> bytes:
    return b"" if credential is None else hashlib.sha256(credential.encode()).digest()

"""`countersign serve`: one authorization server and one gateway process, kept running.

The two meet over loopback HTTP exactly as they would apart. The supervisor starts the
authorization server, waits until the Gateway object it is to serve is declared, gets a join code
by the admin socket, hands it to the gateway process down an inherited pipe (never in an argument
or the environment), restarts what dies, and drains the gateway before the authorization server.
It makes no decision and holds no key.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from countersign.admin_client import AdminClient, AdminError
from countersign.kept_process import KeptProcess
from countersign.settings import ServeSettings, environment_for_child

_logger = structlog.get_logger(__name__)

PR_SET_PDEATHSIG: Final = 1
POLL_SECONDS: Final = 0.1
LAST_JOIN_BACKOFF_SECONDS: Final = 60.0
WAITING: Final = "waiting for the Gateway object"
ADMIN_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 5.0
ENROLMENT_FILE: Final = "enrolment.json"


class Supervisor:
    """Owns both children from start to drain."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        workers = str(settings.gateway_workers)
        self._options = {"mcp-gateway": ("--workers", workers)}
        self._killed = False

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; 1 when a child had to be killed, else 0.

        A child that cannot start at all, for a reason it has told itself, ends both: its status.

        The gateway drains first: its last audit events still need the authorization server.

        Raises:
            OSError: The first process of a child could not be made; the other has been drained.
        """
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        authority = asyncio.create_task(self._keep("authz-server", _nothing))
        gateway = asyncio.create_task(self._keep("mcp-gateway", self._join_code))
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((authority, gateway, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, gateway, authority):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        failed = [task.result() for task in (authority, gateway) if not task.cancelled()]
        return failed[0] if failed else int(self._killed)

    async def _keep(self, name: str, join_code: Callable[[], Awaitable[str | None]]) -> int:
        """Run a child; returns only when its first start failed: the status."""

        async def start() -> asyncio.subprocess.Process:
            return await _start(name, await join_code(), *self._options.get(name, ()))

        drain_seconds = self._settings.shutdown_seconds + GRACE_SECONDS
        child = KeptProcess(name, start, self._clock, drain_seconds)
        try:
            return await child.run()
        finally:
            self._killed = self._killed or child.was_forced

    async def _join_code(self) -> str | None:
        """A join code for a gateway that is not enrolled yet; waits for its Gateway object."""
        said: str | None = None
        pause = POLL_SECONDS
        while not (self._settings.state_dir / ENROLMENT_FILE).exists():
            try:
                code = await asyncio.to_thread(self._request_join_code)
            except AdminError as error:
                if error.code != "unreachable":
                    # Each attempt is audited: a refusal that stays is asked about ever more rarely.
                    pause = min(LAST_JOIN_BACKOFF_SECONDS, pause * 2)
                    if said != error.description:
                        said = error.description
                        _logger.warning("gateway.join_refused", code=error.code, reason=said)
            else:
                pause = POLL_SECONDS
                if code is not None:
                    return code
                if said != WAITING:
                    said = WAITING
                    _logger.info("gateway.waiting_for_object", gateway=self._settings.gateway)
            await asyncio.sleep(pause)
        return None

    def _request_join_code(self) -> str | None:
        """A code, or None while the Gateway object is not declared. Asking is no change."""
        name = self._settings.gateway
        with AdminClient(
            self._settings.issuer,
            timeout_seconds=ADMIN_SECONDS,
            socket=self._settings.run_dir / "admin.sock",
        ) as admin:
            declared = admin.call("GET", "/gateways")["gateways"]
            if not any(gateway["name"] == name for gateway in declared):
                return None
            return str(admin.call("POST", f"/gateways/{name}/join")["join_code"])


async def _nothing() -> str | None:
    return None


async def _start(name: str, join_code: str | None, *options: str) -> asyncio.subprocess.Process:
    """Start `countersign NAME`; a join code goes down a pipe that only this child inherits."""
    arguments = [sys.executable, "-P", "-m", "countersign", name, *options]
    inherited: tuple[int, ...] = ()
    if join_code is not None:
        reading, writing = os.pipe()
        os.write(writing, join_code.encode())
        os.close(writing)
        arguments += ["--join-fd", str(reading)]
        inherited = (reading,)
    try:
        return await asyncio.create_subprocess_exec(
            *arguments,
            pass_fds=inherited,
            env=environment_for_child(),
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which drains in order
            preexec_fn=end_with_parent,
        )
    finally:
        for descriptor in inherited:
            os.close(descriptor)


def end_with_parent() -> None:
    """For the child: a supervisor that dies by force takes its children along (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

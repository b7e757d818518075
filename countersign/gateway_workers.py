"""Several workers of one gateway behind one port: starts them, restarts what dies, drains them.

The parent binds the port and enrols before there is any worker; the workers inherit the listening
socket, so a connection nobody has accepted yet is not lost with one of them. They share the
gateway's key and the directory of audit spools. The parent serves nothing and decides nothing.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

import structlog

from countersign.settings import McpGatewaySettings, environment_for_child
from countersign.supervisor import (
    FIRST_BACKOFF_SECONDS,
    HEALTHY_SECONDS,
    LAST_BACKOFF_SECONDS,
    end_with_parent,
)

GRACE_SECONDS: Final = 4.0  # less than `serve` gives us

_logger = structlog.get_logger(__name__)


class GatewayWorkers:
    """Owns the worker processes from start to drain."""

    def __init__(
        self, settings: McpGatewaySettings, listener: socket.socket, clock: Callable[[], float]
    ) -> None:
        """Take the socket they share; who opened it closes it."""
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._killed = False

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; 1 when a worker had to be killed, else 0.

        A worker that cannot start at all, for a reason it has told itself, ends all: its status.
        """
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        workers = [
            asyncio.create_task(self._keep(number))
            for number in range(self._settings.gateway_workers)
        ]
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((*workers, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, *workers):
                task.cancel()
            await asyncio.gather(stopped, *workers, return_exceptions=True)
        failed = [task.result() for task in workers if not task.cancelled()]
        return failed[0] if failed else int(self._killed)

    async def _keep(self, number: int) -> int:
        """Run one worker again and again; cancelling drains it.

        Returns only when its first start failed (not when somebody killed it): the status.
        """
        backoff, is_first = FIRST_BACKOFF_SECONDS, True
        while True:
            process = await self._start()
            started = self._clock()
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                await self._drain(process)
                raise
            if self._clock() - started > HEALTHY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            elif is_first and status > 0:
                _logger.error("worker.cannot_start", worker=number, status=status)
                return status
            is_first = False
            _logger.warning("worker.ended", worker=number, status=status, restart_seconds=backoff)
            await asyncio.sleep(backoff)
            backoff = min(LAST_BACKOFF_SECONDS, backoff * 2)

    async def _start(self) -> asyncio.subprocess.Process:
        shared = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "countersign", "mcp-gateway", "--listen-fd", str(shared)),
            pass_fds=(shared,),
            env=environment_for_child(),
            start_new_session=True,  # Ctrl-C reaches the parent alone
            preexec_fn=end_with_parent,
        )

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._settings.shutdown_seconds + GRACE_SECONDS):
                await process.wait()
        except TimeoutError:
            self._killed = True
            process.kill()
            await process.wait()

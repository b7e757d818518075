"""Several workers of one gateway behind one port: starts them, restarts what dies, drains them.

The parent binds the port and enrols before there is any worker; the workers inherit the listening
socket, so a connection nobody has accepted yet is not lost with one of them. They share the
gateway's key and the directory of audit spools. The parent serves nothing and decides nothing.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from countersign.kept_process import KeptProcess
from countersign.settings import McpGatewaySettings, environment_for_child
from countersign.supervisor import end_with_parent

GRACE_SECONDS: Final = 4.0  # less than `serve` gives us


class GatewayWorkers:
    """Owns the worker processes from start to drain."""

    def __init__(
        self, settings: McpGatewaySettings, listener: socket.socket, clock: Callable[[], float]
    ) -> None:
        """Take the socket they share; who opened it closes it."""
        self._settings = settings
        self._listener = listener
        self._clock = clock

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; 1 when a worker had to be killed, else 0.

        A worker that cannot start at all, for a reason it has told itself, ends all: its status.

        Raises:
            OSError: The first process of a worker could not be made; the others have been drained.
        """
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        drain_seconds = self._settings.shutdown_seconds + GRACE_SECONDS
        workers = [
            KeptProcess(f"worker-{number}", self._start, self._clock, drain_seconds)
            for number in range(1, self._settings.gateway_workers + 1)
        ]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((*running, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopped, *running):
                task.cancel()
            await asyncio.gather(stopped, *running, return_exceptions=True)
        failed = [task.result() for task in running if not task.cancelled()]
        return failed[0] if failed else int(any(worker.was_forced for worker in workers))

    async def _start(self) -> asyncio.subprocess.Process:
        shared = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "countersign", "mcp-gateway"),
            *("--listen-fd", str(shared)),
            pass_fds=(shared,),
            env=environment_for_child(),
            start_new_session=True,  # Ctrl-C reaches the parent alone
            preexec_fn=end_with_parent,
        )

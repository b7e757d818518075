"""One process of a stdio server: started, greeted, asked, ended.

Several callers may share it, so requests are numbered here, and each call has a queue of its own.
What the process asks is refused; what it says that belongs to no call is dropped; a line that is no
message is ignored. It is ended for a line over `MAXIMUM_LINE_BYTES` and for not reading what it is
sent: stdin closed, then SIGTERM, then SIGKILL to its process group and to whatever it started.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from mcp_gateway.clock import Clock
from mcp_gateway.stdio_host.declared import StdioServer, command_line, environment_for
from mcp_gateway.stdio_host.messages import (
    Message,
    Request,
    answer_for,
    decoded,
    line_of,
    note_for,
    notification,
    progress_of,
    refusal_of,
)
from mcp_gateway.stdio_host.process_tree import ProcessTree

MAXIMUM_LINE_BYTES: Final = 16_777_216
MAXIMUM_UNREAD_BYTES: Final = 16_777_216  # of what it was sent and does not read
MAXIMUM_NOTES: Final = 1_000  # that a caller has not taken yet; further ones are dropped
HANDSHAKE_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 2.0  # after closing stdin, and again after SIGTERM

OwnTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

_logger = structlog.get_logger(__name__)


class ProcessEndedError(Exception):
    """The process did not start, or ended before it answered."""


class Call:
    """One request under way: iterate over what is said to it, the answer last."""

    def __init__(self, request: Request) -> None:
        """Take the caller's request."""
        self.request = request
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_answered = False

    def note(self, params: Mapping[str, msgspec.Raw]) -> None:
        """Progress, if it was asked for and is taken."""
        token = self.request.token
        if token is None or self.is_answered or self._said.qsize() >= MAXIMUM_NOTES:
            return
        self._said.put_nowait(note_for(token, params))

    def answer(self, message: bytes | None) -> None:
        """The end; None when there will be no answer."""
        if not self.is_answered:
            self.is_answered = True
            self._said.put_nowait(message)

    async def messages(self) -> AsyncIterator[bytes]:
        """Notifications as they come, then the answer.

        Raises:
            ProcessEndedError: the process ended first.
        """
        while True:
            message = await self._said.get()
            if message is None:
                raise ProcessEndedError
            yield message
            if self.is_answered and self._said.empty():
                return


class StdioProcess:
    """A started process. `initialized` is its own answer to `initialize`, for every caller."""

    def __init__(
        self,
        server: StdioServer,
        process: asyncio.subprocess.Process,
        started_at: float,
        own: OwnTask,
        tree: ProcessTree,
    ) -> None:
        """Take a process whose pipes are ours, and who owns its tasks; `start` makes one."""
        self.server = server
        self._tree = tree
        self._own = own
        self.started_at = started_at
        self.initialized = Message()
        self._process = process
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._is_ending = False
        self._is_retired = False

    @classmethod
    async def start(
        cls,
        server: StdioServer,
        tools: Mapping[str, str],
        credential: str | None,
        greeting: Request,
        *,
        monotonic: Clock,
        own: OwnTask,
        tree: ProcessTree,
    ) -> "StdioProcess":
        """Start a process and shake hands; `greeting` is the first caller's `initialize`.

        Raises:
            ProcessEndedError: it does not run, or did not answer in time.
        """
        try:
            with tree.starting():
                process = await asyncio.create_subprocess_exec(
                    *command_line(server, tools),
                    cwd=server.working_directory,
                    env=environment_for(server, credential),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=None if server.keeps_stderr else asyncio.subprocess.DEVNULL,
                    limit=MAXIMUM_LINE_BYTES,
                    start_new_session=True,
                )
                tree.add(process.pid)
        except OSError as error:
            raise ProcessEndedError(error.strerror) from error
        started = cls(server, process, monotonic(), own, tree)
        own(started._read())
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await started._greet(greeting)
        except BaseException as error:
            started.end()
            if isinstance(error, TimeoutError):
                raise ProcessEndedError("no answer to initialize") from error
            raise
        return started

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return not self._is_ending and self._process.returncode is None

    def ask(self, request: Request) -> tuple[int, Call]:
        """Send a request; its number and what will be said to it.

        Raises:
            ProcessEndedError: it has ended, or does not read.
        """
        self._number += 1
        call = Call(request)
        self._write(line_of(request, self._number))
        self._calls[self._number] = call
        return self._number, call

    def leave(self, number: int) -> None:
        """Nobody waits for that call any more; without its answer it is cancelled."""
        call = self._calls.pop(number, None)
        if call is not None and not call.is_answered and self.is_running:
            params = {"requestId": number, "reason": "Nobody waits any more."}
            with suppress(ProcessEndedError):
                self._write(notification("notifications/cancelled", params))
        if self._is_retired and not self._calls:
            self.end()

    def retire(self) -> None:
        """End the process as soon as nobody waits for it."""
        self._is_retired = True
        if not self._calls:
            self.end()

    def end(self) -> None:
        """End the process now."""
        if not self._is_ending:
            self._is_ending = True
            self._own(self._end())

    async def _greet(self, greeting: Request) -> None:
        number, call = self.ask(greeting)
        message: Message | None = None
        try:
            async for body in call.messages():
                message = decoded(body)
        finally:
            self.leave(number)
        if message is None or not bytes(message.result):
            raise ProcessEndedError("initialize was answered with an error")
        self.initialized = message
        self._write(notification("notifications/initialized"))

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        if stdin is None or not self.is_running or stdin.is_closing():
            raise ProcessEndedError
        if stdin.transport.get_write_buffer_size() > MAXIMUM_UNREAD_BYTES:
            _logger.warning("stdio_server_does_not_read", server=self.server.name)
            self.end()
            raise ProcessEndedError
        stdin.write(line + b"\n")

    async def _read(self) -> None:
        stdout = self._process.stdout
        try:
            while stdout is not None and (line := await stdout.readline()):
                self._take(line.rstrip(b"\r\n"))
        except ValueError:
            _logger.warning("stdio_server_line_too_long", server=self.server.name)
        finally:
            for call in self._calls.values():
                call.answer(None)
            self.end()

    def _take(self, line: bytes) -> None:
        message = decoded(line) if line else None
        if message is None:
            return
        if message.method is None:
            call = self._calls.get(_number(message.raw_id))
            if call is not None and (bytes(message.result) or bytes(message.error)):
                call.answer(answer_for(call.request.id, message))
        elif message.raw_id:
            with suppress(ProcessEndedError):
                self._write(refusal_of(message))
        elif (progress := progress_of(message)) is not None:
            number, params = progress
            if (call := self._calls.get(number)) is not None:
                call.note(params)

    async def _end(self) -> None:
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await process.wait()
                break
            if number is signal.SIGKILL:
                self._tree.end_descendants(process.pid)
            _signal_group(process.pid, number)
        await process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # what it left behind
        self._tree.forget(process.pid)
        self._tree.end_strays()
        # A child that left the group may hold the pipes; asyncio closes them in no public way.
        process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001
        _logger.info("stdio_server_ended", server=self.server.name, code=process.returncode)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _number(raw_id: bytes) -> int:
    return int(raw_id) if raw_id.isdigit() and len(raw_id) < 16 else 0  # noqa: PLR2004 - far above any count

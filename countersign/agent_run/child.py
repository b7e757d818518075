"""The command of the run: started with a clean hand, reaped with its orphans, told our signals.

It inherits standard input, output and error, our environment plus the addresses, and no other
descriptor. Its process group is ours, so a terminal's job control works as if it were alone. A
signal to us is passed on, but for the terminal's own (Ctrl-C) while we are in the foreground: the
terminal has sent it to the command as well.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from countersign.agent_run.errors import AgentRunError

NOT_FOUND: Final = 127  # as a shell says it
NOT_EXECUTABLE: Final = 126
SIGNALLED: Final = 128
PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
FROM_THE_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGHUP})


class CannotStartError(AgentRunError):
    """The command is not there or cannot be executed. `exit_code` as a shell would give it."""

    def __init__(self, command: str, error: OSError) -> None:
        super().__init__("cannot_start", f"{command}: {error.strerror}")
        is_missing = isinstance(error, FileNotFoundError)
        self.exit_code = NOT_FOUND if is_missing else NOT_EXECUTABLE


class Child:
    """The running command. Make it inside the event loop's main thread."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command.

        Raises:
            CannotStartError: It is not there or cannot be executed.
        """
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self.asked_to_end = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in PASSED_ON:
            self._loop.add_signal_handler(number, self._pass_on, number)
        try:
            self._process = subprocess.Popen(command, env=dict(environment))  # noqa: S603 - the operator's own command
        except OSError as error:
            raise CannotStartError(command[0], error) from error
        self._reap()

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self._process.pid

    async def exit_code(self) -> int:
        """Wait for the end of the command: its exit code, or 128 and the signal's number."""
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """End the command for good."""
        self._send(signal.SIGKILL)

    def _pass_on(self, number: signal.Signals) -> None:
        if number in ENDING:
            self.asked_to_end.set()
        if not (number in FROM_THE_TERMINAL and _is_in_foreground()):
            self._send(number)

    def _send(self, number: signal.Signals) -> None:
        # Not reaped yet, so the number is nobody else's.
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _reap(self) -> None:
        """Take in whoever ended: the command, and orphans that fell to us."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid != self._process.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(found.si_pid, 0)
                continue
            code = self._process.wait()
            if not self._ended.done():
                self._ended.set_result(code if code >= 0 else SIGNALLED - code)


def _is_in_foreground() -> bool:
    """Whether a terminal of ours sends its signals to us and the command alike."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False

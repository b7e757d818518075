"""The demo agent (`agent.py`) as a child process that is spoken to over JSON lines."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any


class AgentProcessError(Exception):
    """The agent does not answer."""


class AgentProcess:
    """The demo agent as a child, spoken to over JSON lines."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log.open("wb")
        self.popen = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._answers: dict[int, list[dict[str, Any]]] = {}
        self._arrived = threading.Condition()
        self._next = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stdout: IO[bytes] | None = self.popen.stdout
        if stdout is None:
            return
        for line in stdout:
            answer = json.loads(line)
            with self._arrived:
                self._answers.setdefault(answer.pop("id"), []).append(answer)
                self._arrived.notify_all()

    def begin(self, do: str, **arguments: object) -> int:
        """Send a command; its id."""
        self._next += 1
        command = {"id": self._next, "do": do, **arguments}
        if self.popen.stdin is None:
            message = "the agent has no standard input"
            raise AgentProcessError(message)
        self.popen.stdin.write(json.dumps(command).encode() + b"\n")
        self.popen.stdin.flush()
        return self._next

    def answers(self, command: int) -> Iterator[dict[str, Any]]:
        """Everything said about a command, to its last answer (`done`)."""
        at = 0
        deadline = time.monotonic() + 60
        while True:
            with self._arrived:
                while len(self._answers.get(command, [])) <= at:
                    if not self._arrived.wait(1) and (
                        self.popen.poll() is not None or time.monotonic() > deadline
                    ):
                        message = f"the agent does not answer:\n{Path(self._log.name).read_text()}"
                        raise AgentProcessError(message)
                answer = self._answers[command][at]
            at += 1
            yield answer
            if answer.get("done"):
                return

    def finish(self, command: int) -> dict[str, Any]:
        """The last answer to a command."""
        return list(self.answers(command))[-1]

    def do(self, do: str, **arguments: object) -> dict[str, Any]:
        """Send a command and wait for its last answer."""
        return self.finish(self.begin(do, **arguments))

    def stop(self) -> None:
        """End the agent."""
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._reader.join(2)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self._log.close()

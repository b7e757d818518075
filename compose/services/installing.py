"""Installs and runs servers nobody here wrote, for the tests and the demo that talk to them.

What was downloaded or built is kept in the cache; state, logs and sockets live in the caller's own
directory and go with it. A server that cannot be installed raises `CannotInstallError`.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

INSTALL_SECONDS = 1800
START_SECONDS = 120.0
POLL_SECONDS = 0.1
STOP_SECONDS = 15.0


class CannotInstallError(Exception):
    """A server, or what it needs, is not to be had on this machine."""


class DidNotStartError(Exception):
    """A server ended or was not ready in time; the text has the end of its log."""


def cache() -> Path:
    """Where downloads and builds are kept between runs."""
    chosen = os.environ.get("COUNTERSIGN_TEST_CACHE")  # noqa: TID251 - the tests' own knob
    path = Path(chosen) if chosen else Path.home() / ".cache" / "countersign" / "services"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def installing(name: str) -> Iterator[Path]:
    """The folder of one server in the cache, held by one process at a time."""
    folder = cache() / name
    folder.mkdir(parents=True, exist_ok=True)
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run one step of an installation; its output.

    Raises:
        CannotInstallError: the program is missing, failed or took too long.
    """
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        raise CannotInstallError(f"{words[0]} is not installed")
    own = dict(os.environ) | dict(environment or {})  # noqa: TID251 - a child's environment
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            words,
            cwd=cwd,
            env=own,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"{words[0]} took more than {INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        raise CannotInstallError(f"{' '.join(words[:4])}: {done.stdout[-2000:]}")
    return done.stdout


def python_environment(name: str, *requirements: str) -> Path:
    """A virtual environment of its own with exactly these; its interpreter."""
    with installing(f"python-{name}") as folder:
        interpreter, wanted = folder / "bin" / "python", folder / "wanted"
        listed = "\n".join(requirements)
        if not wanted.exists() or wanted.read_text() != listed:
            run([sys.executable, "-m", "venv", "--clear", folder])
            run([interpreter, "-m", "pip", "install", "--quiet", *requirements])
            wanted.write_text(listed)
        return interpreter


def node_modules(name: str, *packages: str) -> Path:
    """A folder with exactly these npm packages installed, without their install scripts."""
    with installing(f"node-{name}") as folder:
        wanted, listed = folder / "wanted", "\n".join(packages)
        if not wanted.exists() or wanted.read_text() != listed:
            (folder / "package.json").write_text('{"private": true, "type": "module"}')
            flags = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
            run(["npm", "install", *flags, *packages], cwd=folder)
            wanted.write_text(listed)
        return folder


@dataclass(frozen=True, slots=True)
class Server:
    """A started server and its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def await_ready(self, is_ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until it answers.

        Raises:
            DidNotStartError: it ended, or was not ready in time.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise DidNotStartError(f"{self.name} ended: {self.tail()}")
            with contextlib.suppress(OSError, httpx2.HTTPError):
                if is_ready():
                    return
            time.sleep(POLL_SECONDS)
        raise DidNotStartError(f"{self.name} was not ready after {seconds:.0f} s: {self.tail()}")

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it and everything it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                return


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str | Path],
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """A server in a process group of its own, with its log in `directory`; ended at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}.log"
    own = dict(os.environ) | dict(environment or {})  # noqa: TID251 - a child's environment
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own words
            [str(word) for word in command],
            cwd=cwd,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(name, process, log)
    try:
        yield server
    finally:
        server.stop()


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET of `url`, plain http, is answered with success."""
    # Without one of ours, every request would read all the authorities of this machine.
    trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def is_ready() -> bool:
        return httpx2.get(url, timeout=2, trust_env=False, verify=trusts_nobody).is_success

    return is_ready

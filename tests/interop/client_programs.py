"""The clients of the client table, each a program of its own, and the person who logs in for them.

They are told the MCP endpoint, and where they publish what they are. Everything else they find out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2

from compose.demo.browser import Browser, Page, log_in_and_allow
from tests.interop.client_table import ClientRow
from tests.services.mcp_clients import (
    install_inspector,
    install_python_legacy,
    install_typescript_legacy,
    install_typescript_modern,
)
from tests.stack import PASSWORDS

HERE = Path(__file__).parent
ANSWER_SECONDS = 60


@dataclass
class Visitor:
    """A person whom clients send to log in and to consent; what they saw."""

    name: str
    redirect_uri: str
    browser: Browser = field(init=False)
    sent_to: list[str] = field(default_factory=list)
    consented_to: list[Page] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.browser = Browser(stop_at=self.redirect_uri)

    def answer(self, url: str) -> str:
        """Log in if asked, allow what is asked; where that leads back to."""
        self.sent_to.append(url)
        redirect, consent = log_in_and_allow(self.browser, url, self.name, PASSWORDS[self.name])
        if consent is not None:
            self.consented_to.append(consent)
        return redirect


@dataclass(frozen=True)
class Place:
    """What a client is told: where the server is, and where it says what it is itself."""

    endpoint: str
    client_id: str
    redirect_uri: str


class ForeignClient(Protocol):
    """What the tests let every client do."""

    place: Place
    visitor: Visitor

    def list(self) -> tuple[list[str], str | None]:
        """The names of the tools it sees; the revision it speaks, if it says so."""

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured result of one tool."""

    def tokens(self) -> dict[str, Any]:
        """What the token endpoint gave it."""

    def expire(self, access_token: str, *, by_the_clock: bool) -> None:
        """Let it hold this token; `by_the_clock` lets it know of the end beforehand."""


@dataclass
class SdkClient:
    """A program on an official SDK that takes commands as lines and stays connected."""

    place: Place
    visitor: Visitor
    process: "subprocess.Popen[str]"
    log: Path
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def list(self) -> "tuple[list[str], str | None]":
        seen = self._do("list")
        return seen["tools"], seen["version"]

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = self._do("call", tool=tool, args=arguments)
        assert not result["is_error"], result
        return dict(result["structured"])

    def tokens(self) -> dict[str, Any]:
        return dict(self._do("tokens")["tokens"])

    def expire(self, access_token: str, *, by_the_clock: bool) -> None:
        self._do("expire", access_token=access_token, by_the_clock=by_the_clock)

    def _do(self, do: str, **more: Any) -> dict[str, Any]:
        answer = self._ask({"do": do} | more)
        while "authorize" in answer:
            answer = self._ask({"redirect": self.visitor.answer(answer["authorize"])})
        assert "error" not in answer, f"{answer['error']}\n{answer.get('cause')}\n{self._tail()}"
        return answer

    def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        writing, reading = self.process.stdin, self.process.stdout
        assert writing is not None
        assert reading is not None
        writing.write(json.dumps(line) + "\n")
        writing.flush()
        answer = self.reader.submit(reading.readline).result(ANSWER_SECONDS)
        assert answer, f"it ended: {self._tail()}"
        return dict(json.loads(answer))

    def _tail(self) -> str:
        return self.log.read_text()[-2000:]


@contextmanager
def sdk_client(
    command: "list[str]", place: Place, visitor: Visitor, directory: Path
) -> Iterator[SdkClient]:
    """The program, until the end of the block."""
    log = directory / "client.log"
    with (
        log.open("w") as complaints,
        subprocess.Popen(  # noqa: S603 - our own words
            [*command, place.endpoint, place.client_id, place.redirect_uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=plain_environment(directory),
        ) as process,
    ):
        client = SdkClient(place, visitor, process, log)
        try:
            yield client
        finally:
            process.kill()
            client.reader.shutdown(wait=False)


def plain_environment(home: Path) -> dict[str, str]:
    """A client's environment: nothing of ours, no proxies."""
    path = os.environ["PATH"]  # noqa: TID251 - a child's environment
    return {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}


def python_command(interpreter: str | Path) -> "list[str]":
    return [str(interpreter), str(HERE / "oauth_python.py")]


def typescript_command(folder: Path, scheme: str = "bearer") -> "list[str]":
    program = folder / "oauth_client.mjs"  # modules are found from where the program is
    program.write_text((HERE / "node" / "oauth_client.mjs").read_text())
    return ["node", str(program), scheme]


@dataclass
class Inspector:
    """The Inspector's command line: a process for each request, its tokens in its own files."""

    place: Place
    visitor: Visitor
    command: "list[str]"
    era: str
    home: Path

    def list(self) -> "tuple[list[str], str | None]":
        listed = self._run("--method", "tools/list")
        return sorted(tool["name"] for tool in listed["tools"]), None

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        given = ["--tool-args-json", json.dumps(arguments)]
        result = self._run("--method", "tools/call", "--tool-name", tool, *given)
        assert not result.get("isError"), result
        return dict(result["structuredContent"])

    def tokens(self) -> dict[str, Any]:
        return dict(json.loads(next(iter(self._held().values()))))

    def expire(self, access_token: str, *, by_the_clock: bool) -> None:
        del by_the_clock  # it keeps no time of the end
        kept = json.loads(self._file.read_text())
        for name, held in self._held().items():
            kept["secrets"][name] = json.dumps(json.loads(held) | {"access_token": access_token})
        self._file.write_text(json.dumps(kept))

    @property
    def _file(self) -> Path:
        return self.home / ".mcp-inspector" / "secrets.json"

    def _held(self) -> dict[str, str]:
        secrets = json.loads(self._file.read_text())["secrets"]
        return {name: held for name, held in secrets.items() if ":tokens:" in name}

    def _run(self, *arguments: str) -> dict[str, Any]:
        """Run it; be the person's browser when it names an address to go to."""
        own = ["--cli", "--server-url", self.place.endpoint, "--transport", "http"]
        own += ["--protocol-era", self.era, "--format", "json"]
        own += ["--client-metadata-url", self.place.client_id]
        own += ["--callback-url", self.place.redirect_uri]
        environment = plain_environment(self.home) | {
            # Without a terminal it asks nobody to log in unless it may open a browser as well.
            "MCP_AUTO_OPEN_ENABLED": "true",
            "BROWSER": "true",
            "MCP_INSPECTOR_SECRET_STORE": "file",
        }
        output = self.home / "stdout"
        said = []
        with (
            output.open("w") as stdout,
            subprocess.Popen(  # noqa: S603 - our own words
                [*self.command, *own, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            ) as process,
        ):
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if line.startswith("Please navigate to: "):
                    url = line.removeprefix("Please navigate to: ").strip()
                    httpx2.get(self.visitor.answer(url), trust_env=False, timeout=20)
        assert process.returncode == 0, "".join(said) + output.read_text()
        return dict(json.loads(output.read_text())["result"])


# What each client of the table is run by; installs it on the way.
COMMANDS: Mapping[str, Callable[[], "list[str]"]] = {
    "Python": lambda: python_command(sys.executable),
    "Python 1": lambda: python_command(install_python_legacy()),
    "TypeScript": lambda: typescript_command(install_typescript_modern()),
    "TypeScript DPoP": lambda: typescript_command(install_typescript_modern(), "dpop"),
    "TypeScript 1": lambda: typescript_command(install_typescript_legacy()),
    "Inspector CLI": install_inspector,
}


@contextmanager
def running(
    row: ClientRow, place: Place, visitor: Visitor, directory: Path
) -> Iterator[ForeignClient]:
    """The client of this row, until the end of the block."""
    command = COMMANDS[row.client]()
    if row.client == "Inspector CLI":
        yield Inspector(place, visitor, command, row.era, directory)
        return
    with sdk_client([*command, row.era], place, visitor, directory) as client:
        yield client

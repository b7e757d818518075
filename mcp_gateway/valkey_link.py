"""One connection to Valkey with one owner, which many calls share without waiting for each other.

What calls ask for is collected while a round trip is under way and goes out together with the
next. A call waits for its own answer as long as it likes and may leave: nobody but `run` ever
reads or writes the connection, so no answer can reach another question. Only scripts, only by
their digest.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import valkey.asyncio
from valkey.exceptions import ResponseError, ValkeyError

from mcp_gateway.valkey_scripts import OPEN, USE

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.0  # a server that is silent so long is away
MAXIMUM_WAITING: Final = 4_096  # questions not yet answered; beyond, the answer is no
MAXIMUM_AT_ONCE: Final = 256
SCRIPTS: Final = (OPEN, USE)

# What `run` may end with; ValueError: an answer that makes no sense.
FAILURES: Final = (ValkeyError, OSError, TimeoutError, ValueError)

Words = tuple[str | bytes, ...]


class LinkDownError(Exception):
    """The question was not answered; whether it was carried out is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyServer:
    """Where the server is and how it is spoken to. `socket` is a path, instead of host and port."""

    host: str = ""
    port: int = 6379
    socket: str | None = None
    database: int = 0
    username: str | None = None
    password_file: Path | None = None
    is_tls: bool = False
    ca_file: Path | None = None

    def client(self) -> valkey.asyncio.Valkey:
        """A client of one connection. The password is read anew each time: it may be rotated.

        Raises:
            OSError: the password's file cannot be read.
        """
        password = None
        if self.password_file is not None:
            password = self.password_file.read_text(encoding="utf-8").strip()
        secured: dict[str, Any] = {}
        if self.is_tls:
            secured = {"ssl": True, "ssl_check_hostname": True, "ssl_cert_reqs": "required"}
            if self.ca_file is not None:
                secured["ssl_ca_certs"] = str(self.ca_file)
        return valkey.asyncio.Valkey(
            host=self.host,
            port=self.port,
            unix_socket_path=self.socket,
            db=self.database,
            username=self.username,
            password=password,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            single_connection_client=True,
            **secured,
        )


@dataclass(slots=True, eq=False)
class _Question:
    script: str
    keys: tuple[str, ...]
    arguments: Words
    answer: "asyncio.Future[bytes]"


class ValkeyLink:
    """Asks scripts of one server. `run` is its owner; without it nothing is answered."""

    def __init__(self, server: ValkeyServer) -> None:
        """Take the server; nothing is connected yet."""
        self._server = server
        self._waiting: deque[_Question] = deque()
        self._has_waiting = asyncio.Event()
        self._is_up = False

    async def ask(
        self, script: str, keys: tuple[str, ...], arguments: Words, seconds: float
    ) -> bytes:
        """What a script answers, within `seconds`.

        Raises:
            LinkDownError: no answer, or an error instead of one.
        """
        if not self._is_up or len(self._waiting) >= MAXIMUM_WAITING:
            raise LinkDownError("Valkey is away" if not self._is_up else "too many are waiting")
        question = _Question(script, keys, arguments, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._has_waiting.set()
        try:
            async with asyncio.timeout(seconds):
                return await question.answer
        except TimeoutError as error:
            raise LinkDownError("Valkey did not answer in time") from error

    async def run(self, up: Callable[[], Awaitable[None]]) -> None:
        """Connect and answer until the connection fails; then raise why. `up`: asks go through.

        Raises:
            ValkeyError: and the others of `FAILURES`, always one of them.
        """
        client = self._server.client()
        try:
            async with asyncio.timeout(CONNECT_SECONDS + ANSWER_SECONDS):
                digests = {script: await client.script_load(script) for script in SCRIPTS}
            self._is_up = True
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._answer_all(client, digests))
                tasks.create_task(_awaited(up))
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            self._is_up = False
            self._refuse_waiting()
            await client.aclose()

    async def _answer_all(self, client: valkey.asyncio.Valkey, digests: dict[str, str]) -> None:
        while True:
            await self._has_waiting.wait()
            batch: list[_Question] = []
            while self._waiting and len(batch) < MAXIMUM_AT_ONCE:
                question = self._waiting.popleft()
                if not question.answer.done():  # else whoever asked has left
                    batch.append(question)
            if not self._waiting:
                self._has_waiting.clear()
            if batch:
                await _answer(client, digests, batch)

    def _refuse_waiting(self) -> None:
        for question in self._waiting:
            _refuse(question, "Valkey went away")
        self._waiting.clear()
        self._has_waiting.clear()


async def _answer(
    client: valkey.asyncio.Valkey, digests: dict[str, str], batch: list[_Question]
) -> None:
    pipeline = client.pipeline(transaction=False)
    for question in batch:
        keys = question.keys
        pipeline.execute_command(
            "EVALSHA", digests[question.script], len(keys), *keys, *question.arguments
        )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answers = await pipeline.execute(raise_on_error=False)
    except BaseException:
        for question in batch:
            _refuse(question, "Valkey went away")
        raise
    failed: ResponseError | None = None
    for question, answer in zip(batch, answers, strict=True):
        if isinstance(answer, bytes):
            if not question.answer.done():
                question.answer.set_result(answer)
        else:
            failed = answer if isinstance(answer, ResponseError) else failed
            _refuse(question, f"Valkey answered {type(answer).__name__}")
    if failed is not None:  # out of memory, read-only, scripts forgotten: begin again
        raise failed


def _refuse(question: _Question, why: str) -> None:
    if not question.answer.done():
        question.answer.set_exception(LinkDownError(why))


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first: Exception = errors
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first

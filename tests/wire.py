"""Bytes on a socket of our own, for requests that no HTTP library would send."""

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

SECONDS: Final = 15.0
# What no answer may show: our code, a stack trace, a database's words, a token.
_NEVER: Final = re.compile(
    rb"Traceback|\.py\b|site-packages|sqlite|sqlalchemy|File \"|(?-i:\beyJ[A-Za-z0-9_-]{8})",
    re.IGNORECASE,
)
Lines = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back. `status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> Any:
        """The code of the error in the body, in whichever of the two shapes; None without one."""
        with contextlib.suppress(msgspec.MsgspecError):
            error = self.json.get("error")
            return error["code"] if isinstance(error, dict) else error
        return None


def request_bytes(
    target: str,
    headers: Lines,
    body: bytes = b"",
    *,
    method: str = "POST",
    version: str = "HTTP/1.1",
    length: bool = True,
) -> bytes:
    """One request, byte for byte as told; `length` adds the right Content-Length."""
    lines = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if length:
        lines.append(("content-length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"{method} {target} {version}\r\n{head}\r\n".encode("latin-1") + body


def chunked(body: bytes, *, trailers: Lines = (), size: int = 1000) -> bytes:
    """`body` in chunks, and what comes after it."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    encoded = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    lines = trailers.items() if isinstance(trailers, Mapping) else trailers
    return encoded + b"0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines).encode() + b"\r\n"


def say(
    port: int,
    *pieces: bytes,
    pause_seconds: float = 0.0,
    half_close: bool = False,
    method: str = "POST",
) -> Answer:
    """Send the pieces, and read one answer; never waits longer than `SECONDS` for a byte."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.settimeout(SECONDS)
        # The server may have answered and closed before the last byte was sent.
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_seconds)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        answer = _read(connection, method)
    return Answer(answer.status, answer.headers, answer.body, time.monotonic() - started)


def _read(connection: socket.socket, method: str) -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ConnectionError):
        return Answer(0)
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


def assert_says_nothing(answer: Answer, *secrets: str) -> None:
    """A refusal is a client error with nothing of ours or of the caller's secrets in it."""
    assert answer.status == 0 or 400 <= answer.status < 500, answer
    whole = answer.body + repr(answer.headers).encode()
    found = _NEVER.search(whole)
    assert found is None, whole
    for secret in secrets:
        assert secret.encode() not in whole

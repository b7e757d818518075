"""The Unix socket where local workloads get their attestation.

One connection is one request: a JSON line `{"provider", "jkt"}`, answered by
`{"attestation", "expires_in"}` or `{"error", "error_description"}`. Order: room (for this user,
and at all) → the line, within its time and size → its shape → the provider is declared → the
peer is identified → the audit took the event → signed → answered. Every issue and every refusal
is audited; when the audit cannot take it, nothing is issued.

Left out: whether the process is an Agent. Any local process may learn what the kernel says of it.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import structlog

from idp_connectors.log_events import LogEvent
from idp_connectors.workload.peer import (
    PeerIdentity,
    identify_peer,
    peer_credentials,
    supports_peer_pidfd,
)
from idp_connectors.workload.process_facts import ProcessGoneError
from idp_connectors.workload.unix_process import (
    ATTESTATION_SECONDS,
    AttestationSigner,
    UnixProcessSettings,
    attestation_claims,
    is_thumbprint,
)
from idp_connectors.workload.unix_socket import bind_unix_socket
from token_exchange.claims import Refusal
from token_exchange.compact_jws import parse_json_object
from token_exchange.identifiers import new_id

MAXIMUM_REQUEST_BYTES: Final = 1024  # a name and a thumbprint fit several times
REQUEST_SECONDS: Final = 2.0
IDENTIFY_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 5.0
MAXIMUM_AT_ONCE: Final = 64
MAXIMUM_AT_ONCE_PER_USER: Final = 16  # one user must not keep the others out

_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationRecord:
    """What the audit keeps of one request. `error_code` is None when it was issued.

    `evidence` are the attested claims; `at` is NumericDate seconds. Never the attestation itself.
    """

    at: int
    provider: str | None
    uid: int
    pid: int
    subject: str | None = None
    level: int | None = None
    key_thumbprint: str | None = None
    attestation_id: str | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    error_code: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationParts:
    """What the listener works with.

    `providers`: the declared `unix_process` TrustProviders, read at each request. `record` must
    raise when the event could not be made durable. `host` names this machine in subjects.
    """

    issuer: str
    host: str
    clock: Callable[[], float]
    random: Callable[[int], bytes]
    signer: AttestationSigner
    providers: Callable[[], Mapping[str, UnixProcessSettings]]
    record: Callable[[AttestationRecord], None]


@dataclass(frozen=True, slots=True)
class _Request:
    provider: str
    key_thumbprint: str


class AttestationListener:
    """Listens at one path; `start` and `close` it, or use it as an async context manager.

    `mode` is the socket's permission bits: 0o666 lets every local user ask, 0o660 with `group`
    only that group's.
    """

    def __init__(
        self, path: Path, parts: AttestationParts, *, mode: int = 0o666, group: int | None = None
    ) -> None:
        self._path = path
        self._parts = parts
        self._mode = mode
        self._group = group
        self._server: asyncio.AbstractServer | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._by_user: Counter[int] = Counter()

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            SocketPathError: The path cannot hold our socket.
        """
        listener = bind_unix_socket(self._path, mode=self._mode, group=self._group)
        self._server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=MAXIMUM_REQUEST_BYTES
        )
        _LOG.info(LogEvent.ATTESTATION_LISTENING, path=str(self._path))
        if not supports_peer_pidfd():
            _LOG.warning(
                LogEvent.ATTESTATION_WITHOUT_PIDFD,
                level=0,
                meaning="this kernel cannot name peers by pidfd; local evidence is level 0",
            )

    async def close(self) -> None:
        """Stop listening, let answers under way finish, and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        if self._serving:
            _, late = await asyncio.wait(self._serving, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
        try:
            with _own_socket(writer) as connection:
                answer = await self._admitted(reader, connection)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(ANSWER_SECONDS):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # the peer went away; whatever was decided is in the audit
        finally:
            writer.close()
            self._serving.discard(task)

    async def _admitted(
        self, reader: asyncio.StreamReader, connection: socket.socket
    ) -> dict[str, Any]:
        pid, uid, _ = peer_credentials(connection)
        asked = AttestationRecord(at=int(self._parts.clock()), provider=None, uid=uid, pid=pid)
        if (
            self._by_user.total() >= MAXIMUM_AT_ONCE
            or self._by_user[uid] >= MAXIMUM_AT_ONCE_PER_USER
        ):
            return self._refuse(asked, "temporarily_unavailable", "Too many requests at once.")
        self._by_user[uid] += 1
        try:
            return await self._answer(reader, connection, asked)
        except Exception:  # noqa: BLE001 - the outermost handler of a connection
            _LOG.exception(LogEvent.ATTESTATION_FAILED)
            return self._failed(asked)
        finally:
            self._by_user[uid] -= 1
            if not self._by_user[uid]:
                del self._by_user[uid]

    async def _answer(
        self, reader: asyncio.StreamReader, connection: socket.socket, asked: AttestationRecord
    ) -> dict[str, Any]:
        request = await _read_request(reader)
        if isinstance(request, Refusal):
            return self._refuse(asked, request.code, request.description)
        settings = self._parts.providers().get(request.provider)
        if settings is None:
            return self._refuse(asked, "invalid_request", "There is no such trust provider.")
        asked = dataclasses.replace(asked, provider=request.provider)
        try:
            async with asyncio.timeout(IDENTIFY_SECONDS):
                peer = await asyncio.to_thread(identify_peer, connection, with_script=settings.demo)
        except (ProcessGoneError, OSError, TimeoutError) as cause:
            text = "Your process could not be identified."
            return self._refuse(asked, "access_denied", text, detail=str(cause))
        return self._issue(request, peer, settings, asked)

    def _issue(
        self,
        request: _Request,
        peer: PeerIdentity,
        settings: UnixProcessSettings,
        asked: AttestationRecord,
    ) -> dict[str, Any]:
        parts = self._parts
        now = int(parts.clock())
        claims = attestation_claims(
            peer,
            issuer=parts.issuer,
            provider=request.provider,
            host=parts.host,
            demo=settings.demo,
        )
        claims |= {
            "iat": now,
            "exp": now + ATTESTATION_SECONDS,
            "jti": new_id("att_", parts.random),
            "cnf": {"jkt": request.key_thumbprint},
        }
        attestation = parts.signer.sign(claims)
        # INVARIANT: the audit has it before anybody else has it.
        parts.record(
            dataclasses.replace(
                asked,
                at=now,
                subject=claims["sub"],
                level=claims["level"],
                key_thumbprint=request.key_thumbprint,
                attestation_id=claims["jti"],
                evidence=claims["evidence"],
            )
        )
        return {"attestation": attestation, "expires_in": ATTESTATION_SECONDS}

    def _failed(self, asked: AttestationRecord) -> dict[str, Any]:
        text = "The attestation could not be made."
        try:
            return self._refuse(asked, "server_error", text)
        except Exception:  # noqa: BLE001 - it may be the audit that failed; the log has the cause
            return _error("server_error", text)

    def _refuse(
        self, asked: AttestationRecord, code: str, description: str, detail: str | None = None
    ) -> dict[str, Any]:
        self._parts.record(
            dataclasses.replace(asked, error_code=code, detail=detail or description)
        )
        return _error(code, description)


def _own_socket(writer: asyncio.StreamWriter) -> socket.socket:
    """The connection as a real socket, whatever the event loop wraps it in."""
    wrapped = writer.get_extra_info("socket")
    return socket.socket(fileno=os.dup(wrapped.fileno()))


async def _read_request(reader: asyncio.StreamReader) -> _Request | Refusal:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readuntil(b"\n")
    except TimeoutError:
        return _malformed("The request did not come in time.")
    except asyncio.LimitOverrunError:
        return _malformed("The request is too long.")
    except asyncio.IncompleteReadError:
        return _malformed("The request is no complete line.")
    members = parse_json_object(line)
    if members is None or set(members) != {"provider", "jkt"}:
        return _malformed('The request must be a JSON object of "provider" and "jkt".')
    provider, key_thumbprint = members["provider"], members["jkt"]
    if not isinstance(provider, str) or not is_thumbprint(key_thumbprint):
        return _malformed("jkt must be the RFC 7638 thumbprint of the agent's key.")
    return _Request(provider, key_thumbprint)


def _malformed(description: str) -> Refusal:
    return Refusal(
        code="invalid_request",
        description=description,
        detail=description,
        rule="attestation.request",
    )


def _error(code: str, description: str) -> dict[str, Any]:
    return {"error": code, "error_description": description}

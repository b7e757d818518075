"""What vouches for this process, asked anew for each token: the three ways, and which one it is.

A proof is a client assertion (RFC 7521 §4.2). It is never kept. The choice, where none is given:
a token file that was named, else the Workload API the environment names, else our own socket.
"""

import asyncio
import json
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from countersign.agent_run.errors import AgentRunError, UnavailableError, UsageError
from countersign.agent_run.workload_api import fetch_jwt_svid
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER, CLIENT_ASSERTION_JWT_SPIFFE

PROOF_SECONDS: Final = 10.0
MAXIMUM_ANSWER_BYTES: Final = 65_536
MAXIMUM_TOKEN_BYTES: Final = 16_384


class ProofKind(StrEnum):
    """Where a proof may come from."""

    AUTO = "auto"
    WORKLOAD_API = "workload-api"
    SOCKET = "socket"
    TOKEN_FILE = "token-file"  # noqa: S105 - not a token


@dataclass(frozen=True, slots=True)
class ClientProof:
    """A client assertion and its type."""

    assertion_type: str
    assertion: str

    def form(self) -> dict[str, str]:
        """The parameters of a token request (RFC 7521 §4.2)."""
        return {"client_assertion_type": self.assertion_type, "client_assertion": self.assertion}


class ProofSource(Protocol):
    """One way of proving what this process is."""

    description: str

    async def proof(self, thumbprint: str) -> ClientProof:
        """A proof as of now, for the key of this thumbprint where the platform can name one.

        Raises:
            AgentRunError: The platform gives none.
        """


class WorkloadApi:
    """A JWT-SVID for our issuer from the SPIFFE Workload API."""

    def __init__(self, address: str, issuer: str, spiffe_id: str | None) -> None:
        self._address, self._issuer, self._spiffe_id = address, issuer, spiffe_id
        self.description = f"a JWT-SVID from the SPIFFE Workload API at {address}"

    async def proof(self, _thumbprint: str) -> ClientProof:
        """Ask in a thread: the library blocks."""
        asking = asyncio.to_thread(fetch_jwt_svid, self._address, self._issuer, self._spiffe_id)
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                token = await asking
        except TimeoutError as error:
            raise UnavailableError("no_proof", f"{self._address} does not answer") from error
        return ClientProof(CLIENT_ASSERTION_JWT_SPIFFE, token)


class AttestationSocket:
    """The kernel's word on this process, through the socket of the authorization server."""

    def __init__(self, path: Path, provider: str) -> None:
        self._path, self._provider = path, provider
        self.description = f"the kernel's word, through {path} (TrustProvider {provider})"

    async def proof(self, thumbprint: str) -> ClientProof:
        """One line each way."""
        question = json.dumps({"provider": self._provider, "jkt": thumbprint}).encode() + b"\n"
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                answer = json.loads(await _line_from(self._path, question))
        except (OSError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError("no_proof", f"{self._path}: {reason}") from error
        if not isinstance(answer, dict) or "attestation" not in answer:
            said = answer if isinstance(answer, dict) else {}
            code, text = str(said.get("error", "refused")), str(said.get("error_description", ""))
            raise AgentRunError(code, f"{self._path}: {text}")
        return ClientProof(CLIENT_ASSERTION_JWT_BEARER, str(answer["attestation"]))


class TokenFile:
    """A token the platform keeps fresh in a file, such as Kubernetes or a CI system does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.description = f"the platform's token in {path}, read at each use"

    async def proof(self, _thumbprint: str) -> ClientProof:
        """Read the file as it is now."""
        token = await asyncio.to_thread(_token_in, self._path)
        return ClientProof(CLIENT_ASSERTION_JWT_BEARER, token)


def proof_source(
    kind: ProofKind,
    *,
    issuer: str,
    workload_api: str | None,
    spiffe_id: str | None,
    socket: Path,
    provider: str,
    token_file: Path | None,
) -> ProofSource:
    """The way to prove this process: the one asked for, or the first there is.

    Raises:
        UsageError: The one asked for lacks something.
        AgentRunError: There is none.
    """
    if kind is ProofKind.AUTO:
        kind = _found(workload_api, socket, token_file)
    if kind is ProofKind.TOKEN_FILE:
        if token_file is None:
            raise UsageError("--proof token-file needs --token-file")
        return TokenFile(token_file)
    if kind is ProofKind.WORKLOAD_API:
        if not workload_api:
            raise UsageError("--proof workload-api needs SPIFFE_ENDPOINT_SOCKET")
        return WorkloadApi(workload_api, issuer, spiffe_id)
    return AttestationSocket(socket, provider)


def _found(workload_api: str | None, socket: Path, token_file: Path | None) -> ProofKind:
    if token_file is not None:
        return ProofKind.TOKEN_FILE
    if workload_api:
        return ProofKind.WORKLOAD_API
    if socket.is_socket():
        return ProofKind.SOCKET
    message = (
        "nothing here vouches for this process: no --token-file, no SPIFFE_ENDPOINT_SOCKET,"
        f" no socket at {socket} (--attestation-socket)"
    )
    raise AgentRunError("no_proof", message)


async def _line_from(path: Path, question: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path, limit=MAXIMUM_ANSWER_BYTES)
    try:
        writer.write(question)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()


def _token_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise AgentRunError("no_proof", f"{path} is no regular file")
            content = file.read(MAXIMUM_TOKEN_BYTES + 1)
        token = content.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no token"
        raise AgentRunError("no_proof", f"{path}: {reason}") from error
    if not token or len(content) > MAXIMUM_TOKEN_BYTES:
        raise AgentRunError("no_proof", f"{path} holds no token")
    return token

"""Which of the platform's ways of vouching is taken, and what each says when it cannot."""

import socket
from pathlib import Path

import pytest

from countersign.agent_run.errors import AgentRunError
from countersign.agent_run.platform_proofs import (
    AttestationSocket,
    ProofKind,
    ProofSource,
    TokenFile,
    WorkloadApi,
    proof_source,
)
from token_exchange.token_types import CLIENT_ASSERTION_JWT_BEARER

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chosen(
    kind: ProofKind = ProofKind.AUTO,
    *,
    workload_api: str | None = None,
    path: Path = Path("/nowhere"),
    token_file: Path | None = None,
) -> ProofSource:
    return proof_source(
        kind,
        issuer="https://as.example.com",
        workload_api=workload_api,
        spiffe_id=None,
        socket=path,
        provider="local",
        token_file=token_file,
    )


@pytest.fixture
def at_socket(tmp_path: Path) -> Path:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def test_named_file_goes_before_the_workload_api_and_that_before_the_socket(
    at_socket: Path, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    api = "unix:///run/spire/agent.sock"
    assert isinstance(chosen(workload_api=api, path=at_socket, token_file=file), TokenFile)
    assert isinstance(chosen(workload_api=api, path=at_socket), WorkloadApi)
    assert isinstance(chosen(path=at_socket), AttestationSocket)
    assert str(at_socket) in chosen(path=at_socket).description


def test_explicit_choice_goes_before_all(at_socket: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    found = chosen(ProofKind.SOCKET, workload_api="unix:///x", path=at_socket, token_file=file)
    assert isinstance(found, AttestationSocket)
    found = chosen(ProofKind.WORKLOAD_API, workload_api="unix:///x", token_file=file)
    assert isinstance(found, WorkloadApi)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ProofKind.AUTO, "nothing here vouches"),
        (ProofKind.WORKLOAD_API, "SPIFFE_ENDPOINT_SOCKET"),
        (ProofKind.TOKEN_FILE, "--token-file"),
    ],
)
def test_nothing_to_prove_by_is_said(kind: ProofKind, text: str) -> None:
    with pytest.raises(AgentRunError, match=text):
        chosen(kind)


async def test_token_file_is_read_at_each_use(tmp_path: Path) -> None:
    file = tmp_path / "token"
    source = TokenFile(file)
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert (await source.proof("x")).form() == {
            "client_assertion_type": CLIENT_ASSERTION_JWT_BEARER,
            "client_assertion": token,
        }


async def test_token_file_without_a_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for content in (b"", b"\n", b"\xff\xfe", b"x" * 20_000):
        file.write_bytes(content)
        with pytest.raises(AgentRunError, match="holds no token"):
            await TokenFile(file).proof("x")
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(AgentRunError, match=str(path)):
            await TokenFile(path).proof("x")

"""The attestation socket with real child processes asking."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from idp_connectors.evidence import Evidence
from idp_connectors.log_events import LogEvent
from idp_connectors.workload import attestation_listener, peer
from idp_connectors.workload.attestation_listener import (
    AttestationListener,
    AttestationParts,
    AttestationRecord,
)
from idp_connectors.workload.matching import match_agent
from idp_connectors.workload.unix_process import UnixProcessSettings, UnixProcessVerifier
from registry.snapshot import AgentRecord
from tests.idp_connectors.samples import (
    AGENT_THUMBPRINT,
    ISSUER,
    NOW,
    Signer,
    agent,
    agents,
    counting_random,
    workload_parts,
)
from token_exchange.claims import Refusal

pytestmark = pytest.mark.processes

Ask = Callable[[Path], Awaitable[None]]

ASK = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b"\\n")
print(s.makefile().readline(), end="")
"""
HEIR = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
first = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == first:
    pass
s.sendall(sys.argv[2].encode() + b"\\n")
print(s.makefile().readline(), end="")
"""
REQUEST = json.dumps({"provider": "local", "jkt": AGENT_THUMBPRINT})
EXECUTABLE = os.path.realpath(sys.executable)
DEMO = {"local": UnixProcessSettings(demo=True)}


class Audit:
    """Keeps records, or fails as an unwritable spool does."""

    def __init__(self, *, broken: bool = False) -> None:
        self.records: list[AttestationRecord] = []
        self.broken = broken

    def __call__(self, record: AttestationRecord) -> None:
        if self.broken:
            raise OSError("no space left on device")
        self.records.append(record)


def parts(audit: Audit, **changes: object) -> AttestationParts:
    made = AttestationParts(
        issuer=ISSUER,
        host="laptop",
        clock=lambda: float(NOW),
        random=counting_random(),
        signer=Signer(),
        providers=lambda: {"local": UnixProcessSettings()},
        record=audit,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field


def during(directory: Path, made: AttestationParts, asking: Ask, *, mode: int = 0o666) -> None:
    """Run `asking` while a listener serves."""

    async def serve() -> None:
        path = directory / "attest.sock"
        async with AttestationListener(path, made, mode=mode):
            async with asyncio.timeout(30):
                await asking(path)
        assert not path.exists()

    asyncio.run(serve())


async def child(
    path: Path, request: str = REQUEST, *, script: Path | None = None
) -> dict[str, Any]:
    """A child process that asks; its answer and, as `_pid`, who it was."""
    program = ["-c", ASK] if script is None else [str(script)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, str(path), request, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    return {**json.loads(output), "_pid": process.pid}


async def raw(path: Path, sent: bytes, *, end: bool = False) -> dict[str, Any]:
    """Exactly these bytes, from this process."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(sent)
    if end:
        writer.write_eof()
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    found: dict[str, Any] = json.loads(answer)
    return found


def test_child_process_gets_an_attestation_of_itself_bound_to_its_key(tmp_path: Path) -> None:
    audit = Audit()

    async def asking(path: Path) -> None:
        answer = await child(path)
        assert answer["expires_in"] == 55
        verifier = UnixProcessVerifier("local", UnixProcessSettings(), workload_parts())
        found = await verifier.verify(answer["attestation"], NOW)
        assert isinstance(found, Evidence)
        assert found.claims["unix.pid"] == str(answer["_pid"])
        assert found.claims["unix.uid"] == str(os.getuid())
        assert found.claims["unix.exe"] == EXECUTABLE
        assert "unix.script_digest" not in found.claims
        assert found.key_thumbprint == AGENT_THUMBPRINT
        assert found.level == (1 if peer.supports_peer_pidfd() else 0)
        rules = {"unix.uid": str(os.getuid())}
        bot = agent(match=rules, minimum_level=found.level)
        assert isinstance(match_agent(found, agents(bot)), AgentRecord)

    during(tmp_path, parts(audit), asking)
    (record,) = audit.records
    assert (record.error_code, record.provider, record.attestation_id) == (
        None,
        "local",
        "att_" + "a" * 25 + "e",
    )
    assert record.evidence["unix.uid"] == str(os.getuid())


def test_two_attestations_never_share_their_id(tmp_path: Path) -> None:
    audit = Audit()

    async def asking(path: Path) -> None:
        await asyncio.gather(*(child(path) for _ in range(5)))

    during(tmp_path, parts(audit), asking)
    assert len({record.attestation_id for record in audit.records}) == 5


def test_child_in_demo_mode_is_told_apart_by_its_script(tmp_path: Path) -> None:
    bot, other = tmp_path / "bot.py", tmp_path / "other.py"
    bot.write_text(ASK)
    other.write_text(ASK + "# another")
    audit = Audit()

    async def asking(path: Path) -> None:
        await child(path, script=bot)
        await child(path, script=other)

    during(tmp_path, parts(audit, providers=lambda: DEMO), asking)
    digests = [record.evidence["unix.script_digest"] for record in audit.records]
    assert digests[0] != digests[1]


@pytest.mark.requirement("attack-19")
@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b"{\n",
        b'{"provider":"local"}\n',
        b'{"provider":"local","jkt":"short"}\n',
        b'{"provider":7,"jkt":"' + AGENT_THUMBPRINT.encode() + b'"}\n',
        b'{"provider":"local","jkt":7}\n',
        b'{"provider":"local","provider":"local","jkt":"' + AGENT_THUMBPRINT.encode() + b'"}\n',
        b'{"provider":"local","jkt":"' + AGENT_THUMBPRINT.encode() + b'","uid":0}\n',
        b'{"provider":"none","jkt":"' + AGENT_THUMBPRINT.encode() + b'"}\n',
        b"[" * 500 + b"\n",
        b"x" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_request_that_is_malformed_is_refused_and_audited(tmp_path: Path, sent: bytes) -> None:
    audit = Audit()

    async def asking(path: Path) -> None:
        answer = await raw(path, sent)
        assert answer["error"] == "invalid_request"
        assert "attestation" not in answer
        assert (await raw(path, REQUEST.encode() + b"\n"))["attestation"]

    during(tmp_path, parts(audit), asking)
    refused, issued = audit.records
    assert (refused.error_code, refused.uid) == ("invalid_request", os.getuid())
    assert issued.error_code is None


def test_request_that_ends_early_is_refused(tmp_path: Path) -> None:
    audit = Audit()

    async def asking(path: Path) -> None:
        assert (await raw(path, b'{"provider"', end=True))["error"] == "invalid_request"

    during(tmp_path, parts(audit), asking)
    assert len(audit.records) == 1


def test_slow_client_is_refused_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation_listener, "REQUEST_SECONDS", 0.05)
    audit = Audit()

    async def asking(path: Path) -> None:
        slow = asyncio.create_task(raw(path, b'{"provider"'))
        assert (await raw(path, REQUEST.encode() + b"\n"))["attestation"]
        assert "in time" in (await slow)["error_description"]

    during(tmp_path, parts(audit), asking)
    assert sorted(str(record.error_code) for record in audit.records) == ["None", "invalid_request"]


def test_client_that_hangs_up_without_reading_harms_nobody(tmp_path: Path) -> None:
    async def asking(path: Path) -> None:
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(REQUEST.encode() + b"\n")
            writer.close()
            await writer.wait_closed()
        assert (await raw(path, REQUEST.encode() + b"\n"))["attestation"]

    during(tmp_path, parts(Audit()), asking)


def test_one_user_with_too_many_requests_at_once_is_refused_until_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation_listener, "MAXIMUM_AT_ONCE_PER_USER", 2)
    audit = Audit()

    async def asking(path: Path) -> None:
        waiting = [await asyncio.open_unix_connection(path) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await raw(path, b""))["error"] == "temporarily_unavailable"
        for reader, writer in waiting:
            writer.write(REQUEST.encode() + b"\n")
            assert b"attestation" in await reader.readline()
            writer.close()
            await writer.wait_closed()
        assert (await raw(path, REQUEST.encode() + b"\n"))["attestation"]

    during(tmp_path, parts(audit), asking)
    assert [record.error_code for record in audit.records].count("temporarily_unavailable") == 1


@pytest.mark.requirement("trap-unwritable-audit")
def test_attestation_is_not_given_out_when_the_audit_cannot_take_it(tmp_path: Path) -> None:
    async def asking(path: Path) -> None:
        answer = await raw(path, REQUEST.encode() + b"\n")
        assert answer == {
            "error": "server_error",
            "error_description": "The attestation could not be made.",
        }

    with structlog.testing.capture_logs() as logged:
        during(tmp_path, parts(Audit(broken=True)), asking)
    assert LogEvent.ATTESTATION_FAILED in [entry["event"] for entry in logged]


def test_attestation_whose_signing_fails_is_not_recorded_as_issued(tmp_path: Path) -> None:
    class Broken:
        def sign(self, claims: object) -> str:
            del claims
            raise RuntimeError("no key")

    audit = Audit()

    async def asking(path: Path) -> None:
        assert (await raw(path, REQUEST.encode() + b"\n"))["error"] == "server_error"

    with structlog.testing.capture_logs():
        during(tmp_path, parts(audit, signer=Broken()), asking)
    assert [record.error_code for record in audit.records] == ["server_error"]


@pytest.mark.requirement("trap-pid-reuse")
def test_process_that_ended_before_it_was_identified_is_refused(tmp_path: Path) -> None:
    """It leaves its socket to a child and ends: nobody is left whom the answer is about."""
    audit = Audit()

    async def asking(path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HEIR, str(path), REQUEST, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert json.loads(output)["error"] == "access_denied"
        assert (await child(path))["attestation"]

    during(tmp_path, parts(audit), asking)
    assert [record.error_code for record in audit.records] == ["access_denied", None]


def test_kernel_without_peer_pidfd_gives_level_0_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "SO_PEERPIDFD", 9999)
    audit = Audit()

    async def asking(path: Path) -> None:
        answer = await child(path)
        verifier = UnixProcessVerifier("local", UnixProcessSettings(), workload_parts())
        found = await verifier.verify(answer["attestation"], NOW)
        assert isinstance(found, Evidence)
        assert found.level == 0
        bot = agent(match={"unix.uid": str(os.getuid())}, minimum_level=1)
        assert isinstance(match_agent(found, agents(bot)), Refusal)

    with structlog.testing.capture_logs() as logged:
        during(tmp_path, parts(audit), asking)
    assert LogEvent.ATTESTATION_WITHOUT_PIDFD in [entry["event"] for entry in logged]


@pytest.mark.requirement("attack-26")
def test_attestation_is_in_no_log_and_no_record(tmp_path: Path) -> None:
    audit = Audit()
    given: list[str] = []

    async def asking(path: Path) -> None:
        given.append((await child(path))["attestation"])

    with structlog.testing.capture_logs() as logged:
        during(tmp_path, parts(audit), asking)
    signature = given[0].rsplit(".", 1)[1]
    assert signature not in repr(logged) + repr(audit.records)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as somebody else")
def test_socket_mode_keeps_other_users_out() -> None:
    code = "import os, socket, sys; os.setuid(12345)\n" + ASK
    problems: list[bytes] = []

    async def asking(path: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(path), REQUEST,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        problems.append((await process.communicate())[1])

    # Not tmp_path: other users must be able to reach it.
    with tempfile.TemporaryDirectory(prefix="attest") as directory:
        Path(directory).chmod(0o755)
        during(Path(directory), parts(Audit()), asking, mode=0o600)
        during(Path(directory), parts(Audit()), asking, mode=0o666)
    assert b"PermissionError" in problems[0]
    assert problems[1] == b""

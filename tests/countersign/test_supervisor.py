"""The supervisor asks for a join code: patiently, and saying a refusal once."""

import asyncio
from pathlib import Path

import pytest
import structlog

from countersign.admin_client import AdminError
from countersign.settings import ServeSettings
from countersign.supervisor import ENROLMENT_FILE, LAST_JOIN_BACKOFF_SECONDS, Supervisor


def test_refused_join_is_said_once_and_asked_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[str | AdminError] = [AdminError("access_denied", "an Agent is you")] * 12
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def at_once(asked: object) -> str:
        del asked
        answer = answers.pop(0) if answers else "code"
        if isinstance(answer, AdminError):
            raise answer
        return answer

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    made = Supervisor(ServeSettings(state_dir=tmp_path), lambda: 0.0)
    with structlog.testing.capture_logs() as logged:
        assert asyncio.run(made._join_code()) == "code"
    assert [(each["event"], each["reason"]) for each in logged] == [
        ("gateway.join_refused", "an Agent is you")
    ]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_JOIN_BACKOFF_SECONDS


class Child:
    """A process that ends at once with a status."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def wait(self) -> int:
        return self.status


def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, statuses: list[int]) -> int:
    children = [Child(status) for status in statuses]

    async def start(name: str, join_code: str | None, *_: str) -> Child:
        assert (name, join_code) == ("authz-server", None)
        return children.pop(0)

    async def sleep(seconds: float) -> None:
        assert seconds > 0
        if not children:
            raise asyncio.CancelledError

    async def nothing() -> None:
        return None

    monkeypatch.setattr("countersign.supervisor._start", start)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    made = Supervisor(ServeSettings(state_dir=tmp_path), lambda: 0.0)
    with structlog.testing.capture_logs():
        return asyncio.run(made._keep("authz-server", nothing))


def test_child_that_cannot_start_ends_serve_with_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert kept(monkeypatch, tmp_path, [2]) == 2


def test_child_that_was_killed_or_failed_later_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(asyncio.CancelledError):
        kept(monkeypatch, tmp_path, [-9, 1, 1])


class Serving:
    """A process that serves until it is told to end."""

    returncode = 0

    def __init__(self, ended: list[str]) -> None:
        self._ended = ended
        self._told = asyncio.Event()

    async def wait(self) -> int:
        await self._told.wait()
        return 0

    def terminate(self) -> None:
        self._ended.append("authz-server")
        self._told.set()


def test_gateway_that_cannot_be_made_leaves_no_authorization_server_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[str] = []

    async def start(name: str, join_code: str | None, *_: str) -> Serving:
        del join_code
        if name == "mcp-gateway":
            raise OSError("no process is left")
        return Serving(ended)

    monkeypatch.setattr("countersign.supervisor._start", start)
    (tmp_path / ENROLMENT_FILE).touch()

    async def run() -> list[str]:
        with pytest.raises(OSError, match="no process is left"):
            await Supervisor(ServeSettings(state_dir=tmp_path), lambda: 0.0).run()
        return list(ended)  # before the loop is closed, which ends whatever is left

    assert asyncio.run(run()) == ["authz-server"]

"""The health check of the images: only a 200 of the process itself is healthy."""

import http.client
import sys
from dataclasses import dataclass

import pytest

from countersign import health


@dataclass
class FakeConnection:
    """Stands for the process at a port; remembers what it was asked."""

    status: int = 200
    fails: bool = False
    asked: tuple[str, str] | None = None
    is_closed: bool = False

    def request(self, method: str, path: str) -> None:
        if self.fails:
            raise ConnectionRefusedError
        self.asked = (method, path)

    def getresponse(self) -> "FakeConnection":
        return self

    def close(self) -> None:
        self.is_closed = True


def put_at_port(monkeypatch: pytest.MonkeyPatch, connection: FakeConnection) -> None:
    def connect(host: str, port: int, timeout: float) -> FakeConnection:
        assert (host, port, timeout) == ("127.0.0.1", 8701, health.SECONDS)
        return connection

    monkeypatch.setattr(http.client, "HTTPConnection", connect)


@pytest.mark.parametrize(
    ("connection", "is_healthy"),
    [
        (FakeConnection(), True),
        (FakeConnection(status=503), False),
        (FakeConnection(status=302), False),
        (FakeConnection(fails=True), False),
    ],
)
def test_process_is_healthy_only_by_its_own_200(
    monkeypatch: pytest.MonkeyPatch, connection: FakeConnection, is_healthy: bool
) -> None:
    put_at_port(monkeypatch, connection)
    assert health.is_healthy(8701) is is_healthy
    assert connection.asked in {("GET", "/healthz"), None}
    assert connection.is_closed


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_command_ends_with_what_a_container_engine_reads(
    monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    put_at_port(monkeypatch, FakeConnection(status=status))
    monkeypatch.setattr(sys, "argv", ["health", "8701"])
    with pytest.raises(SystemExit) as ended:
        health.main()
    assert ended.value.code == code


@pytest.mark.parametrize("words", [[], ["8701", "more"], ["x"]])
def test_wrong_command_line_is_no_health(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["health", *words])
    with pytest.raises(SystemExit) as ended:
        health.main()
    assert ended.value.code == 2

"""Workers of a gateway are started together, started again when they die, and drained together."""

import asyncio
import os
import signal
import socket

import pytest
import structlog

from countersign.gateway_workers import GatewayWorkers
from countersign.settings import McpGatewaySettings

pytestmark = pytest.mark.requirement("workers-lose-nothing")


class Worker:
    """A process that ends when it is told to, or at once with a status."""

    def __init__(self, status: int | None = None, *, is_deaf: bool = False) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_deaf = is_deaf
        self.signals: list[str] = []
        if status is not None:
            self.ended.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self.ended)

    def terminate(self) -> None:
        self.signals.append("terminate")
        if not self.is_deaf:
            self.ended.set_result(0)

    def kill(self) -> None:
        self.signals.append("kill")
        self.ended.set_result(-9)


class Started(GatewayWorkers):
    """Whose workers a test makes."""

    def __init__(self, listener: socket.socket, *, count: int, **settings: float) -> None:
        given = McpGatewaySettings.model_validate(
            {"gateway_workers": count, "valkey_url": "unix:///v", **settings}
        )
        super().__init__(given, listener, lambda: 0.0)
        self.first: list[int | None] = []
        self.workers: list[Worker] = []
        self.is_deaf = False
        self.failures: list[OSError] = []

    async def _start(self) -> Worker:  # type: ignore[override] # stands in for a process
        if self.failures:
            raise self.failures.pop()
        worker = Worker(self.first.pop(0) if self.first else None, is_deaf=self.is_deaf)
        self.workers.append(worker)
        return worker


async def until(made: Started, count: int) -> None:
    while len(made.workers) < count:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("is_deaf", "status"), [(False, 0), (True, 1)])
def test_workers_are_drained_together_and_who_does_not_hear_is_killed(
    monkeypatch: pytest.MonkeyPatch, is_deaf: bool, status: int
) -> None:
    monkeypatch.setattr("countersign.gateway_workers.GRACE_SECONDS", 0)

    async def run(made: Started) -> int:
        made.is_deaf = is_deaf
        running = asyncio.create_task(made.run())
        await until(made, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        return await running

    with socket.socket(socket.AF_UNIX) as listener:
        made = Started(listener, count=3, shutdown_seconds=0.05)
        assert asyncio.run(run(made)) == status
    signals = ["terminate", "kill"] if is_deaf else ["terminate"]
    assert [worker.signals for worker in made.workers] == [signals] * 3


def test_worker_that_cannot_start_ends_all_with_its_status() -> None:
    with socket.socket(socket.AF_UNIX) as listener, structlog.testing.capture_logs():
        made = Started(listener, count=2)
        made.first = [None, 2]
        assert asyncio.run(made.run()) == 2
    assert made.workers[0].signals == ["terminate"]


@pytest.mark.parametrize("failures", [0, 2])
def test_worker_that_was_killed_is_started_again_as_soon_as_it_can_be_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr("countersign.kept_process.FIRST_BACKOFF_SECONDS", 0.001)

    async def run(made: Started) -> int:
        running = asyncio.create_task(made.run())
        await until(made, 2)
        made.failures = [OSError("no process is left")] * failures
        made.workers[0].kill()
        await until(made, 3)
        os.kill(os.getpid(), signal.SIGINT)
        return await running

    with socket.socket(socket.AF_UNIX) as listener, structlog.testing.capture_logs() as logged:
        made = Started(listener, count=2)
        assert asyncio.run(run(made)) == 0
    assert [worker.signals for worker in made.workers] == [["kill"], ["terminate"], ["terminate"]]
    assert [each["event"] for each in logged] == ["child.ended"] + ["child.not_started"] * failures
    assert logged[0]["status"] == -9


def test_first_worker_that_cannot_be_made_is_told_and_ends_the_others() -> None:
    async def run(made: Started) -> int:
        made.failures = [OSError("no process is left")]
        return await made.run()

    with socket.socket(socket.AF_UNIX) as listener:
        made = Started(listener, count=2)
        with pytest.raises(OSError, match="no process is left"):
            asyncio.run(run(made))
    assert [worker.signals for worker in made.workers] == [["terminate"]]

"""Which workers serve a Gateway now: one, or several that share one memory of used proofs.

A gateway checks proofs of possession for replay, so two processes that serve one Gateway with
memories of their own would each accept a proof once. A worker that shares a memory (Valkey)
declares its name, which is random and begins anew whenever what was in it may be lost. While a
worker's event stream is open, another gets its snapshot and its stream only if both declare the
same memory; it is refused before it serves. So is a worker with another memory for one lease after
the stream ended: whoever had it may serve that long. (Of two workers with memories of their own the
later need not wait: of one state directory, it looks how far the earlier came. With two of them the
operator sees to it, SECURITY.md.)

Known to this process alone: with several authorization servers on one database the operator sees
to it (SECURITY.md).
"""

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from token_exchange.claims import Refusal

WORKER_HEADER: Final = "countersign-worker"
MEMORY_HEADER: Final = "countersign-memory"
MAXIMUM_NAME: Final = 192
MAXIMUM_MEMORY: Final = 64


@dataclass(slots=True)
class _Serving:
    """One worker: the memory it declared last (empty: its own), and how many streams it has."""

    memory: str
    streams: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A worker whose stream ended; it may serve until its lease is over."""

    gateway: str
    worker: str
    memory: str
    until: float


class ServingWorkers:
    """By Gateway, the workers that serve it: those with an event stream, or with one just ended."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, lease_seconds: float = 3.0
    ) -> None:
        """Take a clock that never goes back, and how long a gateway serves without news."""
        self._monotonic = monotonic
        self._lease_seconds = lease_seconds
        self._serving: dict[str, dict[str, _Serving]] = {}
        self._ended: deque[_Ended] = deque()

    def problem(self, gateway: str, worker: str, memory: str = "") -> Refusal | None:
        """Why this worker may not serve, or None."""
        if len(worker) > MAXIMUM_NAME or len(memory) > MAXIMUM_MEMORY:
            return Refusal(
                "invalid_request", "The worker's name is too long.", "worker", "control.worker"
            )
        other = self._other(gateway, worker, memory)
        if other is None:
            return None
        return Refusal(
            "temporarily_unavailable",
            "Another process serves this Gateway; several must share one memory of used proofs.",
            f"{worker} with memory {memory or 'of its own'} while {other} serves",
            "control.one_worker",
        )

    @contextmanager
    def holding(self, gateway: str, worker: str, memory: str = "") -> Generator[bool, None, None]:
        """While its stream is open; false when another was quicker.

        A worker that reconnects may overlap with itself; what it declared last is what it uses.
        """
        if self._other(gateway, worker, memory) is not None:
            yield False
            return
        workers = self._serving.setdefault(gateway, {})
        serving = workers.setdefault(worker, _Serving(memory))
        serving.memory = memory
        serving.streams += 1
        try:
            yield True
        finally:
            serving.streams -= 1
            if not serving.streams:
                del workers[worker]
                until = self._monotonic() + self._lease_seconds
                self._ended.append(_Ended(gateway, worker, serving.memory, until))
            if not workers:
                del self._serving[gateway]

    def _other(self, gateway: str, worker: str, memory: str) -> str | None:
        """A worker that serves with another memory than this one would, or may still."""
        now = self._monotonic()
        while self._ended and self._ended[0].until <= now:
            self._ended.popleft()
        for name, serving in self._serving.get(gateway, {}).items():
            if name != worker and (not memory or serving.memory != memory):
                return name
        for ended in self._ended:
            if ended.gateway == gateway and ended.worker != worker and ended.memory != memory:
                return ended.worker
        return None

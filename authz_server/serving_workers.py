"""Which workers serve a Gateway now: one, or several that share one memory of used proofs.

A gateway checks proofs of possession for replay, so two processes that serve one Gateway with
memories of their own would each accept a proof once. A worker that shares a memory (Valkey)
declares its name, which is random and begins anew whenever what was in it may be lost. While a
worker's event stream is open, another gets its snapshot and its stream only if both declare the
same memory; it is refused before it serves. Known to this process alone: with several
authorization servers on one database the operator sees to it (SECURITY.md).
"""

from collections.abc import Generator
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


class ServingWorkers:
    """By Gateway, the workers that hold its event streams. Bounded by the streams there are."""

    def __init__(self) -> None:
        self._serving: dict[str, dict[str, _Serving]] = {}

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
            if not workers:
                del self._serving[gateway]

    def _other(self, gateway: str, worker: str, memory: str) -> str | None:
        """A worker that serves with another memory than this one would."""
        for name, serving in self._serving.get(gateway, {}).items():
            if name != worker and (not memory or serving.memory != memory):
                return name
        return None

"""Which worker serves a Gateway now: exactly one, the one whose event stream is open.

A gateway checks proofs of possession for replay in the memory of its process, so two processes
that serve one Gateway would each accept a proof once. Until they share that memory the second is
refused its snapshot and its stream, and so never serves. Known to this process alone: with several
authorization servers on one database the operator sees to it (SECURITY.md).
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from token_exchange.claims import Refusal

WORKER_HEADER: Final = "countersign-worker"
MAXIMUM_NAME: Final = 192


class ServingWorkers:
    """By Gateway, the worker that holds its event stream, and how many streams it has open."""

    def __init__(self) -> None:
        self._holding: dict[str, tuple[str, int]] = {}

    def problem(self, gateway: str, worker: str) -> Refusal | None:
        """Why this worker may not serve, or None."""
        if len(worker) > MAXIMUM_NAME:
            return Refusal(
                "invalid_request", "The worker's name is too long.", "worker", "control.worker"
            )
        holder = self._holding.get(gateway)
        if holder is None or holder[0] == worker:
            return None
        return Refusal(
            "temporarily_unavailable",
            "Another process serves this Gateway; one Gateway is served by one process.",
            f"{worker} while {holder[0]} serves",
            "control.one_worker",
        )

    @contextmanager
    def holding(self, gateway: str, worker: str) -> Generator[bool, None, None]:
        """While its stream is open; false when another was quicker.

        A worker that reconnects may overlap with itself.
        """
        holder, streams = self._holding.get(gateway, (worker, 0))
        if holder != worker:
            yield False
            return
        self._holding[gateway] = (worker, streams + 1)
        try:
            yield True
        finally:
            streams = self._holding[gateway][1] - 1
            if streams:
                self._holding[gateway] = (worker, streams)
            else:
                del self._holding[gateway]

"""Which DPoP proofs were used (RFC 9449 §11.1), each until it would be refused for its age.

`Proofs` is what the pipeline needs; `ProofMemory` is the memory of one worker, exact while one
worker serves the Gateway. Several share `shared_proofs` (docs/architecture.md, state owners). It
does not survive the process; what does is the latest `iat` of any proof used, in a
file of the state directory, written before that proof is accepted and at most once a second. After
a restart every proof issued up to then is refused, for it may have been used: at most the leeway
of clocks ahead is lost, and usually nothing, because a start takes longer. A kernel that dies may
lose the last writes; it takes longer than that leeway to come back. A process that waits while
another of the same directory serves looks again whenever the authority lets it serve.
"""

import heapq
import os
from enum import Enum, auto
from pathlib import Path
from typing import Final, Protocol

from token_exchange.proof_of_possession import PROOF_LEEWAY_SECONDS

PROOFS_FILE: Final = "proofs.latest"  # in the state directory
MAXIMUM_PROOFS: Final = 1_000_000  # about 16,000 calls/s for the age of a proof; 150 MB at most
_DIGITS: Final = 20


class ProofUse(Enum):
    """What became of a proof; all but the first refuse it."""

    FIRST = auto()
    REPLAYED = auto()
    BEFORE_MEMORY = auto()  # it may have been used before this memory began
    OUT_OF_TIME = auto()  # too old or from the future by the clock all workers share


class ProofsUnavailableError(Exception):
    """Whether the proof was used cannot be known or kept now: refuse. The text is for the log."""


class Proofs(Protocol):
    """What remembers used proofs, for one worker or for all of a Gateway."""

    @property
    def memory(self) -> str | None:
        """The name of the memory, if others share it; the authority compares it."""

    async def known(self) -> None:
        """Wait until `memory` is known."""

    def accept(self, memory: str | None) -> None:
        """The authority lets this worker serve with that memory."""

    def problem(self, now: int) -> str | None:
        """Why a fresh proof would be refused at `now`, in a word for the health document."""

    async def use(self, replay_key: str, issued_at: int, expires_at: int, now: int) -> ProofUse:
        """Use a proof. Times are NumericDate seconds.

        Raises:
            ProofsUnavailableError: it cannot be known or kept that it was used.
        """


class LatestIssue:
    """The latest `iat` of a used proof, on disk (NumericDate seconds, fixed width)."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; whoever opens it decides what an empty one means."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> int | None:
        """What was written last; None when nothing readable was."""
        text = os.pread(self._file, _DIGITS + 1, 0)
        return int(text) if len(text) == _DIGITS and text.isdigit() else None

    def raise_to(self, issued_at: int) -> None:
        """Write a later one; an earlier one changes nothing.

        Raises:
            OSError: not written.
        """
        if (self.read() or 0) < issued_at:
            os.pwrite(self._file, b"%0*d" % (_DIGITS, issued_at), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class ProofMemory:
    """Remembers used proofs. Full of unexpired ones it refuses new ones: fail closed.

    Proofs issued up to `blind_until` may have been used before this memory began.
    """

    def __init__(
        self,
        capacity: int = MAXIMUM_PROOFS,
        *,
        blind_until: int = 0,
        latest: LatestIssue | None = None,
    ) -> None:
        """Take how many proofs are remembered at once, where it begins, and what outlives it."""
        self._capacity = capacity
        self._blind_until = blind_until
        self._latest = latest
        self._in_file = None if latest is None else latest.read()
        self._written = blind_until
        self._seen: set[str] = set()
        self._expiries: list[tuple[int, str]] = []

    @property
    def memory(self) -> str | None:
        """Nobody shares it."""
        return None

    async def known(self) -> None:
        """At once."""

    def accept(self, _memory: str | None) -> None:
        """What another process of our directory used since we looked is refused from now on.

        Raises:
            OSError: the file cannot be read; we must not serve.
        """
        if self._latest is None:
            return
        in_file = self._latest.read()
        if in_file is not None and in_file != self._in_file:
            self._in_file = in_file
            self._blind_until = max(self._blind_until, in_file)

    def problem(self, now: int) -> str | None:
        """While proofs of now may have been used by a predecessor."""
        return None if now > self._blind_until else "starting"

    async def use(self, replay_key: str, issued_at: int, expires_at: int, now: int) -> ProofUse:
        """Use a proof, without waiting for anything.

        Raises:
            ProofsUnavailableError: it is full, or the file that outlives us cannot be written.
        """
        if issued_at <= self._blind_until:
            return ProofUse.BEFORE_MEMORY
        while self._expiries and self._expiries[0][0] <= now:
            self._seen.discard(heapq.heappop(self._expiries)[1])
        if replay_key in self._seen:
            return ProofUse.REPLAYED
        if len(self._seen) >= self._capacity:
            raise ProofsUnavailableError("as many proofs as fit were used a moment ago")
        if issued_at > self._written and self._latest is not None:
            try:
                self._latest.raise_to(issued_at)
            except OSError as error:
                # A proof that could be used again after a restart is not accepted: fail closed.
                raise ProofsUnavailableError("its use cannot be written down") from error
            self._written = issued_at
            self._in_file = max(self._in_file or 0, issued_at)
        self._seen.add(replay_key)
        heapq.heappush(self._expiries, (expires_at, replay_key))
        return ProofUse.FIRST


def open_proof_memory(path: Path, started_at: float, *, is_first_start: bool) -> ProofMemory:
    """The memory of a process that starts now, over the file its predecessors wrote.

    With no file to read, whatever a predecessor can have accepted is refused: proofs issued up to
    `started_at` (Unix seconds) and the leeway. `is_first_start`: there is no predecessor.
    """
    latest = LatestIssue(path)
    possible = int(started_at) + PROOF_LEEWAY_SECONDS
    known = latest.read()
    if known is None:
        known = 0 if is_first_start else possible
        latest.raise_to(known)
    # Later than possible: the clock was put back, and it must not shut everybody out for years.
    return ProofMemory(blind_until=min(known, possible), latest=latest)


def taken_over(path: Path, started_at: float) -> int:
    """Up to which `iat` a former worker with a memory of its own may have used proofs; 0: none.

    Call `forget` once a shared memory refuses those: from then on the file is out of date, and
    without it a later worker of that kind refuses whatever may have been used.
    """
    if not path.exists():
        return 0
    latest = LatestIssue(path)
    known = latest.read()
    latest.close()
    possible = int(started_at) + PROOF_LEEWAY_SECONDS
    return possible if known is None else min(known, possible)


def forget(path: Path) -> None:
    """Remove the file of a memory that another took over."""
    path.unlink(missing_ok=True)

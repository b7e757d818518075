"""The bounded memories of one worker: a least-recently-used cache, and the proofs seen."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAXIMUM_PROOFS: Final = 1_000_000  # about 16,000 calls/s for the age of a proof; 150 MB at most


class LeastRecentlyUsed(Generic[K, V]):
    """A cache of at most `capacity` entries; the one used longest ago goes first."""

    def __init__(self, capacity: int) -> None:
        """Take how many entries are kept."""
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry of `key`, now the most recently used."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: K, value: V) -> None:
        """Keep `value`, dropping the oldest beyond the capacity."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget `key`."""
        self._entries.pop(key, None)

    def drop_where(self, matches: Callable[[V], bool]) -> int:
        """Forget every entry that matches; how many that were."""
        doomed = [key for key, value in self._entries.items() if matches(value)]
        for key in doomed:
            del self._entries[key]
        return len(doomed)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class ProofMemory:
    """Which DPoP proofs were used (RFC 9449 §11.1), each until it would be refused for its age.

    Memory of one worker: exact only while one worker serves the Gateway (docs/architecture.md,
    state owners). Full of unexpired proofs it refuses new ones: fail closed. Proofs issued up to
    `blind_until` (NumericDate) may have been used before this memory began.
    """

    def __init__(self, capacity: int = MAXIMUM_PROOFS, *, blind_until: int = 0) -> None:
        """Take how many proofs are remembered at once, and where the memory begins."""
        self._capacity = capacity
        self._blind_until = blind_until
        self._seen: set[str] = set()
        self._expiries: list[tuple[int, str]] = []

    def covers(self, issued_at: int) -> bool:
        """Whether a use of a proof issued at `issued_at` would be remembered."""
        return issued_at > self._blind_until

    def use(self, replay_key: str, expires_at: int, now: int) -> bool:
        """Whether the proof is used for the first time. Times are NumericDate seconds."""
        while self._expiries and self._expiries[0][0] <= now:
            self._seen.discard(heapq.heappop(self._expiries)[1])
        if replay_key in self._seen or len(self._seen) >= self._capacity:
            return False
        self._seen.add(replay_key)
        heapq.heappush(self._expiries, (expires_at, replay_key))
        return True

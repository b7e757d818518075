"""Callers already verified, by digest of what was presented, so that a token is verified once.

The key is SHA-256 over scheme, token and endpoint; the value belongs to one view generation, so a
rotated key, a removed agent or a changed server verifies again. Expiry, blocks and proof of
possession are never cached: `caller.standing_problem` and `prove_possession` run on every call.
"""

import hashlib
from typing import Final

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.caller import Caller, CallerRefusal, Presented, caller_of
from mcp_gateway.compiled_view import CompiledView, Endpoint

MAXIMUM_CALLERS: Final = 16_384  # about 4 kB each


class CallerCache:
    """Bounded; holds accepted callers only, so refused tokens cannot push them out."""

    def __init__(self, capacity: int = MAXIMUM_CALLERS) -> None:
        """Take how many callers are kept."""
        self._callers: LeastRecentlyUsed[bytes, tuple[int, Caller]] = LeastRecentlyUsed(capacity)

    def resolve(
        self, offered: Presented, endpoint: Endpoint, view: CompiledView, now: int
    ) -> Caller | CallerRefusal:
        """The caller of a token at an endpoint, under this view."""
        text = f"{offered.scheme} {offered.unverified_token} {endpoint.audience}"
        key = hashlib.sha256(text.encode()).digest()
        known = self._callers.get(key)
        if known is not None and known[0] == view.generation:
            return known[1]
        caller = caller_of(offered, endpoint, view, now)
        if isinstance(caller, Caller):
            self._callers.put(key, (view.generation, caller))
        return caller

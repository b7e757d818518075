"""What this process enforces right now: the snapshot, the blocks, and whether it may serve.

The only mutable state of decisions. Three references, each replaced whole: readers take one and
keep it for a step that does not await. `serving` is the lease of docs/architecture.md
"Revocation": without a heartbeat for `lease_seconds` every call is refused, because a revocation
may have been missed.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mcp_gateway.clock import Clock
from mcp_gateway.compiled_view import CompiledView
from registry.blocks import BlockState, RevocationEvent
from registry.snapshot import EnforcementView

STALE_LIMIT_SECONDS: Final = 30.0  # after this long without news open calls end too


class NotServing(StrEnum):
    """Why no call is served."""

    STARTING = "The gateway has no policy yet."
    STALE = "The gateway has lost contact with its authority."
    DRAINING = "The gateway is shutting down."


@dataclass(frozen=True, slots=True)
class Progress:
    """How far this process has come: what an acknowledgement says."""

    sequence: int
    version: int


class Enforcement:
    """The current view and blocks, and the lease on them. `monotonic` counts seconds."""

    def __init__(self, monotonic: Clock) -> None:
        """Start with nothing: nothing is served before the first snapshot."""
        self._monotonic = monotonic
        self._view: CompiledView | None = None
        self._blocks = BlockState()
        self._heartbeat_at: float | None = None
        self._is_draining = False

    @property
    def view(self) -> CompiledView | None:
        """The current view, for what needs no lease: metadata, health, control."""
        return self._view

    @property
    def blocks(self) -> BlockState:
        """The current blocks and epochs."""
        return self._blocks

    @property
    def progress(self) -> Progress:
        """The sequence and version applied."""
        version = -1 if self._view is None else self._view.view.version
        return Progress(self._blocks.sequence, version)

    def serving(self) -> CompiledView | NotServing:
        """The view to decide on, or why there is none."""
        if self._is_draining:
            return NotServing.DRAINING
        if self._view is None or self._heartbeat_at is None:
            return NotServing.STARTING
        if self.silence_seconds() > self._view.view.lease_seconds:
            return NotServing.STALE
        return self._view

    def silence_seconds(self) -> float:
        """How long there has been no heartbeat; 0 before the first."""
        return 0.0 if self._heartbeat_at is None else self._monotonic() - self._heartbeat_at

    def adopt(self, compiled: CompiledView) -> None:
        """Decide on a new snapshot from now on."""
        view = compiled.view
        self._view = compiled
        # INVARIANT: blocks never go back. An event that came after the snapshot was made stays.
        if view.sequence >= self._blocks.sequence:
            self._blocks = BlockState.of(view.sequence, view.blocks)

    def apply(self, event: RevocationEvent) -> None:
        """Take over one revocation."""
        self._blocks = self._blocks.applying(event)

    def heartbeat(self) -> None:
        """The authority was heard, and everything up to its word is applied."""
        self._heartbeat_at = self._monotonic()

    def drain(self) -> None:
        """Serve no further call."""
        self._is_draining = True


def is_older(view: EnforcementView, current: CompiledView | None) -> bool:
    """Whether a snapshot would take us back: a replayed document, never a news."""
    if current is None:
        return False
    known = current.view
    return (view.version, view.sequence) < (known.version, known.sequence)

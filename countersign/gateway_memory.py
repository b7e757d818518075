"""The memory of used proofs of a gateway process; `gateway_shared_memory` is that of several.

Going from one to the other loses nothing: a shared memory refuses what the own one of a
predecessor in the same state directory may have accepted, and then removes that one's file, so
that a later worker with a memory of its own refuses whatever may have been used before its start.
"""

from collections.abc import Callable
from typing import Final

from countersign.settings import McpGatewaySettings
from mcp_gateway.proof_memory import ProofMemory, open_proof_memory

PROOFS_FILE: Final = "proofs.latest"


def own_memory(
    settings: McpGatewaySettings, clock: Callable[[], float], *, is_first_start: bool
) -> ProofMemory:
    """The memory of the only worker."""
    path = settings.state_dir / PROOFS_FILE
    return open_proof_memory(path, clock(), is_first_start=is_first_start)

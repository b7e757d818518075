"""The stored consents that stand: not ended, and not withdrawn by a block of their `gid`.

Whether one covers what is asked is the caller's question (`Consent.covers`, `Consent.agreed`).
"""

from authz_server.store.consents import Consent, ConsentStore
from registry.blocks import BlockKind, Subject
from registry.live import LiveRegistry


async def standing_consents(
    consents: ConsentStore, live: LiveRegistry, *, sub: str, agent: str, server: str, now: int
) -> tuple[Consent, ...]:
    """Those of a person for an agent at a server, latest first. `now` is NumericDate seconds."""
    living = await consents.living(sub, agent, server, now)
    # A consent survives an epoch, so it is asked about as of now: only a block withdraws it. The
    # blocks are those known after the wait.
    return tuple(
        each
        for each in living
        if live.blocks.first_hit((Subject(BlockKind.CONSENT, each.gid),), now) is None
    )

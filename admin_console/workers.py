"""Which gateway workers are alive, as far as this server can tell.

A worker confirms under the source id of its audit spool, and that source reports every two
seconds and says when it ends. A worker of another name counts as alive for a while after its last
confirmation.
"""

from typing import Final

from admin_console.parts import AdminParts
from audit_log.completeness import SILENT_AFTER_MS
from registry.acks import Ack

RECENT_ACK_MS: Final = 60_000


def latest_acks(parts: AdminParts, now_ms: int) -> tuple[Ack, ...]:
    """The last confirmation of every worker that seems to be alive."""
    sources = {source.source: source for source in parts.audit_store.sources()}
    alive: list[Ack] = []
    for ack in parts.acks.workers():
        source = sources.get(ack.worker)
        if source is None:
            is_alive = now_ms - ack.received_at_ms <= RECENT_ACK_MS
        else:
            heard_of = now_ms - max(source.reported_at_ms, ack.received_at_ms)
            is_alive = not source.is_stopped and heard_of <= SILENT_AFTER_MS
        if is_alive:
            alive.append(ack)
    return tuple(alive)

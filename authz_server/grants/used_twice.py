"""What follows when a code or a refresh token is used a second time: what it yielded is blocked.

Two parties then hold everything the grant needs, and nobody can say which of them is the agent
(RFC 6749 §4.1.2, RFC 9700 §2.1.1 and §4.14.2).
"""

from typing import Final

from audit_log.event import EventType, Outcome
from audit_log.transaction_log import append_in
from authz_server.audit_events import made
from authz_server.parts import Parts
from authz_server.store.codes import CodeGrant
from authz_server.store.refresh_tokens import RefreshGrant
from registry.blocks import BlockKind
from registry.revocations import Anyway
from token_exchange.claims import Refusal

AUTHOR: Final = "authz_server"


async def block_yield(
    parts: Parts,
    kind: BlockKind,
    subject_id: str,
    granted: CodeGrant | RefreshGrant,
    *,
    reason: str,
    refusal: Refusal,
    anyway: Anyway = lambda _: None,
) -> None:
    """Block the run or the one token that the first use yielded, and record whose it was.

    The block, its record and what `anyway` does are one transaction. What is blocked already stays
    as it is: the refusal of each further use is recorded by whoever refuses, within its budget.
    """
    record = made(
        parts,
        EventType.BLOCKED,
        Outcome.REVOKED,
        object_ref=f"{kind}/{subject_id}",
        author=AUTHOR,
        client_id=granted.client_id,
        agent=granted.agent,
        user=granted.sub,
        session=granted.sid,
        consent=granted.gid,
        invocation=granted.invocation,
        reasons=(refusal.rule,),
    )

    await parts.revocations.block(
        kind,
        subject_id,
        reason=reason,
        author=AUTHOR,
        once=True,
        also=lambda connection, event: append_in(connection, (record,), event.at_ms),
        anyway=anyway,
    )
    # This process first: it is what the gateways hear it from.
    await parts.live.refresh_after_commit()

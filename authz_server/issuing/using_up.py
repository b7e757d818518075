"""Uses up a code or a refresh token in the write that records what it yields.

That write looks whether there are revocations its process has not judged the token by: between a
cut and the news of it nothing is issued (`authz_server.token_phases`).
"""

import contextlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from audit_log.event import AuditEvent
from audit_log.transaction_log import append_in
from authz_server.parts import Parts
from authz_server.token_phases import Planned
from authz_server.token_request import UseUp
from database.errors import DatabaseBusyError
from registry.counters import REVOCATION_SEQUENCE, value_of
from token_exchange.claims import Refusal

MOST_LOOKS: Final = 3  # at news that came before the write


class OvertakenError(Exception):
    """There are revocations nobody here has judged by: nothing was written."""


async def used_up_unless_revoked(
    parts: Parts, planned: Planned, use_up: UseUp, events: Sequence[AuditEvent]
) -> Refusal | None:
    """Use up and record `events`; a refusal if it was used or what it rests on revoked meanwhile.

    Raises:
        DatabaseError: nothing was used up.
    """
    for _ in range(MOST_LOOKS):
        judged = parts.live.blocks.sequence
        revoked = planned.revoked_since()
        if revoked is not None:
            return revoked

        def recorded(connection: Connection, judged: int = judged) -> None:
            if value_of(connection, REVOCATION_SEQUENCE) != judged:
                raise OvertakenError
            append_in(connection, events, int(parts.clock() * 1000))

        with contextlib.suppress(OvertakenError):
            return await use_up(recorded)
        await parts.live.refresh()
    raise DatabaseBusyError("revocations keep coming while a token is issued")

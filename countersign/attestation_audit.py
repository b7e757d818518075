"""How an attestation, issued or refused, becomes an audit event.

Also the place that says aloud when an agent runs as the server's own user: such an agent could
read the server's files, whatever its token allows (docs/architecture.md, "Threat model").
"""

import os
from collections.abc import Callable

import structlog

from audit_log.event import AuditEvent, EventType, Outcome, PrincipalKind, iso_timestamp
from audit_log.refusal_budgets import RefusalBudgets, with_left_out
from audit_log.spool import Spool
from idp_connectors.workload.attestation_listener import AttestationRecord
from idp_connectors.workload.unix_process import METHOD
from token_exchange.identifiers import new_id

_logger = structlog.get_logger(__name__)


def attestation_recorder(
    spool: Spool,
    clock: Callable[[], float],
    random: Callable[[int], bytes],
    budgets: RefusalBudgets,
) -> Callable[[AttestationRecord], None]:
    """Writes each record to the spool; raises when it cannot be made durable.

    The kernel proves a user's id, so a refusal counts against that user's budget.
    """
    has_warned = False

    def record(seen: AttestationRecord) -> None:
        nonlocal has_warned
        issued = seen.error_code is None
        if issued and seen.uid == os.geteuid() and not has_warned:
            has_warned = True  # once per start is enough
            _logger.warning("agent.runs_as_the_server", uid=seen.uid, subject=seen.subject)
        left_out = 0 if issued else budgets.admit(f"local:{seen.uid}", clock())
        if left_out is None:
            return
        detail = ": ".join(part for part in (seen.provider, seen.detail) if part) or None
        spool.append(
            AuditEvent(
                event_id=new_id("evt", random),
                timestamp=iso_timestamp(clock()),
                type=EventType.ATTESTATION_ISSUED if issued else EventType.ATTESTATION_REFUSED,
                outcome=Outcome.SUCCEEDED if issued else Outcome.DENIED,
                principal_kind=PrincipalKind.NONE,
                workload_svid=seen.subject,
                workload_type=METHOD,
                token_issued=issued,
                token_id=seen.attestation_id,
                error_code=seen.error_code,
                evidence={
                    **seen.evidence,
                    "unix.uid": str(seen.uid),
                    "unix.pid": str(seen.pid),
                },
                detail=with_left_out(detail, left_out),
            )
        )

    return record

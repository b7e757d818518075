"""Everything the path of a call is made of, as one frozen value.

Built by `countersign.composition` with `assemble`; nothing below reads a setting, a clock or a
source of randomness that is not in here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audit_log.spool import Spool
from mcp_gateway.audit_trail import AuditTrail
from mcp_gateway.authority import Authority
from mcp_gateway.caller_cache import CallerCache
from mcp_gateway.clock import Clock
from mcp_gateway.decisions import DecisionCache
from mcp_gateway.enforcement import Enforcement
from mcp_gateway.eras.sealed_session import PURPOSE as SESSION_PURPOSE
from mcp_gateway.eras.sealed_session import SessionSeal
from mcp_gateway.eras.sessions import Sessions
from mcp_gateway.exchange_client import ExchangeClient
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.open_calls import OpenCalls
from mcp_gateway.proof_memory import Proofs
from mcp_gateway.upstream.protocol import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a call needs. `clock` is Unix seconds, `monotonic` never goes back."""

    clock: Clock
    monotonic: Clock
    random: Callable[[int], bytes]
    enforcement: Enforcement
    callers: CallerCache
    proofs: Proofs
    decisions: DecisionCache
    exchange: ExchangeClient
    upstream: Upstream
    open_calls: OpenCalls
    sessions: Sessions
    audit: AuditTrail


def assemble(
    *,
    clock: Clock,
    monotonic: Clock,
    random: Callable[[int], bytes],
    key: GatewayKey,
    spool: Spool,
    authority: Authority,
    upstream: Upstream,
    proofs: Proofs,
    owner: str = "",
) -> Parts:
    """The parts of one worker, with empty caches and nothing to enforce yet.

    `owner` is its name in the ids of legacy sessions, where there are other workers.
    """
    enforcement = Enforcement(monotonic)
    return Parts(
        clock=clock,
        monotonic=monotonic,
        random=random,
        enforcement=enforcement,
        callers=CallerCache(),
        proofs=proofs,
        decisions=DecisionCache(),
        exchange=ExchangeClient(authority=authority, key=key, enforcement=enforcement, clock=clock),
        upstream=upstream,
        open_calls=OpenCalls(),
        sessions=Sessions(SessionSeal(key.derived(SESSION_PURPOSE), random), random, owner),
        audit=AuditTrail(spool, clock=clock, random=random),
    )

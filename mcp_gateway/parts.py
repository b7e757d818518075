"""Everything the path of a call is made of, as one frozen value.

Built by `countersign.composition` with `assemble`; nothing below reads a setting, a clock or a
source of randomness that is not in here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audit_log.spool import Spool
from mcp_gateway.audit_trail import AuditTrail
from mcp_gateway.authority import Authority
from mcp_gateway.bounded_memory import ProofMemory
from mcp_gateway.caller_cache import CallerCache
from mcp_gateway.clock import Clock
from mcp_gateway.decisions import DecisionCache
from mcp_gateway.enforcement import Enforcement
from mcp_gateway.exchange_client import ExchangeClient
from mcp_gateway.gateway_key import GatewayKey
from mcp_gateway.open_calls import OpenCalls
from mcp_gateway.upstream.protocol import Upstream
from token_exchange.proof_of_possession import PROOF_LEEWAY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a call needs. `clock` is Unix seconds, `monotonic` never goes back."""

    clock: Clock
    monotonic: Clock
    random: Callable[[int], bytes]
    enforcement: Enforcement
    callers: CallerCache
    proofs: ProofMemory
    decisions: DecisionCache
    exchange: ExchangeClient
    upstream: Upstream
    open_calls: OpenCalls
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
    started_at: float | None,
) -> Parts:
    """The parts of one worker, with empty memories and nothing to enforce yet.

    `started_at` is the start of this process in Unix seconds, if another may have served before
    it: what proofs that one saw is forgotten. None: no proof was ever accepted here before.
    """
    enforcement = Enforcement(monotonic)
    return Parts(
        clock=clock,
        monotonic=monotonic,
        random=random,
        enforcement=enforcement,
        callers=CallerCache(),
        proofs=ProofMemory(blind_until=blind_until(started_at)),
        decisions=DecisionCache(),
        exchange=ExchangeClient(authority=authority, key=key, enforcement=enforcement, clock=clock),
        upstream=upstream,
        open_calls=OpenCalls(),
        audit=AuditTrail(spool, clock=clock, random=random),
    )


def blind_until(started_at: float | None) -> int:
    """Up to which second of issue a proof may have been used before a process began.

    The process before took proofs from clocks that are ahead by up to the leeway.
    """
    return 0 if started_at is None else int(started_at) + PROOF_LEEWAY_SECONDS

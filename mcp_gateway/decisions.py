"""Step 6: policy's answer to one call, cached by everything it depends on.

The key is the policy set's own (`CompiledPolicySet.decision_key`: principal, action, resource and
the values of every path the applicable policies read), under one view generation; an entry ends
at the earliest time boundary it depends on. No policies, or an error, is a denial.
"""

from dataclasses import dataclass
from typing import Final

from mcp_gateway.bounded_memory import LeastRecentlyUsed
from mcp_gateway.compiled_view import CompiledView
from policies.decision import Category, Code, Decision
from policies.entities import CallRequest

MAXIMUM_DECISIONS: Final = 65_536


@dataclass(frozen=True, slots=True)
class _Cached:
    decision: Decision
    valid_until_ms: int | None


class DecisionCache:
    """Decides, and remembers what it may."""

    def __init__(self, capacity: int = MAXIMUM_DECISIONS) -> None:
        """Take how many decisions are kept."""
        self._cache: LeastRecentlyUsed[tuple[int, object], _Cached] = LeastRecentlyUsed(capacity)

    def decide(self, view: CompiledView, request: CallRequest) -> Decision:
        """The decision under `view`; never older than the facts it read."""
        policies = view.policies
        if policies is None:
            return DENIED_WITHOUT_POLICIES
        fingerprint = policies.decision_key(request)
        if fingerprint is None:
            return policies.decide_call(request)
        key = (view.generation, fingerprint)
        cached = self._cache.get(key)
        if cached is not None:
            until = cached.valid_until_ms
            if until is None or request.now_ms < until:
                return cached.decision
        decision = policies.decide_call(request)
        self._cache.put(key, _Cached(decision, policies.decision_valid_until_ms(request)))
        return decision


DENIED_WITHOUT_POLICIES: Final = Decision(
    allowed=False,
    code=Code.POLICY_ERROR,
    category=Category.TEMPORARILY_BLOCKED,
    failed_conditions=("the policy set of the snapshot did not compile in this gateway",),
)

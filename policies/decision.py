"""What a decision says. A denial is a value, not an exception."""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Why a request was allowed or not."""

    ALLOWED = "allowed"
    NO_PERMIT = "no_permit"
    FORBIDDEN = "forbidden"
    POLICY_ERROR = "policy_error"
    REQUEST_INVALID = "request_invalid"


class Category(StrEnum):
    """What a denied agent may know of the kind of denial."""

    NOT_PERMITTED = "not_permitted"
    NEEDS_APPROVAL = "needs_approval"
    NEEDS_STEP_UP = "needs_step_up"
    QUOTA = "quota"
    TEMPORARILY_BLOCKED = "temporarily_blocked"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome for one request.

    `policies`: the ids that decided, sorted. `reasons` and `remedies` may be shown to the agent;
    `failed_conditions` only to operators. `ttl_seconds` and `scopes` bound what an allowed request
    may lead to; None is no bound. `category` is None exactly when allowed.
    """

    allowed: bool
    code: Code
    category: Category | None = None
    policies: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    failed_conditions: tuple[str, ...] = ()
    ttl_seconds: int | None = None
    scopes: tuple[str, ...] | None = None

"""Which block or epoch refuses something, in words for the audit, and the refusal. Pure."""

from collections.abc import Iterable

from registry.blocks import BlockState, Subject
from token_exchange.claims import Refusal


def refused_as_revoked(detail: str, rule: str) -> Refusal:
    """The refusal of whatever was cut off: one answer, by whatever it was learned."""
    return Refusal("invalid_grant", "This access has been revoked.", detail, rule)


def what_revokes(blocks: BlockState, subjects: Iterable[Subject], made_at: int) -> str | None:
    """The first of `subjects` that is blocked, or cut off after `made_at` (NumericDate seconds)."""
    hit = blocks.first_hit(subjects, made_at)
    if hit is None:
        return None
    how = "blocked" if hit.blocked else "cut off until its epoch"
    return f"{hit.subject.kind} {hit.subject.id} is {how}"

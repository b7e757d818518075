"""Which block or epoch refuses something, in words for the audit. Pure."""

from collections.abc import Iterable

from registry.blocks import BlockState, Subject


def what_revokes(blocks: BlockState, subjects: Iterable[Subject], made_at: int) -> str | None:
    """The first of `subjects` that is blocked, or cut off after `made_at` (NumericDate seconds)."""
    hit = blocks.first_hit(subjects, made_at)
    if hit is None:
        return None
    how = "blocked" if hit.blocked else "cut off until its epoch"
    return f"{hit.subject.kind} {hit.subject.id} is {how}"

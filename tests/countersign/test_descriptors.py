"""What strangers hold always leaves descriptors for admin socket, database and spool."""

from typing import Any

import pytest

from countersign.descriptors import (
    MAXIMUM_CONNECTIONS,
    MINIMUM_CONNECTIONS,
    RESERVED,
    backlog_for,
    connections_allowed,
)

UNLIMITED = -1


def soft(limit: int) -> Any:
    return lambda _resource: (limit, 1 << 20)


@pytest.mark.requirement("attack-30")
@pytest.mark.parametrize(
    ("limit", "each", "allowed"),
    [
        (1024, 1, 1024 - RESERVED),
        (1024, 2, (1024 - RESERVED) // 2),
        (1 << 20, 1, MAXIMUM_CONNECTIONS),
        (UNLIMITED, 1, MAXIMUM_CONNECTIONS),
        (64, 1, MINIMUM_CONNECTIONS),
    ],
)
def test_connections_leave_the_reserve_free(limit: int, each: int, allowed: int) -> None:
    assert connections_allowed(each, soft(limit)) == allowed


def test_backlog_fits_into_what_is_reserved_at_the_usual_limit() -> None:
    assert backlog_for(connections_allowed(1, soft(1024))) < RESERVED

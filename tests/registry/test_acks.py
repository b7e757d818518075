"""What the gateways' workers confirmed."""

import asyncio
from dataclasses import replace

import pytest

from database.engine import Database
from registry.acks import (
    FORGET_WORKER_AFTER_MS,
    MAXIMUM_ACKS_PER_WORKER,
    MAXIMUM_WORKERS_PER_GATEWAY,
    Ack,
    AckStore,
)

ACK = Ack("demo", "w1", sequence=1, version=1, applied_at_ms=1_000_030, received_at_ms=1_000_041)


@pytest.fixture
def acks(database: Database) -> AckStore:
    return AckStore(database)


def record(acks: AckStore, *recorded: Ack) -> None:
    for ack in recorded:
        asyncio.run(acks.record_ack(ack))


def test_acks_for_a_sequence_are_each_workers_first_that_contains_it(acks: AckStore) -> None:
    later = replace(ACK, sequence=5, received_at_ms=ACK.received_at_ms + 100)
    latest = replace(ACK, sequence=6, received_at_ms=ACK.received_at_ms + 200)
    other = replace(ACK, worker="w2", sequence=2, received_at_ms=ACK.received_at_ms + 50)
    record(acks, ACK, later, latest, other)
    assert acks.acks_for(1) == (ACK, other)
    assert acks.acks_for(3) == (later,)
    assert acks.acks_for(7) == ()
    assert acks.workers() == (latest, other)


def test_ack_sent_again_keeps_the_first_time(acks: AckStore) -> None:
    record(acks, ACK, replace(ACK, received_at_ms=ACK.received_at_ms + 999))
    assert acks.workers() == (ACK,)


def test_acks_of_a_worker_are_bounded(acks: AckStore) -> None:
    for sequence in range(MAXIMUM_ACKS_PER_WORKER + 20):
        record(acks, replace(ACK, sequence=sequence, received_at_ms=ACK.received_at_ms + sequence))
    first = acks.acks_for(0)[0]
    assert first.sequence == 20
    assert acks.workers()[0].sequence == MAXIMUM_ACKS_PER_WORKER + 19


def test_workers_of_a_gateway_are_bounded_and_others_stay(acks: AckStore) -> None:
    other = replace(ACK, gateway="other")
    record(acks, other)
    for number in range(MAXIMUM_WORKERS_PER_GATEWAY + 3):
        at_ms = ACK.received_at_ms + number
        record(acks, replace(ACK, worker=f"w{number}", received_at_ms=at_ms))
    kept = {(ack.gateway, ack.worker) for ack in acks.workers()}
    assert len(kept) == MAXIMUM_WORKERS_PER_GATEWAY + 1
    assert ("other", "w1") in kept
    assert ("demo", "w2") not in kept


def test_worker_that_never_came_back_is_forgotten(acks: AckStore) -> None:
    record(acks, ACK)
    fresh = replace(
        ACK, worker="w2", received_at_ms=ACK.received_at_ms + FORGET_WORKER_AFTER_MS + 1
    )
    record(acks, fresh)
    assert acks.workers() == (fresh,)

"""A listener holds so many connections; whoever holds one and asks nothing goes first."""

from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from listeners.bounded_connections import WRITE_SECONDS, Room, WriteDeadline


def connection() -> HttpToolsProtocol:
    return cast("HttpToolsProtocol", object())


@pytest.mark.requirement("attack-30")
def test_room_closes_the_connection_that_waited_longest_without_a_request() -> None:
    room = Room(lambda: 3)
    served, idle, fresh, new = (connection() for _ in range(4))
    assert [room.enter(one) for one in (served, idle, fresh)] == [None, None, None]
    room.begins(served)
    assert room.enter(new) is idle
    assert len(room) == 3


@pytest.mark.requirement("attack-30")
def test_room_closes_the_new_one_when_all_have_a_request() -> None:
    room = Room(lambda: 2)
    first, second, new = (connection() for _ in range(3))
    for one in (first, second):
        assert room.enter(one) is None
        room.begins(one)
    assert room.enter(new) is new
    assert len(room) == 2
    room.ends(first)
    assert room.enter(connection()) is first


def test_room_forgets_who_left_and_never_takes_back_who_was_closed() -> None:
    room = Room(lambda: 1)
    first, second = connection(), connection()
    room.enter(first)
    assert room.enter(second) is first
    room.begins(first)  # its request was already on the way
    room.ends(first)
    room.leave(first)
    assert len(room) == 1
    room.leave(second)
    assert len(room) == 0


class _Loop:
    """Remembers what is to happen when."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any]] = []

    def call_later(self, seconds: float, callback: Any) -> "_Handle":
        self.later.append((seconds, callback))
        return _Handle(self)


class _Handle:
    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def cancel(self) -> None:
        self._loop.later.clear()


class _Flow:
    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class _Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.requirement("attack-30")
def test_peer_that_takes_nothing_of_its_answer_is_cut_off() -> None:
    writing: Any = WriteDeadline.__new__(WriteDeadline)
    loop, transport = _Loop(), _Transport()
    writing.loop, writing.transport, writing.flow = loop, transport, _Flow()
    writing.pause_writing()
    writing.pause_writing()  # one deadline, however often
    ((seconds, callback),) = loop.later
    assert seconds == WRITE_SECONDS
    writing.resume_writing()
    assert loop.later == []  # it took enough
    callback()
    assert transport.aborted

"""`make run` says who holds a port it needs."""

import os
import socket

import pytest

from compose.demo.port_owners import owner_of

pytestmark = pytest.mark.processes  # a real port


def test_owner_of_a_port_is_named_with_its_command() -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        assert owner_of(mine.getsockname()[1]).startswith(f"pid {os.getpid()}: ")
    assert "another user" in owner_of(1)

"""Installs and runs the servers nobody here wrote, for the tests that talk to them.

A server is a module beside this one with `install()` (idempotent, under a lock, into the cache)
and a context manager that starts it on ports of its own and ends it. How is
`compose.services.installing`, which the demo uses as well.

A server that cannot be installed raises `CannotInstallError`: `service` then fails the test where
`COUNTERSIGN_REQUIRE_SERVICES` is set (as in CI) and skips it, saying why, anywhere else.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest

from compose.services.installing import (
    INSTALL_SECONDS,
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    CannotInstallError,
    DidNotStartError,
    Server,
    answers,
    cache,
    installing,
    node_modules,
    python_environment,
    run,
    started,
)

__all__ = [
    "INSTALL_SECONDS",
    "POLL_SECONDS",
    "START_SECONDS",
    "STOP_SECONDS",
    "CannotInstallError",
    "DidNotStartError",
    "Server",
    "answers",
    "cache",
    "installing",
    "node_modules",
    "python_environment",
    "run",
    "service",
    "started",
]


@contextlib.contextmanager
def service(name: str) -> Iterator[None]:
    """Around a fixture's installation: fail where the servers are required, else skip aloud."""
    try:
        yield
    except CannotInstallError as error:
        text = f"{name} cannot be installed here: {error}"
        if os.environ.get("COUNTERSIGN_REQUIRE_SERVICES"):  # noqa: TID251 - the tests' own knob
            pytest.fail(text)
        pytest.skip(text)

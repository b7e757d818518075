"""What holds for every test: stable names, and no network outside tests that say so."""

import pytest
import pytest_socket
import structlog

from tests.databases import (
    database_url,
    database_url_with_tables,
    empty_database_url,
    postgresql_server,
)

__all__ = ["database_url", "database_url_with_tables", "empty_database_url", "postgresql_server"]

LONG = 60


def pytest_configure() -> None:
    """Plain lines: structlog's own default draws each traceback with its variables, for seconds."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts are tokens signed at import: their names would differ in each worker."""
    return argname if isinstance(val, str | bytes) and len(val) > LONG else None


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Unit tests open no network socket; Unix sockets are local files."""
    if item.get_closest_marker("processes") is None and item.get_closest_marker("slow") is None:
        pytest_socket.disable_socket(allow_unix_socket=True)


def pytest_runtest_teardown() -> None:
    """The next test decides anew."""
    pytest_socket.enable_socket()

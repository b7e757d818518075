"""A log loses lines rather than fail, and tells where a failure was without what was held there."""

import io
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from countersign.logging import configure
from countersign.settings import ProcessSettings


class FullDisk(io.StringIO):
    """Refuses every write while it is full."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)

    def flush(self) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    was, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**was)
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_log_disk_full_loses_the_line_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk()
    monkeypatch.setattr(sys, "stderr", disk)
    configure(ProcessSettings(log_format="json"), "test")
    logger = structlog.get_logger()
    logger.warning("lost")
    logging.getLogger("a library").warning("lost")
    disk.is_full = False
    logger.warning("kept")
    assert "lost" not in disk.getvalue()
    assert '"event": "kept"' in disk.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_log_of_a_failure_names_its_place_and_no_local_variable(
    form: Literal["json", "console"], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    configure(ProcessSettings(log_format=form), "test")

    def fail() -> None:
        token = "held" + "-in-a-local-variable"
        raise KeyError(len(token))

    for name in ("ours", "a library"):
        logger = structlog.get_logger() if name == "ours" else logging.getLogger(name)
        try:
            fail()
        except KeyError:
            logger.exception("failed")
    assert output.getvalue().count("in fail") == 2
    assert "held-in-a-local-variable" not in output.getvalue()

"""structlog, once per process: JSON lines to standard error unless a person is watching."""

import logging
import sys
from typing import Any, TextIO

import structlog

from countersign.settings import ProcessSettings


class _NeverFailing:
    """A stream that loses a line rather than fail: a full disk under the log refuses no request.

    What must not be lost is in the audit, which has a file of its own and does refuse.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return


def configure(settings: ProcessSettings, process: str) -> None:
    """Log events of `process`; libraries' own records pass through the same renderer.

    Authlib logs issued tokens at DEBUG, so it is held at INFO whatever is asked for.
    """
    output: Any = _NeverFailing(sys.stderr)
    level = getattr(logging, settings.log_level.upper())
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not sys.stderr.isatty()
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A traceback is text before it is rendered: structlog's own, for a terminal, shows the local
    # variables of every frame, and those hold tokens.
    rendered: list[Any] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    for noisy in ("alembic", "authlib", "httpx2", "httpcore2", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Which sources of a spool belong to nobody any more, and what is left of them once pushed.

The caller holds the lock of the spool's root directory, so that no two processes adopt one source.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from audit_log.orphans import DAMAGED_SUFFIX, adopt_source_log
from audit_log.source_log import SourceLog

_logger = structlog.get_logger(__name__)


def dead_sources(root: Path, *, now: float, new_event_id: Callable[[], str]) -> Iterator[SourceLog]:
    """The logs of dead processes below `root`, each repaired and ended as it is taken.

    One that cannot be read or repaired now is left as it is and reported in the log. `now` is in
    Unix seconds.
    """
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        if directory.suffix == DAMAGED_SUFFIX:
            continue
        try:
            log = adopt_source_log(directory, now=now, new_event_id=new_event_id)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _logger.warning(
                "audit_spool_not_adopted",
                source=directory.name,
                error=type(error).__name__,
            )
            continue
        if log is not None:
            yield log


def let_go(log: SourceLog) -> None:
    """Delete an adopted source that is pushed; keep a damaged one as evidence."""
    if log.damaged:
        log.close()
        log.directory.rename(log.directory.with_name(log.source + DAMAGED_SUFFIX))
    else:
        log.remove()

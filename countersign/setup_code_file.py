"""The file of the setup code: there while the code is good, and no longer.

0600 in `run_dir`. Whoever redeems the code may do so at another server of the same database, so
the file asks the database, each second, and goes when there is an admin, when the code has expired
or when a newer one replaced it. A database that does not answer is asked again: the file stays.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from admin_console.setup_codes import LIFETIME_SECONDS, SetupCodes
from countersign.login_file import write_private
from database.errors import DatabaseError

ASK_SECONDS: Final = 1.0

_logger = structlog.get_logger(__name__)


class SetupCodeFile:
    """Hands out one setup code, and takes its file away again."""

    def __init__(
        self,
        path: Path,
        codes: SetupCodes,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Take where the file belongs; `clock` tells NumericDate seconds."""
        self._path = path
        self._codes = codes
        self._clock = clock
        self._sleep = sleep
        self._code: str | None = None

    def hand_out(self) -> None:
        """While nobody is admin: a code, to the file and to a terminal, never to a log."""
        self._code = self._codes.create_now(int(self._clock()))
        if self._code is None:
            self._path.unlink(missing_ok=True)
            return
        write_private(self._path, self._code + "\n")
        minutes = LIFETIME_SECONDS // 60
        _logger.info("setup.code_written", path=str(self._path), valid_minutes=minutes)
        if sys.stderr.isatty():
            text = f"\nSetup code ({minutes} minutes, for `countersign setup`): {self._code}\n\n"
            sys.stderr.write(text)

    async def run(self) -> None:
        """Remove the file once its code is good for nothing; ends then."""
        while self._code is not None:
            if not await self._is_open(self._code):
                self._path.unlink(missing_ok=True)
                return
            await self._sleep(ASK_SECONDS)

    async def _is_open(self, code: str) -> bool:
        try:
            return await asyncio.to_thread(self._codes.is_open, code, int(self._clock()))
        except DatabaseError:
            return True
